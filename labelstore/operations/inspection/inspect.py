"""What is in a store: Figure 2 and Table 1 of the FerKD paper, classes, mistakes, extremes, bytes.

The store is gone through block by block, so that one of any size is inspected in little memory:
first the one array of largest probabilities, then whole labels, of which a large store has too many
and some groups of views are enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError
from labelstore.labels.ferkd import FerKD
from labelstore.labels.fitting import Shares, fit_members, fit_values
from labelstore.operations.inspection.description import bytes_on_disk
from labelstore.operations.inspection.tally import Tally
from labelstore.statistics.alerts import alerts
from labelstore.store.store import opened

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from labelstore.labels.fitting import DistinctValues
    from labelstore.store.store import Store

__all__ = ["report", "summary"]


def report(
    store: Store | str | os.PathLike[str],
    ferkd: FerKD | None = None,
    extremes: int = 5,
    tell: Callable[[int, int], None] | None = None,
    sample: int | None = None,
) -> dict[str, Any]:
    """Everything ``labelstore inspect`` tells, ready for JSON (``schemas/inspect.schema.json``).

    A crop is one view of one image. All shares are 0..1, over the labelled crops unless said
    otherwise, and None where there is nothing to divide by. ``error`` is half the width of the 95 %
    interval of an estimate, 0 where all crops were looked at. An incomplete store is inspected as
    far as it is committed.

    Args:
        store: a store, open or as a path or URL.
        ferkd: the rule whose decisions are counted; the paper's when None.
        extremes: how many of the hardest and easiest crops and images are named, at least 0.
        tell: called after each block with how many images, and how many views, it had.
        sample: how many views of each image are looked at, at least 1: whole groups of views,
            evenly spread, so it may be some more. When None, the confidences of all views, and the
            whole labels of as many as make about four million crops.

    Returns:
        a dict of

        - ``report_version``: 2;
        - ``store``: ``path``, ``id``, ``complete``, ``images``, ``views`` (of each image),
          ``crops`` (images x views), ``labelled_images``, ``labelled_crops``,
          ``unreadable_images``, ``blocks``, ``missing_blocks``, ``missing_images`` (of those
          blocks), ``k``, ``classes``, ``label_type``, ``temperature``, ``quantizer``, ``law`` (its
          description, "explicit", or None), ``teachers`` (a list: ``spec``, ``checkpoint``,
          ``input_size`` [height, width] and ``untrained`` of each), ``teacher_names`` (of all, also
          of those of which the name alone is known) and ``operation`` (None, or "merge" or
          "recode", by which the labels came from those of other stores);
        - ``class_names``: the names of all classes for a person, or None where unknown;
        - ``sample``: of how many ``views`` of each image the confidence, and of how many
          ``label_views`` the whole label was looked at, ``of`` how many;
        - ``histogram``: Figure 2; a list of 20 dicts ``low``, ``high``, ``count``, ``ratio``,
          ``error`` of the crops whose largest probability is in [low, high), the last closed above;
        - ``table``: Table 1; a list of 12 such dicts with ``aggregated_ratio`` as well: the share
          of the crops in [0, high);
        - ``thresholds``: ``confidence``: 0, 0.005, ... 1; ``at_most``: how many crops have at most
          that, of what the rule looks at;
        - ``ferkd``: ``low``, ``middle``, ``top``, ``confidence`` of the rule, ``by_class`` (None,
          or what classes have other thresholds: ``num_classes``, and lists ``classes``, ``low``,
          ``middle``, ``top``); ``discarded_low``, ``discarded_high``, ``calibrated``, ``kept``:
          each a dict of ``count``, ``share`` and ``error``; ``images_without_views``: images all of
          whose views are discarded;
        - ``fitted``: what ``FerKD.fit`` gives, of the largest probability of all crops: ``low``,
          ``middle``, ``top``, and ``shares`` of the crops under each part of that rule
          (``discarded_low``, ``calibrated``, ``kept``, ``discarded_high``); None with a sample, or
          without crops;
        - ``epochs``: for 1 and for 4 ``views_per_image`` a list of how many ``epochs`` there are
          without a repeated view;
        - ``agreement``: None without ground truth, or ``images`` and ``crops`` whose ground truth
          is known, ``top1``: the share of these crops whose largest class it is, ``n``: 5, or k
          where fewer are stored, ``top_n``: the share whose n largest classes have it, and
          ``top1_error``, ``top_n_error``;
        - ``reliability``: None without ground truth, or ``bins`` (those of the histogram, with
          ``count``, mean ``confidence`` and ``accuracy``) and ``expected_calibration_error``;
        - ``entropy``: of recovered labels, in nats: ``mean``, ``error``, ``histogram``;
        - ``residual``: for each ``rank`` 1..k the ``mean`` of the mass outside so many largest
          classes;
        - ``classes``: of each class with images, or that is the largest of any crop: ``class``,
          ``images``, ``crops``, mean ``confidence``, ``agreement`` and ``agreement_error``,
          ``drift``, ``entropy``, shares ``discarded``, ``calibrated``, ``kept``,
          ``images_without_views`` and ``predicted``: crops whose largest class it is;
        - ``confusion``: at most 100 of ``target``, ``predicted``, ``share`` (of the mass of the
          target's labels), ``images`` (``image``, ``key``, ``share`` of at most 3);
        - ``wrong_targets``: None without ground truth, or ``images`` judged, ``candidates`` and at
          most 50 ``entries`` (``image``, ``key``, ``target``, ``suggested``,
          ``target_probability``, ``suggested_probability``, ``views``, ``margin``, ``candidate``),
          the smallest margin first
          (``statistics.mistakes.suspicions``);
        - ``drift``: trace of the covariance of an image's labels over its views: ``mean``,
          ``histogram``, and the images with the ``largest`` and ``smallest``;
        - ``extremes``: ``hardest_views``, ``easiest_views``: lists of ``image`` (its position),
          ``key``, ``view``, ``confidence`` (the largest probability), hardest or easiest first;
          ``hardest_images``, ``easiest_images``: lists of ``image``, ``key``,
          ``mean_confidence`` over its views; ties go to the first;
        - ``alerts``: what should be looked at, in words: ``kind`` and ``text`` of each;
        - ``bytes``: ``parts``: bytes on disk of each array, with ``manifest`` for what is left,
          ``total``, ``per_crop`` (parts by labelled crop), ``total_per_crop``.

    Raises:
        UsageError: ``extremes`` is negative, or ``sample`` less than 1. CorruptError: what is on
        disk is not what was committed. LabelError: the rule looks at the ground truth and some is
        unknown.
    """
    if extremes < 0:
        raise UsageError(f"extremes is {extremes}, expected 0 or more: correct it.")
    _require_sample(sample)
    store = opened(store)
    with Tally(store, ferkd or FerKD(), extremes, sample) as tally:
        _add_all(tally, store, tell)
        whole = tally.result()
        looked_at_all = whole["sample"]["views"] == store.num_views
        whole["fitted"] = (
            _fitted(store, tally.values) if looked_at_all and store.labelled().any() else None
        )
    return whole | {"alerts": alerts(whole), "bytes": bytes_on_disk(store)}


def summary(
    store: Store,
    *,
    sample: int | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """What of ``report`` is told of the store as a whole, in memory that no store's size changes.

    Args:
        store, sample, tell: as ``report`` has them.

    Returns:
        all but ``confusion``, ``wrong_targets``, ``fitted`` and ``alerts``; ``extremes`` are empty.

    Raises:
        UsageError, CorruptError: as ``report``.
    """
    _require_sample(sample)
    with Tally(store, FerKD(), 0, sample, details=False) as tally:
        _add_all(tally, store, tell)
        return tally.result() | {"bytes": bytes_on_disk(store)}


def _require_sample(sample: int | None) -> None:
    if sample is not None and sample < 1:
        raise UsageError(f"sample is {sample}, expected 1 view of each image or more: correct it.")


def _add_all(tally: Tally, store: Store, tell: Callable[[int, int], None] | None) -> None:
    for block in tally.add(store.reader.committed_blocks()):
        if tell is not None:
            run = store.manifest.block_slice(block)
            tell(run.stop - run.start, (run.stop - run.start) * store.num_views)


def _fitted(store: Store, values: DistinctValues) -> dict[str, Any]:
    if values.few:
        fit = fit_values(values, Shares(), str(store.path))
    else:
        (fit,) = fit_members(store, Shares())
    return {"low": fit.low, "middle": fit.middle, "top": fit.top, "shares": fit.shares()}
