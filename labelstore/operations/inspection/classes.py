"""The classes of a store or of a teacher: numbers, names, and how many images each has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError, did_you_mean
from labelstore.store.ensembles import opened_reader
from labelstore.teachers.class_names import human_names, meanings, names_of, words_of
from labelstore.teachers.load import load_teacher
from labelstore.teachers.timm_networks import classes_of_name

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.store.label_reader import LabelReader

__all__ = ["classes_of_store", "classes_of_teacher", "matching"]

_SAVED = ("hf-hub:", "local-dir:")


@dataclass(frozen=True)
class _Classes:
    """Classes by their names, where these are known."""

    count: int
    class_names: tuple[str, ...] | None

    def listed(self, images: npt.NDArray[np.int64] | None) -> list[dict[str, Any]]:
        stored = self.class_names or (None,) * self.count
        humans = human_names(self) or stored
        defined = meanings(self) or (None,) * self.count
        return [
            {
                "class": number,
                "name": name,
                "human_name": human,
                "words": [] if name is None else list(words_of(name)),
                "meaning": meaning,
                "images": None if images is None else int(images[number]),
            }
            for number, (name, human, meaning) in enumerate(
                zip(stored, humans, defined, strict=True)
            )
        ]


def classes_of_store(store: LabelReader | str | os.PathLike[str]) -> dict[str, Any]:
    """The classes that a store's teacher knows, ready for JSON (``schemas/classes.schema.json``).

    Args:
        store: a store or an ensemble, open, or the path or URL of a store.

    Returns:
        a dict of ``classes_version``: 1; ``store``: its path; ``teacher``: None; ``count``: how
        many classes; ``images``: how many images; ``unknown_images``: those without a known ground
        truth; ``classes``: a list in their order of ``class`` (its number), ``name`` (as it is
        stored, a WordNet id or another, or None), ``human_name`` (or None), ``words`` (all of a
        WordNet id), ``meaning`` (of a WordNet id, or None), ``images`` (whose ground truth it is).

    Raises:
        Those of ``labelstore.open``. CorruptError: the table of images is damaged.
    """
    store = opened_reader(store)
    targets = store.targets
    known = targets[targets >= 0]
    images = np.bincount(known, minlength=store.num_classes)
    classes = _Classes(store.num_classes, store.manifest.class_names)
    return {
        "classes_version": 1,
        "store": str(store.path),
        "teacher": None,
        "count": store.num_classes,
        "images": store.num_images,
        "unknown_images": store.num_images - len(known),
        "classes": classes.listed(images),
    }


def classes_of_teacher(
    spec: str, checkpoint: str | None = None, num_classes: int | None = None
) -> dict[str, Any]:
    """The classes that a teacher knows, as ``classes_of_store`` tells them, without images.

    Args:
        spec, checkpoint, num_classes: as for ``labelstore.teachers.load_teacher``. Of a network of
            timm without a checkpoint no weights are fetched: its classes are known without.

    Raises:
        Those of ``load_teacher``.
    """
    kind, _, name = spec.partition(":")
    if kind == "timm" and name and checkpoint in (None, "none") and not name.startswith(_SAVED):
        count, names = classes_of_name(name, num_classes)
    else:
        weights = "none" if kind == "timm" and checkpoint is None else checkpoint
        teacher = load_teacher(spec, checkpoint=weights, device="cpu", num_classes=num_classes)
        count, names = teacher.num_classes, teacher.class_names
    return {
        "classes_version": 1,
        "store": None,
        "teacher": spec,
        "count": count,
        "images": None,
        "unknown_images": None,
        "classes": _Classes(count, names).listed(None),
    }


def matching(listing: dict[str, Any], text: str) -> dict[str, Any]:
    """Those of the classes that a text finds.

    Args:
        listing: of ``classes_of_store`` or ``classes_of_teacher``.
        text: a class's number, or (unless it is all digits) a part of its name, its human name or
            one of its words; small and capital letters are the same.

    Returns:
        The same with fewer ``classes``; those that are called just so come first.

    Raises:
        NotFoundError: there is none; it names some that look like the text.
    """
    folded = text.casefold()

    def called(entry: dict[str, Any]) -> list[str]:
        names = [entry["name"], entry["human_name"], *entry["words"]]
        return [name.casefold() for name in names if name]

    exact, partly = [], []
    for entry in listing["classes"]:
        if text == str(entry["class"]) or folded in called(entry):
            exact.append(entry)
        elif not text.isdecimal() and any(folded in name for name in called(entry)):
            partly.append(entry)
    if not exact and not partly:
        named = _Classes(
            listing["count"], tuple(entry["name"] or "" for entry in listing["classes"])
        )
        near = did_you_mean(text, [name for name in names_of(named) if name])
        raise NotFoundError(
            f"none of the {listing['count']} classes is called {text!r}, expected a number, or a "
            f"part of a name{': ' + near if near else '.'}",
            arguments=("find",),
        )
    return {**listing, "classes": [*exact, *partly]}
