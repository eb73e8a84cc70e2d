"""What FerKD's rule says about every view of a store, from its confidences alone.

Which views pass, at one bit a view, is what a surgical schedule looks at: made once for each set of
thresholds by streaming a store, 80 MB for 1.28 M images x 500 views. That of a large store is made
once a machine (``labelstore.training.planning.kept_arrays``).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from labelstore.labels.actions import ActionCounts
from labelstore.labels.ferkd import FerKD
from labelstore.store.mixed_views import require_unmixed
from labelstore.training.cycle import most_confident
from labelstore.training.planning.bounded_rules import deciding_confidence
from labelstore.training.planning.coded_rules import decided, decided_codes
from labelstore.training.planning.kept_arrays import kept_or_made
from labelstore.training.planning.progress import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from labelstore.labels.ferkd import EnsembleFerKD
    from labelstore.store.label_reader import LabelReader
    from labelstore.training.planning.coded_rules import Decided

    BoolArray = npt.NDArray[np.bool_]
    Planes = Iterator[tuple[slice, npt.NDArray[Any]]]

__all__ = [
    "Decisions",
    "ViewMask",
    "confidence_planes",
    "count_views",
    "decisions",
    "pace_of",
    "view_mask",
]

_RUN_IMAGES = 256
"""Images without a passing view whose confidences are read at a time."""

_DOING = "Looking at the confidences of all views"

_FEWEST_KEPT = 2**22
"""Views of a store whose mask is kept, at least: that of fewer is made in seconds."""

_RUN_LABELS = 1024
"""Labels that are recovered at a time: what is made of them stays in a processor's cache."""

_RUN_BOUNDS = 4096
"""Labels of which bounds are found at a time: the few that need more are recovered together."""

_RUN_BITS = 4096
"""Images whose bits are counted at a time."""


@dataclass(frozen=True)
class ViewMask:
    """The views of every image that are not discarded."""

    bits: npt.NDArray[np.uint8]
    """(num_images, ceil(num_views / 8)) uint8, view 0 in the highest bit of the first byte."""
    num_views: int
    without_views: npt.NDArray[np.int64]
    """(h,) int64, rising: labelled images of which every view is discarded."""
    most_confident: npt.NDArray[np.int64]
    """(h, count) int64: their most confident views, falling."""
    pace: int
    """``pace_of`` all images: at least 1."""

    def passes(self, images: npt.NDArray[np.int64]) -> BoolArray:
        """(n, num_views) bool, for images by position."""
        return np.unpackbits(self.bits[images], axis=1, count=self.num_views).view(bool)

    def fallback(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n, count) int64: the most confident views where none passes, 0 elsewhere."""
        out = np.zeros((len(images), self.most_confident.shape[1]), dtype=np.int64)
        places = np.searchsorted(self.without_views, images)
        rows = np.flatnonzero(places < len(self.without_views))
        rows = rows[self.without_views[places[rows]] == images[rows]]
        out[rows] = self.most_confident[places[rows]]
        return out


@dataclass(frozen=True)
class Decisions:
    """What a rule does with every view: of a store, of one member of an ensemble, or of all."""

    passes: npt.NDArray[np.uint8]
    """(num_images, ceil(num_views / 8)) uint8, a bit a view: labelled, and not discarded."""
    calibrated: npt.NDArray[np.uint8]
    """Likewise: calibrated, by any of the teachers."""
    counts: tuple[Counts, ...]
    """What each teacher's own rule says; of the mean label alone for ``ensemble="mean"``."""


@dataclass(frozen=True)
class Counts:
    """How many views of a source fall under which part of a rule."""

    source: str
    """Path of the teacher's store, or ``"mean label"``."""
    views: ActionCounts


def view_mask(
    reader: LabelReader,
    ferkd: FerKD | EnsembleFerKD,
    count: int,
) -> ViewMask:
    """Apply a rule to the confidence of every view.

    The mask of a large store is loaded where a process of this user made it before, of the same
    rule and the same committed labels: those are then not read, and found damaged when they are.

    Args:
        reader: a store or an ensemble, complete.
        ferkd: the rule; for an ensemble its ``ensemble`` says how the teachers combine.
        count: how many views to keep of an image that has no passing one, 1..num_views.

    Raises:
        LabelError: ``confidence="target"`` and an image without ground truth.
        StoreError: labels are missing or damaged.
        UsageError: rules for another number of teachers; views that are mixed with others.
    """
    require_unmixed(reader, "FerKD")
    if reader.num_images * reader.num_views < _FEWEST_KEPT:
        arrays = _mask_arrays(reader, ferkd, count)
    else:
        # What is asked for is checked whether it is kept or not.
        ferkd.require_classes(reader.num_classes)
        ferkd.rules_for(len(reader.members))
        identity = _identity(reader, ferkd, count)
        arrays = kept_or_made(identity, lambda: _mask_arrays(reader, ferkd, count))
    pace = int(arrays["pace"][0])
    best = arrays["most_confident"]
    return ViewMask(arrays["bits"], reader.num_views, arrays["without_views"], best, pace)


