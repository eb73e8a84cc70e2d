"""One image of a store: its crops, what the teacher said of them, and what FerKD makes of that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import NotFoundError, UsageError, did_you_mean
from labelstore.labels.actions import Action
from labelstore.labels.distribution import largest
from labelstore.labels.ferkd import FerKD
from labelstore.labels.top_k import TopK
from labelstore.store.ensembles import opened_reader
from labelstore.store.lineage import teacher_names
from labelstore.store.store import Store
from labelstore.teachers.class_names import human_names
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.labels.actions import Calibrated
    from labelstore.labels.ensemble import EnsembleTopK
    from labelstore.store.label_reader import LabelReader
    from labelstore.views.law import Views

    Int64Array = npt.NDArray[np.int64]

__all__ = ["chosen_views", "describe", "operations_of", "overview", "position_of"]

BINS = 20
"""Of the histogram of an image's confidences."""

_SAME = 1e-6
"""Probabilities this near are one: labels are float32."""


def describe(
    store: LabelReader | str | os.PathLike[str],
    image: int | str,
    views: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
    ferkd: FerKD | None = None,
) -> dict[str, Any]:
    """What a store says of views of one image, ready for JSON (``schemas/show.schema.json``).

    Args:
        store: a store or an ensemble, open, or the path or URL of a store.
        image: its position, or its key (as for `position_of`).
        views: numbers of views, told in this order; all of them when None.
        ferkd: the rule whose decisions are told; the paper's when None.

    Returns:
        a dict of

        - ``show_version``: 1;
        - ``store``: ``path``, ``id``, ``images``, ``views`` (of each image), ``classes``, ``k``,
          ``label_type``, ``teachers`` (a list of their specs), ``input_size`` ([height, width] in
          pixels of what the first teacher saw, or None), ``interpolation`` (or None), ``has_boxes``
          (whether it says which crops its labels belong to);
        - ``image`` (its position), ``key``, ``width`` and ``height`` (pixels, None where unknown),
          ``target`` (its class, None where unknown), ``target_name`` (for a person, or None);
        - ``ferkd``: ``low``, ``middle``, ``top`` (those of the image's class, where the rule has
          thresholds by class), ``smoothing``, ``confidence``, ``ensemble``;
        - ``views``: a list of a dict for each view: ``view`` (its number); ``box`` [top, left,
          height, width] in pixels and ``flip``, both None where unknown; ``confidence``: what the
          rule looks at, 0..1; ``classes`` and ``probs``: the stored classes, likeliest first, and
          their probabilities (of an ensemble the likeliest of the mean over its teachers);
          ``names`` of these for a person, or None; ``residual``: the mass of all other classes;
          ``target_prob``: the ground truth's probability (where it is not stored, as the tail
          spreads it; None where the ground truth is unknown); ``action``: ``kept``, ``calibrated``,
          ``discarded_low``, ``discarded_high``, or ``discarded`` where the teachers of an ensemble
          discard it for different reasons; ``calibrated``: None, or, where the rule makes another
          label than the teacher's, the likeliest ``classes``, their ``names`` and ``probs``. It is
          None too where that needs the ground truth and this is unknown.

    Raises:
        NotFoundError: there is no such image or view, or the image could not be decoded when the
            store was made. IncompleteError: its block is not committed. CorruptError: what is on
            disk is not what was committed. LabelError: the rule looks at the ground truth and this
            is unknown.
    """
    store = opened_reader(store)
    row = position_of(store, image)
    # The thresholds of the image's class, where the rule has such: those that are told below.
    rule = (ferkd or FerKD()).of_class(int(store.targets[row]))
    numbers = np.arange(store.num_views) if views is None else np.asarray(views, dtype=np.int64)
    geometry = _geometry(store, row, numbers)
    width, height = (int(side) for side in store.sizes(row))
    target = int(store.targets[row])
    names = human_names(store.manifest)
    manifest = store.manifest
    teachers = [teacher for member in store.members for teacher in member.manifest.teachers]
    labels = None
    if len(numbers):
        labels = _Labels(store.read(row, numbers), rule, target, names)
    return {
        "show_version": 1,
        "store": {
            "path": str(store.path),
            "id": store.id,
            "images": store.num_images,
            "views": store.num_views,
            "classes": store.num_classes,
            "k": max(member.k for member in store.members),
            "label_type": manifest.label_type,
            "teachers": [
                name for member in store.members for name in teacher_names(member.manifest)
            ],
            "input_size": list(teachers[0]["input_size"]) if teachers else None,
            "interpolation": str(teachers[0]["interpolation"]) if teachers else None,
            "has_boxes": geometry is not None,
        },
        "image": row,
        "key": store.keys[row],
        "width": width if width > 0 else None,
        "height": height if height > 0 else None,
        "target": target if target >= 0 else None,
        "target_name": None if names is None or target < 0 else names[target],
        "ferkd": {
            "low": rule.low,
            "middle": rule.middle,
            "top": rule.top,
            "smoothing": rule.smoothing,
            "confidence": rule.confidence,
            "ensemble": rule.ensemble,
        },
        "views": [
            {"view": int(view), **_crop(geometry, place, store.keys), **labels.told(place)}
            for place, view in enumerate(numbers)
            if labels is not None
        ],
    }


