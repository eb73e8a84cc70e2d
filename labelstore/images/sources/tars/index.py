"""The index of a tar shard: what its headers say of its files, and the classes in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import SourceError
from labelstore.images.formats import is_image_name
from labelstore.images.sources.tars.kept_indexes import ShardIndex
from labelstore.images.sources.tars.members import TarDamageError, compression_of, members
from labelstore.images.sources.tars.plain_members import MOST_CLASS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from labelstore.images.sources.source_files import SourceFiles
    from labelstore.images.sources.tars.kept_indexes import KeptIndexes
    from labelstore.images.sources.tars.members import Member

__all__ = ["key_and_field", "shard_index"]

_MOST_WINDOW = 2**18
"""Bytes that are read at once."""

_MOST_LINKS = 40
"""Links that are followed from one to the next, as Linux does."""


def key_and_field(name: str) -> tuple[str, str]:
    """Key and lower-case field of a member, as WebDataset tells them; both empty for no sample.

    The key ends at the first dot of the file's own name; a leading ``./`` is left out.
    """
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    if dot <= start:
        return "", ""
    # A slash before a name alone is left out, too.
    key = name[1:dot] if start == 1 else name[:dot]
    return key.removeprefix("./"), name[dot + 1 :].lower()


class _Window:
    """The bytes of a file around the place that is read, so that headers cost few reads."""

    def __init__(self, read: Callable[[int, int], bytes], least: int) -> None:
        self._read = read
        self._least = self._length = least
        self._start = 0
        self._data = b""

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        first = start - self._start
        end = first + length
        if not 0 <= first <= end <= len(self._data):
            # Small members stand close together: what is read next is most likely wanted, too.
            is_near = self._data and 0 <= first <= len(self._data) + self._least // 4
            self._length = min(2 * self._length, _MOST_WINDOW) if is_near else self._least
            self._data = self._read(start, max(length, self._length))
            self._start, first, end = start, 0, length
        return self._data[first:end]


def shard_index(files: SourceFiles, kept: KeptIndexes, number: int) -> ShardIndex:
    """The index of a shard: a kept one of this very shard, or from its headers.

    Raises:
        SourceError: it cannot be read to its end.
    """
    shard = files.place(number)
    try:
        identity = files.identity(number)
        with files.reading(number) as read:
            index = None if identity is None else kept.get(identity, read)
            if index is None:
                index = _read_index(_Window(read, files.window), files.size(number), shard)
                if identity is not None and identity == files.identity(number):
                    kept.put(identity, index, read)
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
    return index


def _read_index(window: _Window, size: int, shard: str) -> ShardIndex:
    """Read the headers of a shard, and its classes."""
    kind = compression_of(window.read(0, 6))
    if kind is not None:
        raise SourceError(
            f"the shard {shard} is compressed ({kind}), and what is compressed cannot be read "
            "at random: unpack it to a plain .tar (photos hardly shrink)."
        )
    order: list[Member] = []
    links: list[Member] = []
    targets = _Targets(order)
    classes: dict[str, str] = {}
    for member in members(window.read, size):
        if member.kind == "special":
            continue
        if member.kind == "hard link":
            # It names what came before it.
            member = _followed(member, targets, shard)
        order.append(member)
        if member.kind == "symbolic link":
            links.append(member)
        elif member.name[-4:].lower() == ".cls" and key_and_field(member.name)[1] == "cls":
            _note_class(classes, member, window, shard)
    for link in links:
        if key_and_field(link.name)[1] == "cls":
            _note_class(classes, _followed(link, targets, shard), window, shard)
    if links:
        order = [_linked(member, targets, shard) for member in order]
    for member in order:
        if member.kind != "file" and is_image_name(member.name):
            _check_whole(member, shard)
    return ShardIndex(
        [member.name for member in order],
        np.fromiter((member.offset for member in order), np.int64, len(order)),
        np.fromiter((member.size for member in order), np.int64, len(order)),
        classes,
    )


class _Targets:
    """The members that links may name, by name; made when there is a link."""

    def __init__(self, order: list[Member]) -> None:
        self._order = order
        self._known = 0
        self._members: dict[str, Member] = {}

    def get(self, name: str) -> Member | None:
        """The last member of a name so far."""
        for member in self._order[self._known :]:
            self._members[_joined("", member.name)] = member
        self._known = len(self._order)
        return self._members.get(name)


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


def _linked(member: Member, targets: _Targets, shard: str) -> Member:
    """What a symbolic link names, under the link's name; another member as it is."""
    return _followed(member, targets, shard) if member.kind == "symbolic link" else member


def _followed(link: Member, targets: _Targets, shard: str) -> Member:
    """The file that a link names, under the link's name.

    Raises:
        SourceError: an image's or a class's link names nothing of the shard.
    """
    member = link
    for _ in range(_MOST_LINKS):
        beside = member.name if member.kind == "symbolic link" else ""
        target = targets.get(_joined(beside, member.target))
        if target is None or target.kind not in ("hard link", "symbolic link"):
            break
        member = target
    else:
        target = None
    if target is not None:
        return target._replace(name=link.name)
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
    data = member.data
    if data is None:
        is_small = member.size <= MOST_CLASS_BYTES
        data = window.read(member.offset, member.size) if is_small else b"\xff"
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{member.name!r} in {shard} ({member.size} bytes) is not text, expected a class: mend "
            "it."
        ) from error
