"""Put a store where others find it: on the Hugging Face hub, or in a bucket; with a card and a
preview of a sample."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from labelstore.errors import CorruptError, LabelStoreError, UsageError
from labelstore.format.manifest import differences
from labelstore.operations.lifecycle.card import card
from labelstore.operations.lifecycle.hub_upload import HubUpload, Upload
from labelstore.operations.lifecycle.preview import preview
from labelstore.operations.verify import verify
from labelstore.storage.local_files import PARTIAL
from labelstore.storage.location import place_of
from labelstore.storage.remote.hub import HubPlace
from labelstore.storage.remote.objects import RemoteObjects
from labelstore.store.lineage import TEACHERS, origin
from labelstore.store.reissue import reissued
from labelstore.store.rewrite import RewriteReport, write_selection
from labelstore.store.selection import Selection
from labelstore.store.store import Store, opened
from labelstore.store.writer import StoreWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from labelstore.format.manifest import Manifest

    Tell = Callable[[int, int], None]

__all__ = ["Publication", "PublishReport", "publish"]

OPERATION = "publish"

CARD, PREVIEW = "README.md", "preview.parquet"
"""Names in a repository."""


@dataclass(frozen=True)
class Publication:
    """How a store is published.

    Raises:
        UsageError: the card is no file, or one that is to be read was named with a licence.
    """

    private: bool = False
    """Only its owner sees the repository on the hub; one that is public already is refused."""
    revision: str | None = None
    """The hub's branch, made if it is not there; ``main`` when None."""
    license_id: str | None = None
    """Of the labels, as the hub calls it; a field of the card to fill when None."""
    card: Path | None = None
    """A card to take instead of the one that is written."""
    sample: int | None = None
    """How many views of each image the card's numbers are of; as ``inspect`` decides when None."""
    overwrite: bool = False
    """Replace another store, or another card, that is there."""

    def __post_init__(self) -> None:
        if self.card is None:
            return
        if self.license_id is not None:
            raise UsageError(
                f"the card {self.card} and the licence {self.license_id} were given: write the "
                "licence into the card.",
                arguments=("license_id",),
            )
        if not self.card.is_file():
            raise UsageError(f"the card {self.card} is no file: name one, or none.")


@dataclass(frozen=True)
class PublishReport(RewriteReport):
    """What a run of ``publish`` did, or would do."""

    source: str
    id: str
    """Of the store at ``url``."""
    source_id: str
    """Of the one that was published; its labels are the same."""
    url: str
    """Where the store is read from: on the hub at the commit."""
    commit: str | None
    """Of the hub; None elsewhere, and of a dry run."""
    files: int
    """Of the store; those of a bucket as they lie here."""
    bytes: int
    card: str
    """``written``, ``unchanged``, ``kept`` where another was there, or ``none``, of a dry run."""
    card_url: str
    preview_url: str
    dry_run: bool
    seconds: float


