"""The ground truth of images, from the class folders or labels of their source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.images.ground_truth.class_map import mapped_ids, numbers_by_name
from labelstore.images.sources.classes import classes_of_keys, other_form

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt


__all__ = ["check_classes", "class_pairs", "resolve_targets", "targets_of_keys"]

_WITHOUT = "where no ground truth is needed, targets may be 'none'"
_MEND = f"give a class map that says which class each folder is ({_WITHOUT})"
_MENDING = ("class_map", "targets")

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"}


class LabelledImages(Protocol):
    """What is asked of images about their classes; image sources are such."""

    @property
    def path(self) -> Path | str:
        """Where they lie, for messages."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The distinct classes, sorted; None where nothing tells them."""

    @property
    def mixed(self) -> bool:
        """Whether only some images tell theirs."""

    @property
    def numbers(self) -> npt.NDArray[np.int64] | None:
        """(N,) class ids, -1 unknown, where they are told so."""

    def class_name(self, index: int) -> str | None:
        """What an image's class is called."""

    def __len__(self) -> int:
        """How many images."""


class _KeysAlone:
    """Images of which only the keys are at hand."""

    def __init__(self, path: Path | str, keys: tuple[str, ...]) -> None:
        self.path, self.keys = path, keys
        self.classes, self.mixed, self.numbers, self._names = classes_of_keys(keys)

    def class_name(self, index: int) -> str | None:
        return None if self._names is None else self._names[index]

    def __len__(self) -> int:
        return len(self.keys)


def targets_of_keys(
    path: Path | str,
    keys: tuple[str, ...],
    *,
    num_classes: int,
    class_names: Sequence[str] | None,
    class_map: Mapping[str, int | str] | None = None,
    called: Mapping[str, Sequence[int]] | None = None,
) -> npt.NDArray[np.int32]:
    """The ground-truth class of each image of a store, from the class folder its key begins with.

    Args:
        path: of the store, for messages.
        keys: of its N images.
        num_classes, class_names, class_map, called: as for ``resolve_targets``.

    Returns:
        (N,) int32, 0..C-1, or -1 for unknown.

    Raises:
        UsageError, MismatchError: as ``resolve_targets``.
    """
    return resolve_targets(
        _KeysAlone(path, keys),
        num_classes=num_classes,
        class_names=class_names,
        class_map=class_map,
        called=called,
    )


def resolve_targets(
    source: LabelledImages,
    *,
    num_classes: int,
    class_names: Sequence[str] | None,
    class_map: Mapping[str, int | str] | None = None,
    targets: Literal["folders", "none"] = "folders",
    called: Mapping[str, Sequence[int]] | None = None,
) -> npt.NDArray[np.int32]:
    """The ground-truth class of every image, from the class folder it lies in.

    With a class map, that decides. Without, folders that all bear names of the teacher's classes
    are those classes (any subset of them); where the teacher's names are unknown, as many folders
    as classes are taken in sorted order, unless they are numbers of another order. Numbers that a
    source of another kind gives (``.cls`` members, a column ``label``) are the teacher's class ids
    if they can be, -1 being unknown, and if no name that the source gives one is that of another
    class of the teacher. Nothing else is guessed.

    Args:
        source: the images.
        num_classes: the teacher's number of classes C.
        class_names: the teacher's C class names in order, or None when unknown.
        class_map: class folder -> class id, 0..C-1, or a class's name; it may hold more folders
            than there are.
        targets: ``"none"`` to leave every target unknown.
        called: name -> ids of the classes that a class map may call so
            (``labelstore.teachers.class_names.names_of``); by their class names when None.

    Returns:
        (N,) int32, 0..C-1, or -1 for unknown.

    Raises:
        UsageError: ``targets`` is neither, or is "none" along with a class map; the class map has
            an id out of range, or a name of no class or of several; the number of class names is
            not C.
        MismatchError: the folders do not tell the classes.
    """
    if targets not in ("folders", "none"):
        raise UsageError(f"targets is {targets!r}, expected 'folders' or 'none'.")
    if targets == "none":
        if class_map is not None:
            raise UsageError(
                "a class map was given along with targets 'none': leave out one of the two."
            )
        return np.full(len(source), -1, dtype=np.int32)
    folders = check_classes(source, class_names, class_map)
    if source.numbers is not None and class_map is None and not _bears(source, class_names):
        if called is None:
            called = numbers_by_name(class_names)
        return _numbered(source, source.numbers, num_classes, called)
    if class_map is not None:
        classes = mapped_ids(folders, num_classes, class_map, class_names, called)
    elif class_names is not None:
        classes = _named(folders, num_classes, class_names)
    elif len(folders) == num_classes:
        classes = _sorted(source, folders)
    else:
        raise MismatchError(
            f"{source.path} has {len(folders)} class folders and the teacher {num_classes} "
            f"classes without names: {_MEND}.",
            arguments=_MENDING,
        )
    names = (source.class_name(index) for index in range(len(source)))
    numbers = (-1 if name is None else classes[name] for name in names)
    return np.fromiter(numbers, dtype=np.int32, count=len(source))


