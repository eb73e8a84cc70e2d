"""A folder sent to the Hugging Face hub by its own client, which sends only what is not there."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelstore.errors import (
    LabelStoreError,
    MismatchError,
    NotFoundError,
    StoreError,
    one_line,
    require_packages,
)
from labelstore.storage.local_files import PARTIAL
from labelstore.storage.remote.hub import HubPlace, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["HubUpload", "Upload"]

MANIFESTS = ("zarr.json", "manifest.json")
"""What makes a folder a store, by format: sent last."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Upload:
    """What is sent."""

    root: Path
    """The store's folder."""
    files: tuple[Path, ...]
    """All of its files."""
    message: str
    """Of the commits."""
    last: Mapping[str, bytes]
    """Files of the repository that are sent with the manifest, by name."""
    kept: tuple[str, ...]
    """Those of them that stay as they are where others are there."""
    private: bool
    overwrite: bool


class HubUpload:
    """Sends to a folder of a data set's repository, which is made if it is not there.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
    """

    def __init__(self, place: HubPlace, quiet: bool) -> None:
        require_packages("publishing on the hub", "huggingface_hub", extra="hub")
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if quiet:
            disable_progress_bars()
        self._place = place
        self._api = HfApi(endpoint=endpoint())
        self._where: dict[str, Any] = {
            "repo_id": place.repository,
            "repo_type": "dataset",
            "revision": place.revision,
        }

    def send(self, upload: Upload) -> tuple[str, dict[str, str]]:
        """Send a store.

        Returns:
            the commit that has all of it; and of each file of ``upload.last`` whether it was
            ``written``, ``unchanged``, or ``kept``.

        Raises:
            MismatchError: other files are in the folder, or the repository is public and should be
            private. NotFoundError: access is denied. StoreError: the hub does not answer, or leaves
            files out.
        """
        with self._explained():
            self._make_repository(upload.private)
            files = self._files_of(self._place.path)
            others = self._others(files, upload)
            if others and not upload.overwrite:
                raise MismatchError(
                    f"{self._place.url} has other files already ({others[0]}, {len(others)} in "
                    "all): publish under another name, or have them overwritten.",
                    arguments=("overwrite",),
                )
            states = self._states(upload)
            self._send_labels(upload, others)
            self._require_all(upload)
            return self._finish(upload, states), states

    def _make_repository(self, private: bool) -> None:
        # None leaves it to the owner's settings.
        self._api.create_repo(
            self._place.repository,
            repo_type="dataset",
            private=True if private else None,
            exist_ok=True,
        )
        if private:
            info = self._api.repo_info(self._place.repository, repo_type="dataset")
            if not info.private:
                raise MismatchError(
                    f"{self._place.repository} is public and a private one was asked for: make it "
                    "private on the hub, or name another one. Nothing was sent.",
                    arguments=("private",),
                )
        if self._place.revision not in (None, "main"):
            self._api.create_branch(
                self._place.repository,
                repo_type="dataset",
                branch=self._place.revision,
                exist_ok=True,
            )

    def _files_of(self, folder: str) -> dict[str, Any]:
        """The files in a folder of the repository, by path."""
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        try:
            entries = list(
                self._api.list_repo_tree(path_in_repo=folder, recursive=True, **self._where)
            )
        except EntryNotFoundError:
            return {}
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _others(self, files: Mapping[str, Any], upload: Upload) -> list[str]:
        """Paths in the repository's folder that are not as the store has them."""
        ours = self._ours(upload)
        return sorted(
            path
            for path, entry in files.items()
            if path not in ours
            or not _is_same(entry, _pieces(ours[path]), ours[path].stat().st_size)
        )

    def _ours(self, upload: Upload) -> dict[str, Path]:
        """The store's files by their paths in the repository."""
        root = upload.root
        return {f"{self._place.path}/{f.relative_to(root).as_posix()}": f for f in upload.files}

    def _require_all(self, upload: Upload) -> None:
        """Refuse to go on where the hub or its client has left files out, as .gitignore has it."""
        files = self._files_of(self._place.path)
        left_out = [
            path
            for path, file in self._ours(upload).items()
            if path not in self._manifests(upload)
            and (path not in files or files[path].size != file.stat().st_size)
        ]
        if left_out:
            raise StoreError(
                f"{self._place.url} lacks {len(left_out)} of {len(upload.files)} files after the "
                f"upload ({left_out[0]}): see the repository's .gitignore and whether others write "
                "there, then run the same command again."
            )

    def _manifests(self, upload: Upload) -> dict[str, Path]:
        """The file that makes the folder a store, by its path in the repository."""
        files = {f"{self._place.path}/{name}": upload.root / name for name in MANIFESTS}
        return {path: file for path, file in files.items() if file.is_file()}

    def _states(self, upload: Upload) -> dict[str, str]:
        entries = self._api.get_paths_info(paths=list(upload.last), **self._where)
        entry_of = {entry.path: entry for entry in entries}
        states = {}
        for name, data in upload.last.items():
            if name in entry_of and _is_same(entry_of[name], [data], len(data)):
                states[name] = "unchanged"
            else:
                states[name] = "kept" if name in entry_of and name in upload.kept else "written"
        return states

    def _send_labels(self, upload: Upload, others: list[str]) -> None:
        """All but the manifest; what the store does not have is deleted."""
        ignored = [*MANIFESTS, ".*", "*/.*", f"*{PARTIAL}"]
        self._api.upload_folder(
            folder_path=upload.root,
            path_in_repo=self._place.path,
            commit_message=upload.message,
            ignore_patterns=ignored,
            delete_patterns="*" if others else None,
            **self._where,
        )

    def _finish(self, upload: Upload, states: Mapping[str, str]) -> str:
        from huggingface_hub import CommitOperationAdd

        operations = [
            CommitOperationAdd(path, file) for path, file in self._manifests(upload).items()
        ]
        operations += [
            CommitOperationAdd(name, data)
            for name, data in upload.last.items()
            if states[name] == "written"
        ]
        info = self._api.create_commit(
            operations=operations, commit_message=upload.message, **self._where
        )
        return str(info.oid)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the client's errors into labelstore's."""
        where = self._place.url
        try:
            yield
        except LabelStoreError:
            raise
        except Exception as error:
            cause = _root(error)
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if status in (401, 403):
                raise NotFoundError(
                    f"{where}: access is denied ({one_line(cause)}): set HF_TOKEN to a token that "
                    "may write there, or run hf auth login."
                ) from error
            raise StoreError(
                f"{where} was not published ({one_line(cause)}): check the name and the network, "
                "then run the same command again: what was sent is kept."
            ) from error


def _root(error: BaseException) -> BaseException:
    """Of errors that the client has wrapped, the innermost that a server answered, or the outer."""
    inner: BaseException | None = error
    while inner is not None:
        if hasattr(inner, "response"):
            return inner
        inner = inner.__cause__
    return error


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            yield piece


def _is_same(entry: Any, pieces: Iterable[bytes], size: int) -> bool:
    """Whether a file on the hub holds these bytes: by its digest, as Git or Git LFS has it."""
    if not hasattr(entry, "size") or entry.size != size:
        return False
    lfs = entry.lfs
    digest = hashlib.sha1(f"blob {size}\0".encode()) if lfs is None else hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return bool(digest.hexdigest() == (entry.blob_id if lfs is None else lfs.sha256))