def publish(
    store: Store | str | os.PathLike[str],
    url: str,
    how: Publication | None = None,
    *,
    dry_run: bool = False,
    quiet: bool = False,
    tell: Tell | None = None,
) -> PublishReport:
    """Publish a finished store with its card and a preview of a sample.

    The published store has the same labels and, as it tells in its history that it was published,
    an ``id`` of its own; the store here stays as it is. One that was published there already, or
    pulled whole from there, is sent as it is.

    Every block is read and checked before anything is sent. The same call goes on with what an
    interrupted one has sent. On the hub the manifest, the card and the preview are the last commit:
    before it readers find no store there.

    Args:
        store: on a disk, open or as a path; for a bucket it may be remote, too.
        url: ``hf://datasets/OWNER/NAME[/PATH]``, PATH being the store's name when there is none; or
            a store's ``s3://`` or ``gs://``.
        how: see `Publication`.
        dry_run: nothing is sent, nor is anybody asked.
        quiet: the hub's client prints no bars.
        tell: called with the images and views gone through since it was called last, of twice all:
            for the check, and for the card.

    Raises:
        UsageError: a place where nothing can be published, or a store that is not on a disk, for
            the hub. IncompleteError: the store is not finished. CorruptError: it is damaged.
            MismatchError: other labels are there, or the repository is public and should be
            private. NotFoundError: access is denied. StoreError: the service fails.
            MissingPackageError: huggingface_hub or obstore is not installed.
    """
    how = how or Publication()
    store = opened(store)
    store.require_complete()
    place = place_of(url)
    scheme = urlsplit(place).scheme if isinstance(place, str) else "file"
    if scheme == "hf":
        target: _Hub | _Bucket = _Hub(store, HubPlace.of(str(place)), how)
    elif scheme in ("s3", "gs"):
        target = _Bucket(store, str(place), how)
    else:
        raise UsageError(
            f"{url} is no place to publish at, expected hf://datasets/OWNER/NAME[/PATH], s3:// or "
            "gs://: correct it, or copy the store there with labelstore pull."
        )
    started = time.monotonic()
    files, count = _size(store)
    manifest = _published(store, target.told())
    commit, card_state = None, "none"
    if not dry_run:
        problems = verify(store, tell).problems
        if problems:
            raise CorruptError(
                f"{store.path} is damaged and was not published ({problems[0].message}): see "
                "labelstore verify, and labelstore repair."
            )
        manifest = _as_it_is_there(store, manifest, target.url(None))
        with target.issued(manifest) as issued:
            texts = _card(issued, target, how, tell), preview(issued)
            commit, card_state = target.send(issued, *texts, quiet)
    return PublishReport(
        source=str(store.path),
        id=manifest.id,
        source_id=store.id,
        url=target.url(commit),
        commit=commit,
        files=files,
        bytes=count,
        card=card_state,
        card_url=target.beside(CARD),
        preview_url=target.beside(PREVIEW),
        dry_run=dry_run,
        seconds=time.monotonic() - started,
    )


def _published(store: Store, place: dict[str, str]) -> Manifest:
    """A store's manifest once it is published.

    Args:
        place: what the history says of the place.
    """
    manifest = store.manifest
    last = manifest.origin
    if (
        last is not None
        and last["operation"] == OPERATION
        and last["settings"].get("url") == place.get("url")
    ):
        return manifest
    settings: dict[str, Any] = {**place, "labels": store.reader.commits_digest()}
    if manifest.teacher is None:
        settings[TEACHERS] = [dict(teacher) for teacher in manifest.teachers]
    return replace(manifest, origin=origin(OPERATION, [store], settings))


def _as_it_is_there(store: Store, manifest: Manifest, url: str) -> Manifest:
    """The manifest that a store of these labels has at a place, as another release may have written
    it, or else the new one."""
    try:
        published = Store(url).manifest
    except LabelStoreError:
        return manifest
    same = published.id == store.id or not differences(published, manifest)
    return published if same else manifest


def _card(store: Store, target: _Hub | _Bucket, how: Publication, tell: Tell | None) -> bytes:
    if how.card is not None:
        return how.card.read_bytes()
    text = card(
        store,
        url=target.url(None),
        preview=target.beside(PREVIEW).rpartition("/")[2],
        license_id=how.license_id,
        sample=how.sample,
        tell=tell,
    )
    return text.encode()


def _size(store: Store) -> tuple[int, int]:
    """Files and bytes of a store on a disk; of a remote one its parts."""
    if isinstance(store.path, Path):
        sizes = [file.stat().st_size for file in store_files(store.path)]
    else:
        sizes = list(store.bytes_by_part().values())
    return len(sizes), sum(sizes)


def store_files(root: Path) -> list[Path]:
    """A store's files, sorted, without locks and what is not finished."""
    return sorted(
        file
        for file in root.rglob("*")
        if file.is_file()
        and not file.name.endswith(PARTIAL)
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
    )


