"""The images of WebDataset's tar shards."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from labelstore.errors import SourceError
from labelstore.images.formats import IMAGE_SUFFIXES, is_image_name
from labelstore.images.sources.classes import check_key, classes_of_keys, classes_of_labels
from labelstore.images.sources.folder import no_image
from labelstore.images.sources.listing import files_at
from labelstore.images.sources.passed_over import PassedOver
from labelstore.images.sources.tar_members import TarDamageError, compression_of, members
from labelstore.storage.location import place_of

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from labelstore.images.sources.classes import SourceClasses
    from labelstore.images.sources.source_files import SourceFiles
    from labelstore.images.sources.tar_members import Member

__all__ = ["TarSource", "key_and_field"]

_MOST_CLASS_BYTES = 2**12
"""Of a ``.cls`` member."""

_MOST_LINKS = 40
"""Links that are followed from one to the next, as Linux does."""


class _Place(NamedTuple):
    """Where an image lies in the shards."""

    shard: int
    offset: int
    size: int


class _Index(NamedTuple):
    """What a shard holds, in the order of its members."""

    files: list[tuple[str, int, int]]
    """Name, offset and bytes."""
    classes: dict[str, str]
    """Key -> text of the ``.cls`` member."""


class TarSource:
    """The images of WebDataset's shards.

    As there, a sample is the files of one name up to the first dot of the file's own name, which is
    its key (``__key__``), and what follows that dot is the field: ``a/1.jpg`` and ``a/1.cls`` are
    fields ``jpg`` and ``cls`` of the sample ``a/1``; ``a/1.input.jpg`` is its field ``input.jpg``.
    Its image is the field that is an image's suffix, else the one that ends in such a suffix; its
    class what its ``cls`` says (a class id, -1 for unknown, or a name), else the key's first path
    component. Links to members are read as what they name. Shards are ``*.tar``, not compressed;
    their headers are read once, then images at random.

    Args:
        path: a shard, a folder of shards, or a glob or brace list of them.
        image_field: the image's field; several by ``;``, of which a sample has one.

    Attributes: those of ``FolderSource``, and ``numbers``: (N,) int64 class ids as the ``cls``
        fields give them, -1 unknown, or None.

    Raises:
        SourceError: a shard cannot be read to its end, none holds an image, two samples have one
            key, or a sample has several images.
    """

    def __init__(self, path: str | os.PathLike[str], image_field: str | None = None) -> None:
        self.path = place_of(path)
        self._files = files_at(path, ".tar")
        self.passed_over = PassedOver()
        for name in self._files.others:
            self.passed_over.add(name)
        asked = None if image_field is None else set(image_field.lower().split(";"))
        calls = (functools.partial(_index, self._files, n) for n in range(len(self._files)))
        fields: dict[str, dict[str, _Place]] = {}
        classes: dict[str, str] = {}
        for number, index in enumerate(self._files.together(calls)):
            shard = self._files.place(number)
            for key, text in index.classes.items():
                if classes.setdefault(key, text) != text:
                    raise SourceError(
                        f"{shard} gives the sample {key!r} the class {text!r} and another shard "
                        f"{classes[key]!r}: keys must be unique over all shards."
                    )
            for name, offset, size in index.files:
                key, field = key_and_field(name)
                if field == "cls" and key:
                    continue
                ends_so = f".{field.rpartition('.')[2]}" in IMAGE_SUFFIXES
                if not key or not (ends_so if asked is None else field in asked):
                    self.passed_over.add(name)
                    continue
                places = fields.setdefault(check_key(key, shard), {})
                if field in places:
                    raise SourceError(
                        f"{shard} holds a second image with the key {key!r} ({name!r}): keys must "
                        "be unique over all shards, since they name an image's crops."
                    )
                places[field] = _Place(number, offset, size)
        if not fields:
            wanted = "" if asked is None else f" in a field {image_field!r}"
            raise SourceError(f"{self.path}{wanted}: {no_image('it', self.passed_over)}")
        self.keys = tuple(sorted(fields))
        chosen = _chosen_fields(str(self.path), fields, self.passed_over)
        if asked is None:
            _check_alike(str(self.path), chosen)
        self._places = [fields[key][chosen[key]] for key in self.keys]
        self.classes, self.mixed, self.numbers, self._names = _classes(self.keys, classes)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"TarSource({str(self.path)!r})"

    @property
    def ignored(self) -> int:
        """How many files were passed over."""
        return self.passed_over.count

    def path_of(self, index: int) -> str:
        """A name of image number ``index`` for messages: its shard and its key."""
        return f"{self._files.place(self._places[index].shard)}/{self.keys[index]}"

    def class_name(self, index: int) -> str | None:
        """What the class of image number ``index`` is called; None where that is unknown."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``; SourceError when it cannot be read."""
        place = self._places[index]
        shard = self._files.place(place.shard)
        try:
            data = self._files.read(place.shard, place.offset, place.size)
        except OSError as error:
            raise SourceError(
                f"cannot read the shard {shard} ({error.strerror or error}): restore it."
            ) from error
        if len(data) != place.size:
            raise SourceError(f"the shard {shard} ends in mid-image: it was cut; restore it.")
        return data