class _Labels:
    """Labels (n) of views of one image, and what a rule does with them."""

    def __init__(
        self,
        topk: TopK | EnsembleTopK,
        rule: FerKD,
        target: int,
        names: tuple[str, ...] | None,
    ) -> None:
        k = max(member.k for member in topk.members)
        self._names = names
        self._top = topk if isinstance(topk, TopK) else largest(topk.recover(), k)
        self._confidence = rule.confidence_of(None, topk, None if target < 0 else target)
        # Where the rule looks at the largest probability, which class is the truth decides nothing.
        done = rule.apply(topk, np.full(len(self._confidence), max(target, 0)))
        self._actions = _actions(topk, rule, done, self._confidence, max(target, 0))
        self._target_probs = None
        if target >= 0:
            soft = topk.recover()
            self._target_probs = (
                topk.probability(target) if isinstance(topk, TopK) else soft.probability(target)
            )
        before, after = largest(topk.recover(), k), largest(done.labels, k)
        apart = np.abs(before.probs.astype(np.float64) - after.probs) > _SAME
        apart |= (before.indices != after.indices) & (after.probs > 0)
        # Without the ground truth a calibrated label would be that of a class made up here.
        differs = apart.any(axis=-1) & ((target >= 0) | (done.action != Action.CALIBRATED))
        self._calibrated, self._differs = after, differs

    def told(self, place: int) -> dict[str, Any]:
        """Of one view."""
        stored = self._listed(self._top, place)
        target_probs = self._target_probs
        return {
            "confidence": float(self._confidence[place]),
            **stored,
            "residual": max(0.0, 1.0 - sum(stored["probs"])),
            "target_prob": None if target_probs is None else float(target_probs[place]),
            "action": self._actions[place],
            "calibrated": self._listed(self._calibrated, place) if self._differs[place] else None,
        }

    def _listed(self, top: TopK, place: int) -> dict[str, Any]:
        is_stored = top.probs[place] > 0
        classes = top.indices[place][is_stored].tolist()
        names = self._names
        return {
            "classes": classes,
            "names": None if names is None else [names[number] for number in classes],
            "probs": top.probs[place][is_stored].tolist(),
        }


def _actions(
    topk: TopK | EnsembleTopK,
    rule: FerKD,
    done: Calibrated,
    confidence: npt.NDArray[np.float32],
    target: int,
) -> list[str]:
    """What the rule does with each view, and why it discards one."""
    whole = len(topk.members) == 1 or rule.ensemble == "mean"
    values = [confidence] if whole else []
    if not whole:
        values = [rule.confidence_of(None, member, target) for member in topk.members]
    parts = [rule.parts(value) for value in values]
    low = np.any([part.low for part in parts], axis=0)
    high = np.any([part.high for part in parts], axis=0)
    words = []
    for action, is_low, is_high in zip(done.action.tolist(), low, high, strict=True):
        if action != Action.DISCARDED:
            words.append(Action(action).name.lower())
        elif is_low and is_high:
            words.append("discarded")
        else:
            words.append("discarded_low" if is_low else "discarded_high")
    return words


def _geometry(store: LabelReader, row: int, views: Int64Array) -> Views | None:
    """Boxes and flips; None where nothing tells them."""
    if store.law is None:
        return None
    if isinstance(store.law, ViewLaw) and min(int(side) for side in store.sizes(row)) < 1:
        return None
    return store.views(row, views)


def _crop(geometry: Views | None, place: int, keys: Sequence[str]) -> dict[str, Any]:
    if geometry is None:
        return {"box": None, "flip": None}
    crop: dict[str, Any] = {
        "box": geometry.box[place].tolist(),
        "flip": bool(geometry.flip[place]),
    }
    if geometry.stages:
        crop["operations"] = operations_of(geometry, place, keys)
    return crop


def operations_of(geometry: Views, place: Any, keys: Sequence[str]) -> list[dict[str, Any]]:
    """What stages do to the pixels of a view, in order.

    Args:
        geometry: of views. place: of one of them there. keys: of the store's images.

    Returns:
        of each operation ``name`` and ``values`` (see ``StageParameters``), and of one that mixes
        ``partner``, the key of the other image, and ``partner_view``.
    """
    operations: list[dict[str, Any]] = [
        {"name": stage.names[code], "values": values.tolist()}
        for stage in geometry.stages
        for code, values in zip(stage.operation[place], stage.values[place], strict=True)
        if code
    ]
    partners = geometry.partners
    if partners is not None and partners.image[place] >= 0:
        operations[-1] |= {
            "partner": keys[int(partners.image[place])],
            "partner_view": int(partners.view[place]),
        }
    return operations


