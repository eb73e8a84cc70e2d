"""Where a store's labels come from: which operations, on which stores, by which release."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import labelstore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.format.manifest import Manifest
    from labelstore.store.store import Store

__all__ = [
    "CONVERTED_FROM",
    "TEACHER",
    "TEACHERS",
    "TEACHER_NAMES",
    "lineage",
    "origin",
    "teacher_names",
]

RELEASE, HISTORY, TEACHERS = "labelstore", "history", "teachers"
"""What an origin's settings call the release that worked, what was done before, and what made the
labels of merged stores."""

TEACHER_NAMES = "teacher_names"
"""What they call the names of all of these, where some are known by their names alone."""

TEACHER, CONVERTED_FROM = "teacher", "converted from"
"""What the producer of labels that another project made has, where it is known: the teacher's name,
and the format of its files."""

PUBLISHED = "published"
"""What they call the URLs on the hub from which sources were read, with their commits where known.
Other places are nobody else's business."""


def origin(operation: str, sources: Sequence[Store], settings: dict[str, Any]) -> dict[str, Any]:
    """A manifest's ``origin``: of which stores its labels were made, how, and what came before.

    Args:
        operation: its name, the command's.
        sources: the stores that are read.
        settings: what decides the labels besides, as JSON has it.

    Returns:
        ``{"operation", "stores", "settings"}``; the settings with ``labelstore``, the release,
        where sources are on the hub ``published``, their URLs, and where a source has an origin
        itself ``history``: as ``lineage`` tells of the sources.
    """
    first = sources[0].manifest
    if first.teacher is None:
        # What a merge told of its teachers is told of what is made of it.
        teachers, names = [dict(teacher) for teacher in first.teachers], _names_of_merged(first)
        settings = ({TEACHERS: teachers} if teachers else {}) | settings
        settings = ({TEACHER_NAMES: list(names)} if names else {}) | settings
    history: list[dict[str, Any]] = []
    for source in sources:
        history += [step for step in lineage(source.manifest) if step not in history]
    release = {RELEASE: labelstore.__version__}
    settings = settings | release | ({HISTORY: history} if history else {})
    published = [str(source.path) for source in sources if str(source.path).startswith("hf://")]
    if published:
        settings[PUBLISHED] = published
    return {
        "operation": operation,
        "stores": [source.manifest.id for source in sources],
        # As it is read again, or an interrupted run would find a tuple to be another list.
        "settings": json.loads(json.dumps(settings)),
    }


def lineage(manifest: Manifest) -> list[dict[str, Any]]:
    """What was done to make a store, the earliest first; [] where a teacher, or arrays, made it.

    Returns:
        ``{"operation", "stores", "result", "settings"}`` of each step: the ids of what was read and
        of what was made, and the settings without what the steps before did and without the
        teachers' descriptions.
    """
    if manifest.origin is None:
        return []
    settings = dict(manifest.origin["settings"])
    earlier = settings.pop(HISTORY, [])
    settings.pop(TEACHERS, None)
    settings.pop(TEACHER_NAMES, None)
    # Settings may hold anything in a store from a stranger.
    steps = [step for step in earlier if _is_step(step)] if isinstance(earlier, list) else []
    return [*steps, {**manifest.origin, "result": manifest.id, "settings": settings}]


def teacher_names(manifest: Manifest) -> tuple[str, ...]:
    """What made a store's labels, in words: each teacher's spec, or the name that was given with
    labels of another project; of merged stores those of all; () where unknown."""
    names = _names_of_merged(manifest)
    if names:
        return names
    if manifest.teachers:
        return tuple(str(teacher["spec"]) for teacher in manifest.teachers)
    # Of a merge it is the first store's alone.
    merged = any(step["operation"] == "merge" for step in lineage(manifest))
    name = manifest.producer.get(TEACHER)
    return () if merged or not name else (name,)


def _names_of_merged(manifest: Manifest) -> tuple[str, ...]:
    """As an origin's settings have them, which may hold anything in a store from a stranger."""
    names = None if manifest.origin is None else manifest.origin["settings"].get(TEACHER_NAMES)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _is_step(step: Any) -> bool:
    return (
        isinstance(step, dict)
        and step.keys() == {"operation", "stores", "result", "settings"}
        and isinstance(step["operation"], str)
        and isinstance(step["result"], str)
        and isinstance(step["stores"], list)
        and all(isinstance(store, str) for store in step["stores"])
        and isinstance(step["settings"], dict)
    )
