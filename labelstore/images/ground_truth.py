"""Ground truth: which of the teacher's classes each image of a source belongs to, never a guess."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from labelstore.errors import MismatchError, NotFoundError, UsageError, did_you_mean
from labelstore.images.sources.classes import classes_of_keys, other_form

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt


__all__ = ["check_classes", "class_pairs", "read_class_map", "resolve_targets", "targets_of_keys"]

_WITHOUT = "where no ground truth is needed, targets may be 'none'"
_MEND = f"give a class map that says which class each folder is ({_WITHOUT})"
_MENDING = ("class_map", "targets")
_SHOWN = 5

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


def read_class_map(path: str | os.PathLike[str]) -> dict[str, int | str]:
    """Read which class each class folder is.

    The file is a JSON object ``{"folder": class}``, or UTF-8 text with two columns, folder and
    class, separated by commas or by tabs, with or without a first line ``folder,class``. A class is
    its id or its name, which ``resolve_targets`` looks up; digits in text are an id.

    Returns:
        folder -> an id or a name.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is neither; a folder is named twice; a class is neither id nor name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no class map {path}: give the path of a JSON, CSV or TSV file."
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot read the class map {path} ({error.strerror or error}): give a readable file."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the class map {path} is not UTF-8 text: save it as such.") from error
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    return _from_columns(text, path)


def _from_json(text: str, path: Path) -> dict[str, int | str]:
    try:
        body: Any = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the class map {path} is not valid JSON ({error}): mend it.") from error
    # Objects arrive as lists of pairs, so that a name that occurs twice shows.
    if text.lstrip().startswith("["):
        raise UsageError(
            f'the class map {path} holds a JSON array, expected an object such as {{"cat": 0}}: '
            "write one."
        )
    classes: dict[str, int | str] = {}
    for folder, value in body:
        if folder in classes:
            raise UsageError(
                f"the class map {path} names the folder {folder!r} twice: remove one entry."
            )
        in_quotes = isinstance(value, str) and re.fullmatch(r"\s*(-?[0-9]+)?\s*", value)
        if in_quotes or not (type(value) is int or isinstance(value, str)):
            raise UsageError(
                f"the class map {path} gives the folder {folder!r} the class "
                f"{json.dumps(value)}, expected an integer, without quotes, or a name: mend that "
                "entry."
            )
        classes[folder] = value
    return classes


def _from_columns(text: str, path: Path) -> dict[str, int | str]:
    lines = text.splitlines()
    separator = "\t" if any("\t" in line for line in lines) else ","
    reader = csv.reader(lines, delimiter=separator)
    classes: dict[str, int | str] = {}
    is_first = True
    for row in reader:
        fields = [field.strip() for field in row]
        if not any(fields):
            continue
        is_header = is_first and [field.lower() for field in fields] == ["folder", "class"]
        is_first = False
        if is_header:
            continue
        place = f"line {reader.line_num} of the class map {path}"
        if len(fields) != 2 or not fields[1]:
            raise UsageError(
                f"{place} is {separator.join(row)!r}, expected two columns, a folder and a class "
                "(its id or its name; a name with a comma in double quotes): mend that line."
            )
        if fields[0] in classes:
            raise UsageError(f"{place} names the folder {fields[0]!r} again: remove one line.")
        is_id = re.fullmatch(r"-?[0-9]+", fields[1])
        classes[fields[0]] = int(fields[1]) if is_id else fields[1]
    if not classes:
        raise UsageError(f"the class map {path} is empty: write one line for each class folder.")
    return classes


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
    if they can be, -1 being unknown. Nothing else is guessed.

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
        return _numbered(source, source.numbers, num_classes)
    if class_map is not None:
        ids = _ids(folders, class_map, class_names, called)
        classes = _mapped(folders, num_classes, ids)
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
    source: LabelledImages, numbers: npt.NDArray[np.int64], num_classes: int
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
    return numbers.astype(np.int32)


def _ids(
    folders: Sequence[str],
    class_map: Mapping[str, int | str],
    class_names: Sequence[str] | None,
    called: Mapping[str, Sequence[int]] | None,
) -> dict[str, int]:
    """The class map of these folders by ids alone; MismatchError where it lacks one."""
    missing = [folder for folder in folders if folder not in class_map]
    if missing:
        shown = ", ".join(repr(folder) for folder in missing[:_SHOWN])
        more = ", ..." if len(missing) > _SHOWN else ""
        raise MismatchError(
            f"the class map lacks {len(missing)} of the {len(folders)} class folders ({shown}"
            f"{more}){other_form(missing[0], list(class_map))}: add them to it."
        )
    if called is None:
        by_name: dict[str, list[int]] = {}
        for number, name in enumerate(class_names or ()):
            by_name.setdefault(name, []).append(number)
        called = by_name
    ids: dict[str, int] = {}
    for folder in folders:
        value = class_map[folder]
        if isinstance(value, str):
            value = _class_called(value, folder, class_names, called)
        ids[folder] = value
    return ids


def _class_called(
    name: str,
    folder: str,
    class_names: Sequence[str] | None,
    called: Mapping[str, Sequence[int]],
) -> int:
    """The id of the one class of a name."""
    numbers = called.get(name, ())
    if len(numbers) == 1:
        return numbers[0]
    entry = f"the class map gives the folder {folder!r} the class {name!r}"
    if not class_names:
        raise UsageError(
            f"{entry} and the names of the teacher's classes are unknown: give numbers.",
            arguments=("class_map",),
        )
    if not numbers:
        near = did_you_mean(name, called)
        raise UsageError(
            f"{entry}, which is the name of none of the teacher's {len(class_names)} classes: "
            f"give the class's number or its name{other_form(name, list(called))}"
            f"{'; ' + near if near else '.'}",
            arguments=("class_map",),
        )
    candidates = [f"{number} ({class_names[number]})" for number in numbers[:_SHOWN]]
    more = ", ..." if len(numbers) > _SHOWN else ""
    raise UsageError(
        f"{entry}, which is the name of {len(numbers)} of the teacher's classes: give the number "
        f"of the one that is meant, {', '.join(candidates)}{more}.",
        arguments=("class_map",),
    )


def _mapped(
    folders: Sequence[str], num_classes: int, class_map: Mapping[str, int]
) -> dict[str, int]:
    for folder in folders:
        if not 0 <= class_map[folder] < num_classes:
            raise UsageError(
                f"the class map gives the folder {folder!r} the class {class_map[folder]}, "
                f"expected 0 to {num_classes - 1}: mend that entry."
            )
    return {folder: class_map[folder] for folder in folders}


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
