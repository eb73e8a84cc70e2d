"""Labels <-> the codes that lie in a store's arrays: where quantizers and prior lists meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format import codecs
from labelstore.format.codecs import class_ranks
from labelstore.labels import prior
from labelstore.labels.prior import ImagePrior

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest

    Codes = dict[str, npt.NDArray[Any]]

__all__ = [
    "cut_at_mass",
    "decode_confidence",
    "decode_image_prior",
    "decode_label_classes",
    "decode_label_probs",
    "decode_labels",
    "decode_power",
    "decode_prior",
    "encode_labels",
    "encode_prior_probs",
]


_INT32 = np.dtype(np.int32)

_POWERS = (np.arange(256) / 100.0).astype(np.float32)
"""What the powers of prior lists are raised to, by their codes."""

_EMPTY = {bytes: 256**bytes - 1 for bytes in (2, 4)}
"""The class id that is none, by the bytes of an id."""


def encode_labels(
    indices: npt.NDArray[Any],
    probs: npt.NDArray[Any],
    lists: npt.NDArray[np.int32],
    manifest: Manifest,
) -> Codes:
    """Codes of a block's labels; ``manifest.top_p`` must have been applied to them.

    Args:
        indices: (n, V, k) class ids; probs: (n, V, k) probabilities, largest first.
        lists: (n, m) the images' prior lists, -1 for an empty place; m may be 0.
        manifest: says how.
    """
    quantizer = codecs.get(manifest.quantizer)
    top, rest = quantizer.encode(probs)
    # Class ids of places that hold nothing say nothing: one value for all. Code 0 is nothing.
    stored = rest > 0
    if manifest.encoding == "plain" or quantizer.by_shares:
        values = quantizer.decode(top, rest if manifest.k > 1 else None)
        stored = values[..., 1:] > 0
    if manifest.encoding == "plain":
        top, rest = values[..., 0], values[..., 1:]
        classes = np.array(indices)
    else:
        classes = class_ranks.encode(indices, lists, manifest.num_classes)
    classes[..., 1:] *= stored
    return {"labels/top_prob": top, "labels/classes": classes, "labels/rest_probs": rest}


def cut_at_mass(probs: npt.NDArray[Any], top_p: float | None) -> npt.NDArray[Any]:
    """Probabilities (..., k) with 0 for classes before which a mass has been reached already.

    As they are for None. What was cut once stays the same.
    """
    if top_p is None:
        return probs
    before = np.cumsum(probs, axis=-1, dtype=np.float64) - probs
    return np.where(before < top_p, probs, 0.0)


def decode_labels(
    codes: Mapping[str, npt.NDArray[Any]],
    lists: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int64],
    manifest: Manifest,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Class ids (n, k) and probabilities (n, k) of the codes of n labels.

    Args:
        codes: by array name, each (n, ...).
        lists: (images, m) prior lists; rows: (n,) each label's image in them.
        manifest: says how.
    """
    top, rest = codes["labels/top_prob"], codes.get("labels/rest_probs")
    if manifest.encoding == "plain":
        ids = codes["labels/classes"].astype(np.int32)
        parts = [top[:, None]] if rest is None else [top[:, None], rest]
        return ids, np.concatenate(parts, axis=1)
    values = codecs.get(manifest.quantizer).decode(top, rest)
    classes = class_ranks.decode(codes["labels/classes"], lists, rows)
    if manifest.prior_size:
        classes[:, 1:] = np.where(values[:, 1:] > 0, classes[:, 1:], 0)
    return classes, values


def decode_label_probs(
    codes: Mapping[str, npt.NDArray[Any]], place: int | tuple[int, ...], manifest: Manifest
) -> npt.NDArray[np.float32]:
    """The probabilities (k,) of one label, whose codes are known to be those of one: as
    ``decode_labels``, in a tenth of the time.

    Args:
        codes: by array name, each (*places, ...); place: of the label, among them.
        manifest: says how.
    """
    rest = codes["labels/rest_probs"][place] if manifest.k > 1 else None
    # Plain numbers are the values themselves, as those are.
    quantizer = codecs.get("fp32" if manifest.encoding == "plain" else manifest.quantizer)
    return quantizer.decode_label(codes["labels/top_prob"].item(place), rest)


def decode_label_classes(
    ids: npt.NDArray[Any], probs: npt.NDArray[np.float32], listed: npt.NDArray[Any]
) -> npt.NDArray[np.int32]:
    """The class ids (k,) of one label that are coded as places in its image's list; as
    ``decode_labels``.

    Args:
        ids: (k,) codes; probs: (k,) its probabilities.
        listed: (m,) codes of the list, as they are stored.
    """
    k = len(ids)
    # Classes that are not stored are the last.
    stored = k if probs.item(-1) else max(int(np.count_nonzero(probs)), 1)
    named = class_ranks.decode_label(ids.tolist()[:stored], listed)
    return np.array(named + [0] * (k - stored), _INT32)


def decode_confidence(top: npt.NDArray[Any], manifest: Manifest) -> npt.NDArray[np.float32]:
    """The largest probabilities of codes of ``labels/top_prob``, of any shape."""
    if manifest.encoding == "plain":
        return top.astype(np.float32)
    return codecs.get(manifest.quantizer).top.decode(top)


def encode_prior_probs(codes: npt.NDArray[np.uint8], manifest: Manifest) -> npt.NDArray[Any]:
    """What is stored of a prior's codes (..., m) of mean probabilities: they, or the
    values as float32."""
    return prior.decode_probs(codes) if manifest.encoding == "plain" else codes


def decode_prior(codes: Mapping[str, npt.NDArray[Any]]) -> ImagePrior:
    """The prior lists of a block's images from their codes (images, ...), by array name."""
    classes, probs = codes["images/prior_classes"], codes["images/prior_probs"]
    empty = np.iinfo(classes.dtype).max
    return ImagePrior(
        classes=np.where(classes == empty, -1, classes.astype(np.int64)).astype(np.int32),
        probs=prior.decode_probs(probs) if probs.dtype == np.uint8 else probs,
        power=_POWERS.take(codes["images/prior_power"]),
    )


def decode_image_prior(codes: Mapping[str, npt.NDArray[Any]], image: int) -> ImagePrior:
    """As ``decode_prior``, of one image's list, whose codes are known to be such.

    Args:
        codes: (images, ...) by array name; image: its place there.
    """
    stored, probs = codes["images/prior_classes"][image], codes["images/prior_probs"][image]
    classes = stored.astype(_INT32)
    # Empty places are the last.
    if stored.item(-1) == _EMPTY[stored.itemsize]:
        classes[stored == stored[-1]] = -1
    return ImagePrior(
        classes,
        prior.decode_probs(probs) if probs.itemsize == 1 else probs.copy(),
        decode_power(codes, image),
    )


def decode_power(codes: Mapping[str, npt.NDArray[Any]], image: int) -> npt.NDArray[np.float32]:
    """() float32: what the probabilities of one image's list are raised to; as ``decode_prior``."""
    power: npt.NDArray[np.float32] = _POWERS[codes["images/prior_power"].item(image)]
    return power
