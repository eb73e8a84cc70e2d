"""A schedule tried out without training: what FerKD's rule leaves, how long it lasts, what is read.

Everything follows from the confidences, which are stored: no photo is opened.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from labelstore.calibrate import FerKD
from labelstore.curriculum import Direction
from labelstore.ensembles import Ensemble, opened_reader
from labelstore.errors import NotFoundError, UsageError
from labelstore.passing import decisions
from labelstore.schedule import (
    Schedule,
    budget_images,
    budget_share,
    groups_of_epoch,
    random_views,
    surgical_views,
)

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.calibrate import EnsembleFerKD
    from labelstore.labels import Tail
    from labelstore.passing import Counts, Decisions
    from labelstore.store import Store

    Int64Array = npt.NDArray[np.int64]

__all__ = ["dry_run"]

SAMPLE_IMAGES = 1024
"""Images for which an epoch of a surgical schedule is drawn, to see what it reads."""

_RUN = 4096
"""Images whose bits are counted at a time."""


def dry_run(
    reader: Store | Ensemble | str | os.PathLike[str],
    ferkd: FerKD | EnsembleFerKD | None = None,
    *,
    views_per_image: int = 1,
    schedule: Schedule = "surgical",
    epochs: int | None = None,
    budget: float = 1.0,
    seed: int = 0,
    tail: Tail | None = None,
) -> dict[str, Any]:
    """What a schedule would show, ready for JSON.

    All counts of views are over the labelled images; shares are 0..1 of them, None where there are
    no labelled views. An incomplete store is looked at as far as it is committed.

    Args:
        reader: a store, as it is or by its path or URL, or an ensemble.
        ferkd: the rule; the paper's when None.
        views_per_image: how many views of an image stand side by side, 1..num_views.
        schedule: as for ``labelstore.torch.ViewSampler``; ``"random"`` discards nothing.
        epochs: how many epochs the training has; None: not said, for the curricula an error.
        budget: share of the images that an epoch shows, as for ``ViewSampler``.
        seed: of the schedule.
        tail: how the residual mass is spread, where the confidence is that of recovered labels;
            as for ``TopK.recover``.

    Returns:
        a dict of

        - ``report_version``: 1;
        - ``stores``: ``path``, ``id`` and ``weight`` of each;
        - ``images``, ``labelled_images``, ``views`` (of each image), ``missing_blocks``;
        - ``settings``: ``rules`` (a dict of FerKD's parameters for each teacher, or one for all),
          ``views_per_image``, ``schedule``, ``epochs``, ``budget`` (as a fraction, ``"1/2"``) and
          ``seed``;
        - ``rules``: what each teacher's rule says of its own views, or one rule of the mean label:
          a list of ``source`` (path, or "mean label"), ``discarded_low``, ``calibrated``, ``kept``,
          ``discarded_high``, each ``count`` and ``share``;
        - ``together``: ``discarded``, ``calibrated``, ``kept``, likewise, after the teachers'
          decisions are combined;
        - ``views_left``: ``min``, ``q1``, ``median``, ``q3``, ``max``, ``mean`` over images of how
          many views are not discarded; ``images_without``: images that have none;
          ``images_with_too_few``: images that have some, and fewer than ``views_per_image``;
        - ``epochs_without_repeat``: ``min`` to ``max`` likewise: views that take part in the
          schedule // views_per_image, after how many epochs that show it an image must show a view
          again (a surgical schedule may a little sooner, since replacements are drawn); an image
          with none left counts as one that has ``views_per_image``, its most confident ones;
        - ``images_that_repeat``: images that must show a view again within ``epochs`` (of which a
          budget shows each image in its share); None without ``epochs``;
        - ``epoch``: ``images`` shown in the first one, ``views`` of them, ``groups`` of views that
          it reads (the mean over a cycle), ``of_groups``, ``label_bytes``: about how many bytes of
          labels these are on disk, over all stores; ``replaced``: the share of scheduled views that
          others replace, and ``from_elsewhere``: the share of shown views that lie in none of the
          epoch's groups, which are read besides (both of a sample of images that have a view left;
          None unless surgical).

    Raises:
        UsageError: numbers out of range. NotFoundError: no image is labelled. LabelError: the
        ground truth is needed and unknown. StoreError: labels are damaged.
    """
    reader = opened_reader(reader)
    rule = FerKD() if ferkd is None else ferkd
    _check(reader, schedule, views_per_image, epochs)
    images = np.flatnonzero(reader.labelled())
    if not images.size:
        raise NotFoundError(f"{reader.path} has no labelled image: there is nothing to schedule.")
    share = budget_share(budget, len(images))
    decided = decisions(reader, rule, tail)
    left = _count(decided.passes, images)
    calibrated = int(_count(decided.calibrated, images).sum())
    crops = len(images) * reader.num_views
    part = np.where(left, left, views_per_image)
    if schedule == "random":
        part = np.full_like(left, reader.num_views)
    lasting = part // views_per_image
    repeating = None
    if epochs is not None:
        # p of q epochs show an image; a curriculum's places count all of them.
        shown = epochs if schedule in get_args(Direction) else epochs * share.numerator
        parts = 1 if schedule in get_args(Direction) else share.denominator
        repeating = int((part * parts < shown * views_per_image).sum())
    first = images
    if share != 1:
        ratio = share.numerator, share.denominator
        first = images[budget_images(len(images), 0, ratio, seed)]
    return {
        "report_version": 1,
        "stores": _stores(reader),
        "images": reader.num_images,
        "labelled_images": len(images),
        "views": reader.num_views,
        "missing_blocks": len(reader.missing_blocks()),
        "settings": {
            "rules": _parameters(rule),
            "views_per_image": views_per_image,
            "schedule": schedule,
            "epochs": epochs,
            "budget": str(share),
            "seed": seed,
        },
        "rules": [_counts(found, crops) for found in decided.counts],
        "together": {
            "discarded": _part(crops - int(left.sum()), crops),
            "calibrated": _part(calibrated, crops),
            "kept": _part(int(left.sum()) - calibrated, crops),
        },
        "views_left": {**_quartiles(left), "mean": float(left.mean())},
        "images_without": int((left == 0).sum()),
        "images_with_too_few": int(((left > 0) & (left < views_per_image)).sum()),
        "epochs_without_repeat": _quartiles(lasting),
        "images_that_repeat": repeating,
        "epoch": {
            "images": len(first),
            "views": len(first) * views_per_image,
            **_reading(reader, schedule, views_per_image, seed),
            **_replacing(reader, decided, images[left > 0], schedule, views_per_image, seed),
        },
    }


def _check(reader: Store | Ensemble, schedule: str, views_per_image: int, epochs: Any) -> None:
    if schedule not in get_args(Schedule):
        raise UsageError(
            f"schedule is {schedule!r}, expected one of {', '.join(get_args(Schedule))}: choose "
            "one."
        )
    if not 1 <= views_per_image <= reader.num_views:
        raise UsageError(
            f"views per image is {views_per_image}, expected 1 to {reader.num_views}, the views "
            "that are stored of each image: choose a number in that range."
        )
    if schedule in get_args(Direction) and epochs is None:
        raise UsageError(
            f"a {schedule} schedule spreads an image's views over the whole training and the "
            "number of epochs was not given: give --epochs."
        )
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs is {epochs}, expected at least 1.")


def _count(bits: npt.NDArray[np.uint8], images: Int64Array) -> Int64Array:
    """(n,) int64: how many bits of each image are set."""
    out = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), _RUN):
        run = slice(start, start + _RUN)
        out[run] = np.unpackbits(bits[images[run]], axis=1).sum(axis=1)
    return out


def _stores(reader: Store | Ensemble) -> list[dict[str, Any]]:
    members = reader.members if isinstance(reader, Ensemble) else (reader,)
    weights = reader.weights.tolist() if isinstance(reader, Ensemble) else [1.0]
    return [
        {"path": str(member.path), "id": member.manifest.id, "weight": weight}
        for member, weight in zip(members, weights, strict=True)
    ]


def _parameters(rule: FerKD | EnsembleFerKD) -> list[dict[str, Any]]:
    rules = (rule,) if isinstance(rule, FerKD) else rule.rules
    return [dataclasses.asdict(one) for one in rules]


def _counts(found: Counts, crops: int) -> dict[str, Any]:
    names = ("discarded_low", "calibrated", "kept", "discarded_high")
    parts = {name: _part(getattr(found, name), crops) for name in names}
    return {"source": found.source, **parts}


def _part(count: int, whole: int) -> dict[str, Any]:
    return {"count": count, "share": count / whole}


def _quartiles(values: Int64Array) -> dict[str, Any]:
    """Least, quartiles and largest; the quartiles are values that occur, rounded down."""
    found = np.quantile(values, [0, 0.25, 0.5, 0.75, 1], method="lower").astype(int).tolist()
    return dict(zip(("min", "q1", "median", "q3", "max"), found, strict=True))


def _reading(
    reader: Store | Ensemble, schedule: Schedule, views_per_image: int, seed: int
) -> dict[str, Any]:
    """Which part of the labels an epoch reads, replacements from elsewhere left out."""
    manifest = reader.manifest
    if schedule in get_args(Direction):
        groups = float(manifest.num_groups)
    else:
        sizes = {
            "num_views": reader.num_views,
            "group_views": manifest.group_views,
            "views_per_image": views_per_image,
        }
        cycle = range(reader.num_views // views_per_image)
        groups = float(np.mean([len(groups_of_epoch(e, **sizes, seed=seed)) for e in cycle]))
    members = reader.members if isinstance(reader, Ensemble) else (reader,)
    total = sum(
        size
        for member in members
        for part, size in member.bytes_by_part().items()
        if part.startswith("labels/")
    )
    return {
        "groups": groups,
        "of_groups": manifest.num_groups,
        "label_bytes": round(total * groups / manifest.num_groups),
    }


def _replacing(
    reader: Store | Ensemble,
    decided: Decisions,
    images: Int64Array,
    schedule: Schedule,
    views_per_image: int,
    seed: int,
) -> dict[str, float | None]:
    """How much of an epoch is replaced, and how much of that is read besides."""
    if schedule != "surgical" or not images.size:
        return {"replaced": None, "from_elsewhere": None}
    chosen = images[:: -(-len(images) // SAMPLE_IMAGES)]
    bits = decided.passes[chosen]
    passes = np.unpackbits(bits, axis=1, count=reader.num_views).view(bool)
    sizes = {"group_views": reader.manifest.group_views, "views_per_image": views_per_image}
    nothing = np.zeros((len(chosen), views_per_image), dtype=np.int64)
    hashes = reader.key_hashes[chosen]
    planned = random_views(hashes, 0, num_views=reader.num_views, **sizes, seed=seed)
    shown = surgical_views(hashes, 0, passes, nothing, **sizes, seed=seed)
    read = groups_of_epoch(0, num_views=reader.num_views, **sizes, seed=seed)
    elsewhere = ~np.isin(shown // reader.manifest.group_views, read)
    return {
        "replaced": float((shown != planned).mean()),
        "from_elsewhere": float(elsewhere.mean()),
    }