def position_of(store: LabelReader, image: int | str) -> int:
    """Position of an image by position, by key, or by a text that is one of these.

    A key of digits is taken for a key before it is taken for a position.

    Raises:
        NotFoundError: there is none; it names keys that look like what was asked for.
    """
    if not isinstance(image, str):
        return int(store.positions([image])[0])
    try:
        return int(store.index_of(image))
    except NotFoundError:
        # The store's own message names one key only; and a number may be meant.
        pass
    if re.fullmatch(r"[0-9]{1,18}", image):
        return int(store.positions([int(image)])[0])
    near = did_you_mean(image, store.keys)
    raise NotFoundError(
        f"{store.path} has no image {image!r}, expected a key (such as {store.keys[0]!r}) or a "
        f"position, 0 to {store.num_images - 1}{': ' + near if near else '.'}"
    )


def chosen_views(
    store: LabelReader, image: int, choices: Sequence[str], ferkd: FerKD | None = None
) -> list[int]:
    """Numbers of the views that words choose, each once, in the order in which they are named.

    Args:
        store: whose. image: by position.
        choices: words, or several of them separated by commas: ``7``, ``10-20`` (both ends are
            among them), ``all``, and ``hardest:4`` or ``easiest:4``, those of the least or the
            greatest confidence, the extreme one first.
        ferkd: the rule that says what confidence is; the paper's when None.

    Raises:
        UsageError: a word is none of these. NotFoundError: there is no such view; those of
        ``describe`` where the confidence is looked at.
    """
    count = store.num_views
    numbers: list[int] = []
    for word in (part.strip() for choice in choices for part in choice.split(",")):
        if word == "all":
            numbers += range(count)
        elif extreme := re.fullmatch(r"(hardest|easiest):([1-9][0-9]{0,8})", word):
            values = _confidence(store, image, ferkd or FerKD())
            order = np.argsort(values if extreme[1] == "hardest" else -values, kind="stable")
            numbers += order[: int(extreme[2])].tolist()
        elif bounds := re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word):
            first, last = int(bounds[1]), int(bounds[2] or bounds[1])
            if first > last:
                raise UsageError(
                    f"the views {word!r} end before they begin: write {last}-{first}.",
                    arguments=("views",),
                )
            if last >= count:
                raise NotFoundError(
                    f"view {last} was asked for, {store.path} has {count} (0 to {count - 1}).",
                    arguments=("views",),
                )
            numbers += range(first, last + 1)
        else:
            raise UsageError(
                f"the views are {word!r}, expected numbers and ranges such as 0,3,10-20, all, "
                "hardest:4 or easiest:4.",
                arguments=("views",),
            )
    return list(dict.fromkeys(numbers))


def overview(store: LabelReader, image: int, ferkd: FerKD | None = None) -> dict[str, Any]:
    """All views of an image in few numbers, ready for JSON.

    Args:
        store: whose. image: by position. ferkd: the rule; the paper's when None.

    Returns:
        a dict of ``mean_confidence``; ``histogram``: how many views have a confidence in each of 20
        equal parts of [0, 1], lower bounds inclusive, the last part closed above; ``actions``: how
        many views come under each action (as ``describe`` names them).

    Raises:
        Those of ``describe``.
    """
    topk = store.read(image, np.arange(store.num_views))
    target = int(store.targets[image])
    rule = (ferkd or FerKD()).of_class(target)
    confidence = rule.confidence_of(None, topk, None if target < 0 else target)
    done = rule.apply(topk, np.full(store.num_views, max(target, 0)))
    actions = _actions(topk, rule, done, confidence, max(target, 0))
    edges = np.array([edge / BINS for edge in range(1, BINS)], dtype=np.float32)
    bins = np.searchsorted(edges, confidence, side="right")
    return {
        "mean_confidence": float(confidence.mean(dtype=np.float64)),
        "histogram": np.bincount(bins, minlength=BINS).tolist(),
        "actions": {word: actions.count(word) for word in dict.fromkeys(sorted(actions))},
    }


def _confidence(store: LabelReader, image: int, rule: FerKD) -> npt.NDArray[np.float32]:
    """(V,) what the rule looks at."""
    if isinstance(store, Store) and rule.confidence == "max" and store.labelled()[image]:
        # One array in place of all.
        return np.asarray(store.confidence(slice(image, image + 1))[0])
    target = int(store.targets[image])
    topk = store.read(image, np.arange(store.num_views))
    return np.asarray(rule.confidence_of(None, topk, None if target < 0 else target))
