"""Class maps: files that say which class each class folder is."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelstore.errors import MismatchError, NotFoundError, UsageError, did_you_mean
from labelstore.images.sources.classes import other_form

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

__all__ = ["mapped_ids", "numbers_by_name", "read_class_map"]

_SHOWN = 5


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


def mapped_ids(
    folders: Sequence[str],
    num_classes: int,
    class_map: Mapping[str, int | str],
    class_names: Sequence[str] | None,
    called: Mapping[str, Sequence[int]] | None,
) -> dict[str, int]:
    """The class id, 0..num_classes-1, of each of some folders by a class map.

    Args:
        folders: what they are called.
        num_classes, class_map, class_names, called: as for ``targets.resolve_targets``.

    Raises:
        MismatchError: the class map lacks a folder.
        UsageError: it has an id out of range, or a name of no class or of several.
    """
    missing = [folder for folder in folders if folder not in class_map]
    if missing:
        shown = ", ".join(repr(folder) for folder in missing[:_SHOWN])
        more = ", ..." if len(missing) > _SHOWN else ""
        raise MismatchError(
            f"the class map lacks {len(missing)} of the {len(folders)} class folders ({shown}"
            f"{more}){other_form(missing[0], list(class_map))}: add them to it."
        )
    if called is None:
        called = numbers_by_name(class_names)
    ids: dict[str, int] = {}
    for folder in folders:
        value = class_map[folder]
        if isinstance(value, str):
            value = _class_called(value, folder, class_names, called)
        ids[folder] = value
    for folder, number in ids.items():
        if not 0 <= number < num_classes:
            raise UsageError(
                f"the class map gives the folder {folder!r} the class {number}, expected 0 to "
                f"{num_classes - 1}: mend that entry."
            )
    return ids


def numbers_by_name(class_names: Sequence[str] | None) -> dict[str, list[int]]:
    """name -> ids, rising, of the classes that have it; empty where the names are unknown."""
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(class_names or ()):
        by_name.setdefault(name, []).append(number)
    return by_name


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
