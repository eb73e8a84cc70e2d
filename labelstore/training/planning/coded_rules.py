"""FerKD's rule over stored codes of largest probabilities, which rise where their values do.

To compare codes takes a fraction of decoding them and comparing the values: where a threshold lies
among the codes is looked up once. The compiled part (``_coded_rules.c``) passes over them once,
without the interpreter's lock; where it was not built NumPy does the same.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from labelstore.compiled import compiled_part
from labelstore.format import codecs
from labelstore.format.encoding import decode_confidence
from labelstore.labels.actions import ActionCounts
from labelstore.labels.calibration.thresholds import Edges

if TYPE_CHECKING:
    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.labels.ferkd import FerKD

    Bits = npt.NDArray[np.uint8]

__all__ = ["Decided", "decided", "decided_codes"]


_PART = "labelstore.training.planning._coded_rules"

# Now, and not by one of several threads.
compiled_part(_PART)


class Decided(NamedTuple):
    """What a rule does with the views of n images."""

    passes: Bits
    """(n, ceil(views / 8)) uint8, view 0 in the highest bit: labelled, and not discarded."""
    calibrated: Bits
    """Likewise: calibrated."""
    counts: ActionCounts
    """How many views fall under which part."""


def decided(rule: FerKD, plane: npt.NDArray[Any], truths: npt.NDArray[np.int32]) -> Decided:
    """A rule over confidences.

    Args:
        rule: the rule.
        plane: (n, views) confidences, NaN where there are none.
        truths: (n, 1) ground-truth class ids, -1 where unknown.
    """
    values = np.asarray(plane, dtype=np.float32)
    known = ~np.isnan(values)
    low, calibrated, high = rule.parts(values, truths)
    # An unreadable image has no confidence (NaN), and no bit.
    return _packed(known & ~(low | high), calibrated, low, int(np.count_nonzero(known)))


def decided_codes(
    rule: FerKD,
    codes: npt.NDArray[Any],
    truths: npt.NDArray[np.int32],
    is_judged: npt.NDArray[np.bool_],
    manifest: Manifest,
) -> Decided:
    """As ``decided``, of a store's codes.

    Args:
        rule: the rule; its ``confidence`` is ``"max"``.
        codes: (n, views) of ``labels/top_prob``, of probabilities where an image is judged.
        truths: (n, 1) ground-truth class ids, -1 where unknown.
        is_judged: (n,) images that have labels, and are looked at.
        manifest: says how probabilities are coded.
    """
    if not is_judged.all():
        passes = np.zeros((len(codes), -(-codes.shape[1] // 8)), dtype=np.uint8)
        calibrated = np.zeros_like(passes)
        some = decided_codes(
            rule, codes[is_judged], truths[is_judged], is_judged[is_judged], manifest
        )
        passes[is_judged], calibrated[is_judged] = some.passes, some.calibrated
        return Decided(passes, calibrated, some.counts)
    values = None
    if manifest.encoding == "codes":
        values = codecs.get(manifest.quantizer).top.values
    if values is None:
        return decided(rule, decode_confidence(codes, manifest), truths)
    edges = Edges(*(_first_above(edge, values, codes.dtype) for edge in rule.edges(truths)))
    compiled = _compiled()
    if compiled is not None:
        return _decided_compiled(compiled, edges, codes)
    above_low = codes >= edges.low
    calibrated = above_low & (codes < edges.middle)
    return _packed(above_low & (codes < edges.top), calibrated, ~above_low, codes.size)


def _decided_compiled(compiled: Any, edges: Edges, codes: npt.NDArray[Any]) -> Decided:
    """Codes (n, views), decided by edges among them, () or (n, 1)."""
    shape = len(codes), -(-codes.shape[1] // 8)
    passes, calibrated = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    own = np.array([np.ravel(edge) for edge in edges], dtype=codes.dtype)
    whole = np.ascontiguousarray(codes)
    low, changed, kept = compiled.decide(whole, own, passes, calibrated)
    counts = ActionCounts(low, changed, kept - changed, codes.size - low - kept)
    return Decided(passes, calibrated, counts)


@functools.cache
def _compiled() -> Any:
    """The compiled part; None where it was not built."""
    return compiled_part(_PART)


def _first_above(edge: Any, values: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> Any:
    """(...) the first code whose value is above an edge (...); of rising values, of which no code
    is as large as their number."""
    return np.searchsorted(values, np.asarray(edge, np.float32), side="right").astype(dtype)


def _packed(
    passes: npt.NDArray[np.bool_],
    calibrated: npt.NDArray[np.bool_],
    low: npt.NDArray[np.bool_],
    views: int,
) -> Decided:
    """Of (n, views) arrays: which pass, are calibrated, or are too low; of so many views."""
    kept, changed, below = (int(np.count_nonzero(part)) for part in (passes, calibrated, low))
    counts = ActionCounts(below, changed, kept - changed, views - below - kept)
    return Decided(np.packbits(passes, axis=1), np.packbits(calibrated, axis=1), counts)