def check_classes(
    source: LabelledImages,
    class_names: Sequence[str] | None = None,
    class_map: Mapping[str, int | str] | None = None,
) -> tuple[str, ...]:
    """The distinct classes that a source tells of its images, whichever the teacher's are.

    Args:
        source: the images.
        class_names, class_map: as for ``resolve_targets``, as far as they are known.

    Raises:
        MismatchError: it tells those of some images alone, or of none, or its folders are splits of
            a data set.
    """
    if source.mixed:
        raise MismatchError(_mixed(source), arguments=("targets",))
    _check_no_splits(source, class_names, class_map)
    if source.classes is None:
        if reason := getattr(source, "unlabelled", ""):
            raise MismatchError(
                f"nothing tells the classes of the images: {reason} ({_WITHOUT}).",
                arguments=("label_column", "targets"),
            )
        raise MismatchError(
            f"{source.path} holds its images in no class folders, so nothing tells their classes: "
            f"sort them into one folder for each class ({_WITHOUT}).",
            arguments=("targets",),
        )
    return source.classes


def class_pairs(source: LabelledImages, targets: npt.NDArray[np.int32]) -> dict[str, int]:
    """Which class each class folder, or label, of a source was taken for.

    Args:
        source: the images.
        targets: (N,) as ``resolve_targets`` gives them.

    Returns:
        name -> class id, sorted by name; without those that are unknown.
    """
    pairs = {
        source.class_name(index): int(target) for index, target in enumerate(targets) if target >= 0
    }
    return {name: pairs[name] for name in sorted(filter(None, pairs))}


def _mixed(source: LabelledImages) -> str:
    """What is said of a source of whose images only some have a class."""
    loose = next((index for index, key in enumerate(source.keys) if "/" not in key), None)
    unnamed = next((n for n in range(len(source)) if source.class_name(n) is None), None)
    if source.classes is not None and unnamed is not None:
        return (
            f"{source.path} tells the classes of some images and not of others (such as "
            f"{source.keys[unnamed]!r}, which has no .cls member): pack a class with each, -1 for "
            f"an unknown one ({_WITHOUT})."
        )
    example = "" if loose is None else f" (such as {source.keys[loose]!r})"
    return (
        f"{source.path} holds images both in class folders and outside them{example}: move those "
        f"into class folders ({_WITHOUT})."
    )


def _check_no_splits(
    source: LabelledImages,
    class_names: Sequence[str] | None,
    class_map: Mapping[str, int | str] | None,
) -> None:
    """Refuse the folder above train/ and val/, which would be taken for classes."""
    folders = set(source.classes or ())
    if (
        not folders
        or not folders <= _SPLITS
        or folders <= {*(class_map or ()), *(class_names or ())}
    ):
        return
    shown = " and ".join(f"{folder}/" for folder in sorted(folders))
    raise MismatchError(
        f"{source.path} holds the folders {shown}, which are splits of a data set and not classes: "
        f"give {source.path}/{sorted(folders)[0]}, or a class map if they are classes "
        f"({_WITHOUT}).",
        arguments=_MENDING,
    )


def _sorted(source: LabelledImages, folders: Sequence[str]) -> dict[str, int]:
    """Folders in sorted order, unless they are numbers of another order."""
    for number, folder in enumerate(folders):
        if all(name.isdecimal() for name in folders) and int(folder) != number:
            raise MismatchError(
                f"{source.path} has class folders called by numbers, {folders[0]!r} to "
                f"{folders[-1]!r}, of which {folder!r} comes at place {number} in sorted order, so "
                f"it is not clear which class it is: {_MEND}.",
                arguments=_MENDING,
            )
    return {folder: number for number, folder in enumerate(folders)}


def _bears(source: LabelledImages, class_names: Sequence[str] | None) -> bool:
    """Whether all the source's classes are called as classes of the teacher are."""
    return class_names is not None and set(source.classes or ("",)) <= set(class_names)


def _numbered(
    source: LabelledImages,
    numbers: npt.NDArray[np.int64],
    num_classes: int,
    called: Mapping[str, Sequence[int]],
) -> npt.NDArray[np.int32]:
    """Class ids as the source gives them, if they can be the teacher's."""
    known = numbers[numbers >= 0]
    named = getattr(source, "label_names", None)
    if known.size and (known.max() >= num_classes or (named and len(named) != num_classes)):
        raise MismatchError(
            f"{source.path} has labels from {known.min()} to {known.max()}"
            f"{f' of {len(named)} classes' if named else ''} and the teacher {num_classes} "
            f"classes, so they are not the teacher's: {_MEND}.",
            arguments=_MENDING,
        )
    for number, name in enumerate((named or ()) if known.size else ()):
        if number not in called.get(name, (number,)):
            raise MismatchError(
                f"{source.path} calls its label {number} {name!r}, which is the teacher's class "
                f"{called[name][0]}, so its labels are not the teacher's: {_MEND}.",
                arguments=_MENDING,
            )
    return numbers.astype(np.int32)


def _named(folders: Sequence[str], num_classes: int, class_names: Sequence[str]) -> dict[str, int]:
    if len(class_names) != num_classes:
        raise UsageError(
            f"there are {len(class_names)} class names and {num_classes} classes: give one name "
            "for each class."
        )
    numbers: dict[str, int] = {}
    ambiguous: set[str] = set()
    for number, name in enumerate(class_names):
        if numbers.setdefault(name, number) != number:
            ambiguous.add(name)
    strange = [folder for folder in folders if folder not in numbers or folder in ambiguous]
    if strange:
        fault = "the name of more than one" if strange[0] in ambiguous else "the name of none"
        raise MismatchError(
            f"{len(strange)} of the {len(folders)} class folders cannot be told from the names of "
            f"the teacher's {num_classes} classes ({strange[0]!r} is {fault} of them; the first "
            f"are called {', '.join(repr(name) for name in class_names[:2])})"
            f"{other_form(strange[0], class_names)}: {_MEND}.",
            arguments=_MENDING,
        )
    return {folder: numbers[folder] for folder in folders}