class _Hub:
    """A folder in a data set's repository; the card and the preview are the repository's."""

    def __init__(self, store: Store, place: HubPlace, how: Publication) -> None:
        if not isinstance(store.path, Path):
            raise UsageError(
                f"{store.path} is not on a disk, and the hub's client sends files: labelstore pull "
                "it first."
            )
        if None not in (how.revision, place.revision) and how.revision != place.revision:
            raise UsageError(
                f"the URL names revision {place.revision} and the option {how.revision}: give one.",
                arguments=("revision",),
            )
        branch = how.revision or place.revision
        if place.at(branch).is_pinned:
            raise UsageError(
                f"{branch} is a commit, which never changes, expected a branch: name one.",
                arguments=("revision",),
            )
        self._place = HubPlace(
            place.owner, place.name, branch, place.path or store.path.absolute().name
        )
        self._store, self._how = store, how

    def url(self, commit: str | None) -> str:
        return self._place.at(commit or self._place.revision).url

    def told(self) -> dict[str, str]:
        """Without the branch: of several branches it is one store."""
        return {"url": self._place.at(None).url}

    @contextlib.contextmanager
    def issued(self, manifest: Manifest) -> Iterator[Store]:
        """The store that is sent."""
        if manifest.id == self._store.id:
            yield self._store
            return
        with reissued(self._store, manifest) as issued:
            yield issued

    def beside(self, name: str) -> str:
        return HubPlace(self._place.owner, self._place.name, self._place.revision, name).url

    def send(self, issued: Store, card: bytes, preview: bytes, quiet: bool) -> tuple[str, str]:
        root = Path(issued.path)
        upload = Upload(
            root=root,
            files=tuple(store_files(root)),
            message=f"Soft labels: {issued.id}",
            last={CARD: card, PREVIEW: preview},
            kept=() if self._how.overwrite else (CARD,),
            private=self._how.private,
            overwrite=self._how.overwrite,
        )
        commit, states = HubUpload(self._place, quiet).send(upload)
        return commit, states[CARD]


class _Bucket:
    """A store in a bucket; the card and the preview lie beside it, under its name."""

    def __init__(self, store: Store, url: str, how: Publication) -> None:
        if how.private or how.revision is not None:
            raise UsageError(
                f"{url} is in a bucket, which has no revisions and its own access rules: leave "
                "these to the hub.",
                arguments=("private", "revision"),
            )
        self._store, self._url, self._how = store, url, how

    def url(self, _commit: str | None) -> str:
        return self._url

    def told(self) -> dict[str, str]:
        """Nothing: where a bucket lies is nobody else's business."""
        return {}

    @contextlib.contextmanager
    def issued(self, manifest: Manifest) -> Iterator[Store]:
        """The store in the bucket, written block by block."""
        store = self._store
        with StoreWriter(
            self._url, manifest, store.keys, store.targets, overwrite=self._how.overwrite
        ) as writer:
            if manifest.id == store.id:
                writer.check_commits(store.reader.all_commits)
            write_selection(writer, Selection.of_store(store))
        yield Store(self._url)

    def beside(self, name: str) -> str:
        return f"{self._url}.{name}"

    def send(self, _issued: Store, card: bytes, preview: bytes, _quiet: bool) -> tuple[None, str]:
        folder, _, name = self._url.rpartition("/")
        objects = RemoteObjects(folder)
        objects.put(f"{name}.{PREVIEW}", preview)
        return None, self._put_card(objects, f"{name}.{CARD}", card)

    def _put_card(self, objects: RemoteObjects, name: str, card: bytes) -> str:
        try:
            stored: bytes | None = objects.get(name)
        except FileNotFoundError:
            stored = None
        if stored == card:
            return "unchanged"
        if stored is not None and not self._how.overwrite:
            return "kept"
        objects.put(name, card)
        return "written"
