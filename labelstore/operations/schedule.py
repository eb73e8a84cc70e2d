"""A schedule tried out without training: what FerKD's rule leaves, how long it lasts, what is read.

Everything follows from the confidences, which are stored: no photo is opened.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from labelstore.errors import NotFoundError, UsageError, require_choice
from labelstore.labels.ferkd import FerKD
from labelstore.store.ensembles import opened_reader
from labelstore.store.slabs.slab import label_bytes
from labelstore.store.slabs.slab_cache import SLAB_BYTES
from labelstore.training.budget import budget_images, budget_share
from labelstore.training.curriculum import Direction
from labelstore.training.cycle import Schedule
from labelstore.training.decisions import count_views, decisions, pace_of
from labelstore.training.walk import Walk

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.labels.ferkd import EnsembleFerKD
    from labelstore.store.label_reader import LabelReader
    from labelstore.training.decisions import Counts, Decisions

    Int64Array = npt.NDArray[np.int64]

__all__ = ["dry_run"]

SAMPLE_IMAGES = 1024
"""Images whose walks are followed, to see where the views of a surgical epoch lie."""

SAMPLE_EPOCHS = 8
"""Epochs of a surgical schedule that are looked at, spread evenly."""


def dry_run(
    reader: LabelReader | str | os.PathLike[str],
    ferkd: FerKD | EnsembleFerKD | None = None,
    *,
    views_per_image: int = 1,
    schedule: Schedule = "surgical",
    epochs: int | None = None,
    budget: float = 1.0,
    seed: int = 0,
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
          schedule // views_per_image, how many epochs that show an image show no view of it again;
          an image with none left counts as one that has ``views_per_image``, its most confident
          ones;
        - ``images_that_repeat``: images that must show a view again within ``epochs`` (of which a
          budget shows each image in its share); None without ``epochs``;
        - ``epoch``: ``images`` shown in the first one, ``views`` of them; ``groups`` of views that
          they lie in (the mean over a cycle; of a surgical schedule, in which images go through
          their views at different speeds, over eight epochs spread over ``epochs``, or over two
          cycles of the random one, of a sample of images), ``of_groups``; ``label_bytes``: about
          how many bytes of labels these are on disk, over all stores; ``slab_bytes``: how many they
          take in memory; ``read_ahead``: the share of the views that lie in slabs where these may
          take 2 GiB, the default, the others being read chunk by chunk.

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
    decided = decisions(reader, rule)
    left = count_views(decided.passes, images)
    calibrated = int(count_views(decided.calibrated, images).sum())
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
    settings = {
        "rules": _parameters(rule),
        "views_per_image": views_per_image,
        "schedule": schedule,
        "epochs": epochs,
        "budget": str(share),
        "seed": seed,
    }
    return {
        "report_version": 1,
        "stores": _stores(reader),
        "images": reader.num_images,
        "labelled_images": len(images),
        "views": reader.num_views,
        "missing_blocks": len(reader.missing_blocks()),
        "settings": settings,
        "rules": [_counts(counts, crops) for counts in decided.counts],
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
            **_reading(reader, _spread(reader, decided, images, left, settings)),
        },
    }


def _check(reader: LabelReader, schedule: str, views_per_image: int, epochs: Any) -> None:
    require_choice("schedule", schedule, get_args(Schedule))
    if not 1 <= views_per_image <= reader.num_views:
        raise UsageError(
            f"views per image is {views_per_image}, expected 1 to {reader.num_views}, the views "
            "that are stored of each image: choose a number in that range."
        )
    if schedule in get_args(Direction) and epochs is None:
        raise UsageError(
            f"a {schedule} schedule spreads an image's views over the whole training and the "
            "number of epochs was not given: give it.",
            arguments=("epochs",),
        )
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs is {epochs}, expected at least 1.")


def _stores(reader: LabelReader) -> list[dict[str, Any]]:
    weights = reader.weights.tolist()
    return [
        {"path": str(member.path), "id": member.id, "weight": weight}
        for member, weight in zip(reader.members, weights, strict=True)
    ]


def _parameters(ferkd: FerKD | EnsembleFerKD) -> list[dict[str, Any]]:
    rules = (ferkd,) if isinstance(ferkd, FerKD) else ferkd.rules
    return [dataclasses.asdict(rule) for rule in rules]


def _counts(counts: Counts, crops: int) -> dict[str, Any]:
    parts = dataclasses.asdict(counts.views)
    return {"source": counts.source, **{name: _part(n, crops) for name, n in parts.items()}}


def _part(count: int, whole: int) -> dict[str, Any]:
    return {"count": count, "share": count / whole}


def _quartiles(values: Int64Array) -> dict[str, Any]:
    """Least, quartiles and largest; the quartiles are values that occur, rounded down."""
    quartiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1], method="lower").astype(int)
    return dict(zip(("min", "q1", "median", "q3", "max"), quartiles.tolist(), strict=True))


def _spread(
    reader: LabelReader,
    decided: Decisions,
    images: Int64Array,
    left: Int64Array,
    settings: dict[str, Any],
) -> npt.NDArray[np.float64]:
    """(e, num_groups) float64: the share of the views of e epochs that lies in each group."""
    manifest = reader.manifest
    some = images[left > 0]
    if settings["schedule"] in get_args(Direction) or not some.size:
        return np.full((1, manifest.num_groups), 1 / manifest.num_groups)
    m = settings["views_per_image"]
    pace = pace_of(left)
    walk = Walk(reader.num_views, manifest.group_views, m, settings["seed"], pace)
    cycle = -(-reader.num_views // m)
    if settings["schedule"] == "random":
        counts = np.stack([walk.groups(showing, None, 1) for showing in range(cycle)])
    else:
        # What counts are showings: a budget shows an image in some of the epochs.
        epochs = settings["epochs"]
        length = 2 * cycle if epochs is None else -int(-epochs * Fraction(settings["budget"]) // 1)
        showings = np.arange(SAMPLE_EPOCHS) * length // SAMPLE_EPOCHS
        chosen = some[:: -(-len(some) // SAMPLE_IMAGES)]
        bits = decided.passes[chosen]
        passes = np.unpackbits(bits, axis=1, count=reader.num_views).view(bool)
        counts = np.stack([walk.groups(showing, passes, len(chosen)) for showing in showings])
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _reading(reader: LabelReader, spread: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Which part of the labels an epoch needs, and which part of that is in memory."""
    manifest = reader.manifest
    groups = float(np.count_nonzero(spread, axis=1).mean())
    on_disk = sum(
        size
        for member in reader.members
        for part, size in member.bytes_by_part().items()
        if part.startswith("labels/")
    )
    in_memory = sum(
        label_bytes(member.manifest) * member.num_images * reader.num_views
        for member in reader.members
    )
    # Of a group that does not fit alone the first images are held.
    room = SLAB_BYTES * manifest.num_groups / in_memory
    falling = -np.sort(-spread, axis=1)
    in_slabs = np.clip(room - np.arange(manifest.num_groups), 0, 1)
    if room >= 1:
        in_slabs = np.floor(in_slabs)
    return {
        "groups": groups,
        "of_groups": manifest.num_groups,
        "label_bytes": round(on_disk * groups / manifest.num_groups),
        "slab_bytes": round(in_memory * groups / manifest.num_groups),
        "read_ahead": float(np.minimum((falling * in_slabs).sum(axis=1), 1).mean()),
    }