def key_and_field(name: str) -> tuple[str, str]:
    """Key and lower-case field of a member, as WebDataset tells them; both empty for no sample.

    The key ends at the first dot of the file's own name; a leading ``./`` is left out.
    """
    folder, _, own = name.rpartition("/")
    stem, dot, field = own.partition(".")
    if not stem or not dot:
        return "", ""
    return (f"{folder}/{stem}" if folder else stem).removeprefix("./"), field.lower()


def _chosen_fields(
    path: str, fields: dict[str, dict[str, _Place]], passed_over: PassedOver
) -> dict[str, str]:
    """The field of each sample that is its image; the others are noted as passed over."""
    chosen: dict[str, str] = {}
    for key, places in fields.items():
        candidates = [field for field in places if "." not in field] or list(places)
        if len(candidates) > 1:
            shown = ", ".join(repr(field) for field in candidates[:5])
            second = "" if "." in candidates[0] else f"holds a second image with the key {key!r}: "
            raise SourceError(
                f"{path} {second}the sample {key!r} has several images, in the fields {shown} "
                "(WebDataset ends a key at the first dot of a file's name): say which is "
                "the photo (image_field), or pack the files under names without other dots.",
                arguments=("image_field",),
            )
        chosen[key] = candidates[0]
        for field in places:
            if field != candidates[0]:
                passed_over.add(f"{key}.{field}")
    return chosen


def _check_alike(path: str, chosen: dict[str, str]) -> None:
    """Refuse samples of which some have another kind of image in the photo's stead."""
    kinds: dict[str, str] = {}
    for key, field in chosen.items():
        kinds.setdefault(field.rpartition(".")[0], key)
    if len(kinds) > 1:
        shown = ", ".join(f"{chosen[key]!r} of {key!r}" for key in list(kinds.values())[:3])
        raise SourceError(
            f"{path} has samples whose images are in fields of several names ({shown}): say which "
            "is the photo (image_field); the others are then passed over.",
            arguments=("image_field",),
        )


def _classes(keys: Sequence[str], classes: dict[str, str]) -> SourceClasses:
    labels = [classes.get(key) for key in keys]
    if all(label is None for label in labels):
        return classes_of_keys(keys)
    found = classes_of_labels(labels)
    # A sample that lacks what the others have may have lost it.
    return found if None not in labels else found._replace(mixed=True)


class _Window:
    """The bytes of a file around the place that is read, so that headers cost few requests."""

    def __init__(self, files: SourceFiles, number: int) -> None:
        self._files = files
        self._number = number
        self._start = 0
        self._data = b""

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        first = start - self._start
        if not 0 <= first <= first + length <= len(self._data):
            self._data = self._files.read(self._number, start, max(length, self._files.window))
            self._start, first = start, 0
        return self._data[first : first + length]


