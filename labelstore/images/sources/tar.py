"""The images of WebDataset's tar shards."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import SourceError
from labelstore.images.formats import IMAGE_SUFFIXES
from labelstore.images.sources.classes import check_key, classes_of_keys, classes_of_labels
from labelstore.images.sources.folder import no_image
from labelstore.images.sources.listing import files_at
from labelstore.images.sources.passed_over import PassedOver
from labelstore.images.sources.tars.index import key_and_field, shard_index
from labelstore.images.sources.tars.kept_indexes import KeptIndexes
from labelstore.storage.location import place_of

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from labelstore.images.sources.classes import SourceClasses
    from labelstore.images.sources.tars.kept_indexes import ShardIndex

__all__ = ["TarSource"]


class _Candidates:
    """The files of shards that may be photos, as they are met: of each sample one or more."""

    def __init__(self) -> None:
        self.fields: list[str] = []
        """Of each candidate."""
        self.first: dict[str, int] = {}
        """Key -> the sample's first candidate."""
        self.more: dict[str, list[int]] = {}
        """Key -> all candidates, of samples that have several."""
        self.rows: list[int] = []
        """Of each candidate, its place in the indexes of all shards behind each other."""

    def add(self, key: str, field: str, row: int) -> bool:
        """Note a candidate; False where the sample has one in this field."""
        number = len(self.rows)
        first = self.first.setdefault(key, number)
        if first != number:
            several = self.more.setdefault(key, [first])
            if any(self.fields[other] == field for other in several):
                return False
            several.append(number)
        # One string for all samples' fields of a name.
        self.fields.append(sys.intern(field))
        self.rows.append(row)
        return True


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
        kept = KeptIndexes()
        calls = (
            functools.partial(shard_index, self._files, kept, n) for n in range(len(self._files))
        )
        candidates = _Candidates()
        classes: dict[str, str] = {}
        parts: list[ShardIndex] = []
        start = 0
        for number, index in enumerate(self._files.together(calls)):
            shard = self._files.place(number)
            _take_classes(classes, index.classes, shard)
            self._take_files(index.names, start, shard, candidates, asked)
            start += len(index.names)
            # Names are kept as keys alone.
            parts.append(index._replace(names=[], classes={}))
        if not candidates.rows:
            of_field = "" if asked is None else f" in a field {image_field!r}"
            raise SourceError(f"{self.path}{of_field}: {no_image('it', self.passed_over)}")
        _choose_fields(str(self.path), candidates, self.passed_over)
        self.keys = tuple(sorted(candidates.first))
        if asked is None:
            _check_alike(str(self.path), candidates)
        rows = [candidates.rows[candidates.first[key]] for key in self.keys]
        counts = [len(part.offsets) for part in parts]
        self._shards = np.repeat(np.arange(len(parts), dtype=np.int32), counts)[rows]
        self._offsets = np.concatenate([part.offsets for part in parts])[rows]
        self._sizes = np.concatenate([part.sizes for part in parts])[rows]
        self.classes, self.mixed, self.numbers, self._names = _classes(self.keys, classes)

    def _take_files(
        self,
        names: list[str],
        start: int,
        shard: str,
        candidates: _Candidates,
        asked: set[str] | None,
    ) -> None:
        """Note which files of a shard may be photos; the others are passed over."""
        for row, name in enumerate(names, start):
            key, field = key_and_field(name)
            if field == "cls" and key:
                continue
            ends_so = f".{field.rpartition('.')[2]}" in IMAGE_SUFFIXES
            if not key or not (ends_so if asked is None else field in asked):
                self.passed_over.add(name)
            elif not candidates.add(check_key(key, shard), field, row):
                raise SourceError(
                    f"{shard} holds a second image with the key {key!r} ({name!r}): keys must "
                    "be unique over all shards, since they name an image's crops."
                )

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
        return f"{self._files.place(int(self._shards[index]))}/{self.keys[index]}"

    def class_name(self, index: int) -> str | None:
        """What the class of image number ``index`` is called; None where that is unknown."""
        return None if self._names is None else self._names[index]

    def read(self, index: int) -> bytes:
        """The encoded file of image number ``index``; SourceError when it cannot be read."""
        number, size = int(self._shards[index]), int(self._sizes[index])
        shard = self._files.place(number)
        try:
            data = self._files.read(number, int(self._offsets[index]), size)
        except OSError as error:
            raise SourceError(
                f"cannot read the shard {shard} ({error.strerror or error}): restore it."
            ) from error
        if len(data) != size:
            raise SourceError(f"the shard {shard} ends in mid-image: it was cut; restore it.")
        return data


def _take_classes(classes: dict[str, str], own: dict[str, str], shard: str) -> None:
    """Add the classes of a shard to those of the others."""
    for key, text in own.items():
        if classes.setdefault(key, text) != text:
            raise SourceError(
                f"{shard} gives the sample {key!r} the class {text!r} and another shard "
                f"{classes[key]!r}: keys must be unique over all shards."
            )


def _choose_fields(path: str, candidates: _Candidates, passed_over: PassedOver) -> None:
    """Leave each sample the field that is its image; the others are noted as passed over."""
    for key, several in candidates.more.items():
        fields = {candidates.fields[number]: number for number in several}
        chosen = [field for field in fields if "." not in field] or list(fields)
        if len(chosen) > 1:
            shown = ", ".join(repr(field) for field in chosen[:5])
            second = "" if "." in chosen[0] else f"holds a second image with the key {key!r}: "
            raise SourceError(
                f"{path} {second}the sample {key!r} has several images, in the fields {shown} "
                "(WebDataset ends a key at the first dot of a file's name): say which is "
                "the photo (image_field), or pack the files under names without other dots.",
                arguments=("image_field",),
            )
        candidates.first[key] = fields[chosen[0]]
        for field in fields:
            if field != chosen[0]:
                passed_over.add(f"{key}.{field}")


def _check_alike(path: str, candidates: _Candidates) -> None:
    """Refuse samples of which some have another kind of image in the photo's stead."""
    kinds: dict[str, str] = {}
    chosen = {field: field.rpartition(".")[0] for field in set(candidates.fields)}
    for key, number in candidates.first.items():
        kinds.setdefault(chosen[candidates.fields[number]], key)
    if len(kinds) > 1:
        shown = ", ".join(
            f"{candidates.fields[candidates.first[key]]!r} of {key!r}"
            for key in list(kinds.values())[:3]
        )
        raise SourceError(
            f"{path} has samples whose images are in fields of several names ({shown}): say which "
            "is the photo (image_field); the others are then passed over.",
            arguments=("image_field",),
        )


def _classes(keys: Sequence[str], classes: dict[str, str]) -> SourceClasses:
    labels = [classes.get(key) for key in keys]
    if all(label is None for label in labels):
        return classes_of_keys(keys)
    label_classes = classes_of_labels(labels)
    # A sample that lacks what the others have may have lost it.
    return label_classes if None not in labels else label_classes._replace(mixed=True)
