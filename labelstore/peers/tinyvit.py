"""TinyViT: for each epoch two files a process, records of labels and the keys that they are of.

``logits_topK_epochE/rankR-values.bin`` holds records of 4 + 4 K bytes, little-endian: an int32
seed, K int16 class ids, K float16 probabilities; ``rankR-keys.txt`` a key a line, in the same
order. An epoch is a view. The crop, and all that was done to its pixels, is what TinyViT's code
draws from the seed with settings that no file names: views cannot be replayed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from labelstore.errors import CorruptError, FormatError, LabelError, MismatchError
from labelstore.peers.image_folder import in_folder_order, photo_table
from labelstore.peers.label_files import require_folder
from labelstore.peers.labelled_photos import matched_photos
from labelstore.peers.peer_labels import PeerLabels, files_digest
from labelstore.peers.pickles.safe_pickle import MEND, read_bytes
from labelstore.storage.untrusted import open_descriptor, parsed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource
    from labelstore.labels.top_k import LabelType
    from labelstore.peers.peer_labels import PeerOptions, Values

__all__ = ["TinyViTReader"]

_EPOCH = re.compile(r"logits_top([1-9][0-9]{0,4})_epoch([0-9]{1,6})\Z")

_VALUES, _KEYS = "-values.bin", "-keys.txt"

_MOST_IDS = 1 << 15
"""Class ids are int16: of more classes some would have come out negative."""


class TinyViTReader:
    """Reads the folder that ``DISTILL.TEACHER_LOGITS_PATH`` named; see ``PeerReader``."""

    values: Values = "top-k"
    law = None
    class_names = None
    label_type: LabelType = "top-k"
    explicit = False
    temperature: float | None = 1.0
    targets: npt.NDArray[np.int32] | None = None

    def __init__(self, path: Path, options: PeerOptions) -> None:
        epochs, self.k = _epochs(path)
        self._path, self.num_classes = path, options.num_classes
        self._record = np.dtype(
            [("seed", "<i4"), ("ids", "<i2", (self.k,)), ("probs", "<f2", (self.k,))]
        )
        if options.num_classes is not None and options.num_classes > _MOST_IDS:
            raise LabelError(
                f"{path} holds class ids of 16 bits, which have no room for "
                f"{options.num_classes} classes: ids above {_MOST_IDS - 1} became others; give the "
                "number of classes that the teacher has."
            )
        self.num_views = len(epochs)
        self._files: list[list[Path]] = []
        self._starts: list[npt.NDArray[np.int64]] = []
        names: list[str] = []
        columns = []
        for epoch in epochs:
            files, starts, keys = self._ranks(epoch)
            if not names:
                names = list(keys)
                order = {key: row for row, key in enumerate(names)}
            if keys.keys() != order.keys():
                odd = min(keys.keys() ^ order.keys())
                raise MismatchError(
                    f"{epoch} and {epochs[0]} hold labels of other images ({odd!r} is in one of "
                    "them alone): every epoch must have all; take an incomplete one away."
                )
            rows = np.empty(len(names), dtype=np.int64)
            rows[[order[key] for key in keys]] = list(keys.values())
            columns.append(rows.astype(np.int32))
            self._files.append(files)
            self._starts.append(starts)
        places = np.argsort(np.array(names, dtype=object))
        self._rows = np.stack(columns, axis=-1)[places]
        self.keys = [names[place] for place in places]
        self._photos = options.photos
        self._order: list[int] | None = None
        notes = [
            "TinyViT's files name no teacher; its code takes a softmax at temperature 1.",
            "TinyViT draws a view's crop, its flip and all else that is done to its pixels from "
            "a seed, by settings that no file names: views cannot be replayed.",
        ]
        if self._photos is not None:
            self._name_after(self._photos)
        elif all(key.isdecimal() for key in self.keys):
            notes.append("Images are named by their place in the data set, as the files do.")
        self.notes = tuple(notes)
        numbers = [_epoch_of(epoch.name)[1] for epoch in epochs]
        self.extra = {"epochs": _runs(numbers)}
        with parsed(path, MEND):
            keys_of = [
                file.with_name(file.name.removesuffix(_VALUES) + _KEYS) for file in self._all
            ]
            self.digest = files_digest(path, [*self._all, *keys_of])

    @property
    def _all(self) -> list[Path]:
        return [file for files in self._files for file in files]

    def images(self, numbers: Sequence[int]) -> PeerLabels:
        """As ``PeerReader.images``; each epoch's files are opened once."""
        chosen = self._records(numbers)
        ids, probs = chosen["ids"].astype(np.int32), chosen["probs"].astype(np.float32)
        most = _MOST_IDS if self.num_classes is None else self.num_classes
        wrong = ((ids < 0) | (ids >= most)).any(axis=-1)
        if wrong.any():
            row, view = np.argwhere(wrong)[0]
            raise LabelError(
                f"{self._files[view][0].parent} has for {self.keys[numbers[row]]!r} class ids from "
                f"{ids[row, view].min()} to {ids[row, view].max()}, expected 0 to {most - 1}: give "
                "the number of classes of the teacher, or get the epoch anew."
            )
        wrong = ~((probs >= 0) & (probs <= 1)).all(axis=-1) | (np.diff(probs) > 0).any(axis=-1)
        if wrong.any():
            row, view = np.argwhere(wrong)[0]
            raise LabelError(
                f"{self._files[view][0].parent} has for {self.keys[numbers[row]]!r} no "
                f"probabilities that fall: its records are not of top {self.k}, or damaged; get "
                "the epoch anew."
            )
        if self._photos is None or self._order is None:
            return PeerLabels(ids, probs)
        facts = photo_table(self._photos, [self._order[number] for number in numbers])
        return PeerLabels(
            ids, probs, widths=facts.widths, heights=facts.heights, digests=facts.digests
        )

    def seeds(self, numbers: Sequence[int]) -> npt.NDArray[np.int32]:
        """(n, V) what TinyViT's ``AugRandomContext`` was given for each view."""
        return np.asarray(self._records(numbers)["seed"])

    def _records(self, numbers: Sequence[int]) -> npt.NDArray[np.void]:
        """(n, V) records."""
        chosen = np.empty((len(numbers), self.num_views), dtype=self._record)
        rows = self._rows[np.asarray(numbers)]
        for view, (files, starts) in enumerate(zip(self._files, self._starts, strict=True)):
            ranks = np.searchsorted(starts, rows[:, view], side="right") - 1
            for rank in np.unique(ranks).tolist():
                with parsed(files[rank], MEND):
                    records = np.memmap(files[rank], dtype=self._record, mode="r")
                    at = ranks == rank
                    chosen[at, view] = records[rows[at, view] - starts[rank]]
        return chosen

    def _ranks(self, epoch: Path) -> tuple[list[Path], npt.NDArray[np.int64], dict[str, int]]:
        """The files of values, the number of the first record in each, and each key's record.

        Of a key in several files TinyViT takes whichever it meets first; here it is the first by
        number.
        """
        files = sorted(epoch.glob(f"*{_VALUES}"), key=lambda file: (len(file.name), file.name))
        if not files:
            raise FormatError(
                f"{epoch} holds no file ending in {_VALUES}: copy the epoch whole, or take it away."
            )
        places: dict[str, int] = {}
        starts, start = [], 0
        for file in files:
            keys_file = file.with_name(file.name.removesuffix(_VALUES) + _KEYS)
            with parsed(keys_file, MEND):
                names = read_bytes(keys_file).decode("utf-8").split("\n")
            if names[-1] == "":
                names.pop()
            with parsed(file, MEND), open(open_descriptor(file), "rb") as stream:
                size = stream.seek(0, 2)
            if size != len(names) * self._record.itemsize:
                raise CorruptError(
                    f"{file} has {size:,} bytes, expected {len(names):,} records of "
                    f"{self._record.itemsize} bytes, one for each key in {keys_file.name}: it is "
                    "cut off, or of another k; get both files anew."
                )
            starts.append(start)
            for row, name in enumerate(names, start):
                places.setdefault(name.strip(), row)
            start += len(names)
        if not places:
            raise FormatError(f"{epoch} holds no labels: take it away.")
        return files, np.array(starts), places

    def _name_after(self, source: ImageSource) -> None:
        """Call images by their photos' keys, in that order."""
        if all(key.isdecimal() for key in self.keys):
            order = in_folder_order(source)
            numbers = [int(key) for key in self.keys]
            if sorted(numbers) != list(range(len(order))):
                raise MismatchError(
                    f"{self._path} has labels of {len(numbers)} images, numbered up to "
                    f"{max(numbers)}, and {source.path} holds {len(order)} photos: give the folder "
                    "that was labelled, whole."
                )
            photo_of = [order[number] for number in numbers]
        else:
            photo_of = matched_photos([_stem(key) for key in self.keys], source, self._path)
        places = np.argsort(photo_of)
        self._rows = self._rows[places]
        self._order = [photo_of[place] for place in places]
        self.keys = [source.keys[photo] for photo in self._order]


def _stem(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _epochs(path: Path) -> tuple[list[Path], int]:
    """The folders of epochs, by number, and their k."""
    require_folder(path, "of logits_topK_epochE folders")
    with parsed(path, MEND):
        folders = [entry for entry in path.iterdir() if _EPOCH.match(entry.name)]
    if not folders:
        raise FormatError(
            f"{path} holds no folders called logits_topK_epochE, expected TinyViT's, one an epoch: "
            "give the folder that they lie in."
        )
    sizes = {_epoch_of(folder.name)[0] for folder in folders}
    if len(sizes) > 1:
        raise FormatError(
            f"{path} holds epochs of top {' and '.join(map(str, sorted(sizes)))}: convert those "
            "of one k alone."
        )
    return sorted(folders, key=lambda folder: _epoch_of(folder.name)[1]), sizes.pop()


def _epoch_of(name: str) -> tuple[int, int]:
    """k and the epoch's number."""
    match = _EPOCH.match(name)
    if match is None:
        raise FormatError(f"{name} is no name of an epoch's folder.")
    return int(match[1]), int(match[2])


def _runs(numbers: Sequence[int]) -> str:
    """Rising numbers as ``0-299`` or ``0-9, 12``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