def _index(files: SourceFiles, number: int) -> _Index:
    """Read the headers of a shard, and its classes."""
    shard = files.place(number)
    window = _Window(files, number)
    members_of: dict[str, Member] = {}
    order: list[Member] = []
    links: list[Member] = []
    classes: dict[str, str] = {}
    try:
        size = files.size(number)
        kind = compression_of(window.read(0, 6))
        if kind is not None:
            raise SourceError(
                f"the shard {shard} is compressed ({kind}), and what is compressed cannot be read "
                "at random: unpack it to a plain .tar (photos hardly shrink)."
            )
        for member in members(window.read, size):
            if member.kind == "special":
                continue
            if member.kind == "hard link":
                # It names what came before it.
                member = _followed(member, members_of, shard)
            members_of[_joined("", member.name)] = member
            order.append(member)
            if member.kind == "symbolic link":
                links.append(member)
            elif key_and_field(member.name)[1] == "cls":
                _note_class(classes, member, window, shard)
        for link in links:
            if key_and_field(link.name)[1] == "cls":
                _note_class(classes, _followed(link, members_of, shard), window, shard)
        if links:
            order = [_linked(member, members_of, shard) for member in order]
    except TarDamageError as error:
        raise SourceError(
            f"cannot read the shard {shard} from byte {error.offset} on ({error.reason}): it was "
            "cut or damaged, and members behind that place would be lost; restore it, or pack it "
            "anew."
        ) from error
    except OSError as error:
        raise SourceError(
            f"cannot read the shard {shard} ({error.strerror or error}): restore it, or the right "
            "to read it."
        ) from error
    for member in order:
        if is_image_name(member.name):
            _check_whole(member, shard)
    return _Index([(member.name, member.offset, member.size) for member in order], classes)


def _note_class(classes: dict[str, str], member: Member, window: _Window, shard: str) -> None:
    """Read what a ``.cls`` member says of its key."""
    _check_whole(member, shard)
    key, text = key_and_field(member.name)[0], _text(window, member, shard)
    if classes.setdefault(key, text) != text:
        raise SourceError(
            f"{shard} gives the sample {key!r} two classes, {classes[key]!r} and {text!r}: pack it "
            "anew with one."
        )


def _check_whole(member: Member, shard: str) -> None:
    if member.kind in ("sparse", "part"):
        kind = "a sparse file" if member.kind == "sparse" else "a part of a file of several volumes"
        raise SourceError(
            f"{member.name!r} in {shard} is stored as {kind}, which cannot be read at random: pack "
            "the shard anew (with GNU tar, without --sparse and --multi-volume)."
        )


def _linked(member: Member, members_of: dict[str, Member], shard: str) -> Member:
    """What a symbolic link names, under the link's name; another member as it is."""
    return _followed(member, members_of, shard) if member.kind == "symbolic link" else member


def _followed(link: Member, members_of: dict[str, Member], shard: str) -> Member:
    """The file that a link names, under the link's name.

    Raises:
        SourceError: an image's or a class's link names nothing of the shard.
    """
    member = link
    for _ in range(_MOST_LINKS):
        beside = member.name if member.kind == "symbolic link" else ""
        found = members_of.get(_joined(beside, member.target))
        if found is None or found.kind not in ("hard link", "symbolic link"):
            break
        member = found
    else:
        found = None
    if found is not None:
        return found._replace(name=link.name)
    if is_image_name(link.name) or key_and_field(link.name)[1] == "cls":
        raise SourceError(
            f"{link.name!r} in {shard} is a {link.kind} to {link.target!r}, which is no member "
            "that could be read in its stead: pack the file itself (with GNU tar, "
            "--dereference --hard-dereference)."
        )
    return link._replace(kind="special", size=0)


def _joined(name: str, target: str) -> str:
    """The member that a symbolic link beside ``name`` leads to."""
    parts: list[str] = []
    for part in [*name.split("/")[:-1], *target.split("/")]:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _text(window: _Window, member: Member, shard: str) -> str:
    """The class that a ``.cls`` member says."""
    data = b"\xff" if member.size > _MOST_CLASS_BYTES else window.read(member.offset, member.size)
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{member.name!r} in {shard} ({member.size} bytes) is not text, expected a class: mend "
            "it."
        ) from error