def _mask_arrays(
    reader: LabelReader, ferkd: FerKD | EnsembleFerKD, count: int
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of ``ViewMask``, and its pace as (1,)."""
    bits = decisions(reader, ferkd, calibrated=False).passes
    counts = count_views(bits, np.arange(reader.num_images))
    without_views = np.flatnonzero((counts == 0) & reader.labelled())
    best = np.empty((len(without_views), count), dtype=np.int64)
    targets = np.asarray(reader.targets)
    for start in range(0, len(without_views), _RUN_IMAGES):
        run = slice(start, start + _RUN_IMAGES)
        confidence = _confidence(reader, without_views[run], ferkd, targets, reader.num_views)
        best[run] = most_confident(confidence, count)
    return {
        "bits": bits,
        "without_views": without_views,
        "most_confident": best,
        "pace": np.array([pace_of(counts)]),
    }


def _identity(reader: LabelReader, ferkd: FerKD | EnsembleFerKD, count: int) -> list[str]:
    """All that decides a mask: the rule, the labels as they are committed, whose views of which."""
    rows = [reader.member_rows(number) for number in range(len(reader.members))]
    arrays = [np.asarray(reader.targets), *rows]
    return [
        xxhash.xxh3_128_hexdigest(repr(ferkd).encode()),
        reader.id,
        *(member.reader.commits_digest() for member in reader.members),
        *(xxhash.xxh3_128_hexdigest(np.ascontiguousarray(part).tobytes()) for part in arrays),
        f"{reader.num_images} x {reader.num_views}, {count}",
    ]


def count_views(
    bits: npt.NDArray[np.uint8], images: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """(n,) int64: how many bits of each of images (n,) by position are set."""
    out = np.empty(len(images), dtype=np.int64)
    words = np.zeros((_RUN_BITS, -(-bits.shape[1] // 8)), dtype=np.uint64)
    for start in range(0, len(images), _RUN_BITS):
        part = bits[images[start : start + _RUN_BITS]]
        words.view(np.uint8)[: len(part), : bits.shape[1]] = part
        out[start : start + _RUN_BITS] = _set_bits(words[: len(part)])
    return out


def _set_bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """(n,) int64: how many bits of rows (n, m) are set."""
    # NumPy 1 counts none.
    count = getattr(np, "bitwise_count", None)
    bits = np.unpackbits(words.view(np.uint8), axis=1) if count is None else count(words)
    return np.asarray(bits.sum(axis=1, dtype=np.int64))


def pace_of(counts: npt.NDArray[np.int64]) -> int:
    """The pace of a surgical schedule (``labelstore.training.walk``): the median, rounded down, of
    the numbers of passing views of images that have any; 1 where none has."""
    some = counts[counts > 0]
    return int(np.median(some)) if some.size else 1


def decisions(
    reader: LabelReader, ferkd: FerKD | EnsembleFerKD, *, calibrated: bool = True
) -> Decisions:
    """What a rule does with every labelled view; the arguments and errors are ``view_mask``'s.

    ``calibrated``: whether ``Decisions.calibrated`` is wanted; else it is zeros, which take no
    memory.
    """
    targets = np.asarray(reader.targets)
    require_unmixed(reader, "FerKD")
    ferkd.require_classes(reader.num_classes)
    if len(reader.members) == 1 or ferkd.ensemble == "mean":
        (rule,) = ferkd.rules_for(1)
        judged = targets, reader.labelled()
        return _decide(reader, rule, *judged, reader.num_views, calibrated=calibrated)
    return _combined(reader, ferkd)


def confidence_planes(
    reader: LabelReader,
    ferkd: FerKD | EnsembleFerKD | None = None,
) -> Planes:
    """Runs of images, as slices, and their confidences (n, num_views) floats, NaN without labels.

    The largest probabilities of a store are an array of their own; for anything else whole labels
    are read.

    Args:
        reader: a store or an ensemble; its confidence is that of the mean label.
        ferkd: whose ``confidence`` says which probability counts; the largest when None.
    """
    rule = FerKD() if ferkd is None else ferkd
    targets = np.asarray(reader.targets)
    return _planes(reader, rule, targets, reader.labelled(), reader.num_views)


def _combined(reader: LabelReader, ferkd: FerKD | EnsembleFerKD) -> Decisions:
    """The members' decisions, each read in its own order of images, combined image by image."""
    passes = calibrated = np.zeros((1, 1), dtype=np.uint8)
    counts: list[Counts] = []
    labelled = reader.labelled()
    rules = ferkd.rules_for(len(reader.members))
    for number, (member, rule) in enumerate(zip(reader.members, rules, strict=True)):
        rows = reader.member_rows(number)
        # Images that other members lack are looked at by nobody, and may lack ground truth.
        is_read = np.zeros(member.num_images, dtype=bool)
        is_read[rows] = labelled
        targets = np.full(member.num_images, -1, dtype=np.int32)
        targets[rows] = reader.targets
        own = _decide(member, rule, targets, is_read, reader.num_views)
        counts += own.counts
        member_passes, changed = own.passes[rows], own.calibrated[rows]
        if not number:
            passes, calibrated = member_passes, changed
            continue
        passes = passes | member_passes if ferkd.ensemble == "all" else passes & member_passes
        calibrated = calibrated | changed
    return Decisions(passes, calibrated & passes, tuple(counts))


def _decide(
    reader: LabelReader,
    rule: FerKD,
    targets: npt.NDArray[np.int32],
    is_read: BoolArray,
    num_views: int,
    *,
    calibrated: bool = True,
) -> Decisions:
    """One rule over the first ``num_views`` views of the images that are read; ``calibrated`` as
    for ``decisions``."""
    passes = np.zeros((reader.num_images, -(-num_views // 8)), dtype=np.uint8)
    # Memory of zeros is taken as it is filled.
    changed = np.zeros(passes.shape, dtype=np.uint8)
    counts = ActionCounts()
    for rows, some in _decided(reader, rule, targets, is_read, num_views):
        passes[rows] = some.passes
        if calibrated:
            changed[rows] = some.calibrated
        counts += some.counts
    source = "mean label" if len(reader.members) > 1 else str(reader.path)
    return Decisions(passes, changed, (Counts(source, counts),))


def _decided(
    reader: LabelReader,
    rule: FerKD,
    targets: npt.NDArray[np.int32],
    is_read: BoolArray,
    num_views: int,
) -> Iterator[tuple[slice, Decided]]:
    """What a rule says of runs of images; in threads where confidences are an array of their
    own."""
    (first, *others), manifest = reader.members, reader.manifest
    if others or rule.confidence != "max":
        planes = _planes(reader, rule, targets, is_read, num_views, deciding=True)
        for rows, plane in planes:
            yield rows, decided(rule, plane, targets[rows, None])
        return
    is_judged, threads = is_read & reader.labelled(), first.reader.threads
    committed = first.reader.committed_blocks()

    def of_blocks(blocks: list[int]) -> Iterator[tuple[slice, Decided]]:
        for block, codes in zip(blocks, first.reader.top_probs_of(blocks), strict=True):
            rows = manifest.block_slice(block)
            part = codes[:, :num_views], targets[rows, None], is_judged[rows]
            yield rows, decided_codes(rule, *part, manifest)

    if threads == 1:
        # What has threads of its own reads several blocks at a time.
        yield from watched(of_blocks(committed), manifest.num_blocks, _DOING)
        return
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda block: list(of_blocks([block])), committed)
        for (part,) in watched(parts, manifest.num_blocks, _DOING):
            yield part


def _planes(
    reader: LabelReader,
    rule: FerKD | EnsembleFerKD,
    targets: npt.NDArray[np.int32],
    is_read: BoolArray,
    num_views: int,
    *,
    deciding: bool = False,
) -> Planes:
    """Confidence planes of the first views; NaN for images that are not read.

    ``deciding``: numbers do which fall under the same parts of the rule, a FerKD.
    """
    if rule.confidence == "max" and len(reader.members) == 1:
        planes = reader.members[0].iter_confidence()
        for rows, plane in watched(planes, reader.manifest.num_blocks, _DOING):
            yield rows, np.where(is_read[rows, None], plane[:, :num_views], np.float32(np.nan))
        return
    blocks = reader.manifest.num_blocks
    for block in watched(range(blocks), blocks, _DOING):
        rows = reader.manifest.block_slice(block)
        images = rows.start + np.flatnonzero(is_read[rows])
        if not images.size:
            continue
        confidence = _confidence(reader, images, rule, targets, num_views, deciding=deciding)
        plane = np.full((rows.stop - rows.start, num_views), np.nan, dtype=confidence.dtype)
        plane[images - rows.start] = confidence
        yield rows, plane


def _confidence(
    reader: LabelReader,
    images: npt.NDArray[np.int64],
    rule: FerKD | EnsembleFerKD,
    targets: npt.NDArray[np.int32],
    num_views: int,
    *,
    deciding: bool = False,
) -> npt.NDArray[Any]:
    """(n, num_views) float32 from labels as stored; of an ensemble the mean over its members.

    ``deciding`` as for ``_planes``.
    """
    known = targets[images][:, None]
    parts = []
    for group in range(-(-num_views // reader.manifest.group_views)):
        columns = np.arange(num_views)[reader.manifest.group_slice(group)]
        topk = reader.read(images[:, None], columns)
        size = -(-(_RUN_BOUNDS if deciding else _RUN_LABELS) // len(columns))
        runs = [slice(start, start + size) for start in range(0, len(images), size)]
        if deciding and isinstance(rule, FerKD):
            of_runs = [deciding_confidence(rule, topk[run], known[run]) for run in runs]
        else:
            of_runs = [rule.confidence_of(None, topk[run], known[run]) for run in runs]
        parts.append(np.concatenate(of_runs))
    return np.concatenate(parts, axis=1)
