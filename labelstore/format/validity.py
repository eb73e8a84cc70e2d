"""Whether committed codes are those of labels: what a digest cannot tell, since it covers them all.

Pure functions over arrays. Everything is looked at in codes, which is a fraction of decoding it;
only the few labels that such a look leaves in doubt are decoded. A chunk is looked at once, when it
is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.format import codecs
from labelstore.format.arrays import LABELLED, UNREADABLE
from labelstore.format.codecs.base import NEAR
from labelstore.format.doubtful import ROUNDING, doubtful_labels
from labelstore.format.encoding import decode_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from labelstore.format.arrays import ArraySpec
    from labelstore.format.manifest import Manifest

    Codes = Mapping[str, npt.NDArray[Any]]
    Bools = npt.NDArray[np.bool_]

__all__ = [
    "are_surely_labels",
    "image_problem",
    "is_utf8",
    "label_problem",
    "prior_problem",
    "table_problem",
    "top_problem",
]


_PAIRS = 16
"""Up to so many classes a label are compared pair by pair, which is faster than sorting."""


def is_utf8(keys: Sequence[str]) -> bool:
    """Whether all keys can be written as UTF-8: none has a lone surrogate."""
    try:
        "".join(keys).encode()
    except UnicodeEncodeError:
        return False
    return True


def table_problem(
    keys: Sequence[str], targets: npt.NDArray[np.int32], num_classes: int
) -> str | None:
    """What is wrong with a table of n images' keys and targets (n,); None when nothing is."""
    if len(set(keys)) < len(keys):
        return "two images have the same key"
    text = "".join(keys)
    if "\0" in text:
        return "a key has a NUL"
    if not is_utf8((text,)):
        return "a key has half a character, which UTF-8 has not"
    low, high = int(targets.min()), int(targets.max())
    if low < -1 or high >= num_classes:
        return f"targets run from {low} to {high}, expected -1 to {num_classes - 1}"
    return None


def image_problem(codes: Codes) -> str | None:
    """What is wrong with a committed block's measured images; None when nothing is."""
    status = codes["images/status"]
    if not ((status == LABELLED) | (status == UNREADABLE)).all():
        return f"a status is neither {LABELLED} nor {UNREADABLE}"
    return None


def prior_problem(codes: Codes, num_classes: int) -> str | None:
    """What is wrong with the lists of likely classes of a block's images; None when nothing is."""
    classes, probs = codes["images/prior_classes"], codes["images/prior_probs"]
    empty = np.iinfo(classes.dtype).max
    ordered = np.sort(classes, axis=1)
    if int(ordered[:, -1].max(initial=0)) >= num_classes:
        is_filled = classes != empty
        if (is_filled[:, 1:] & ~is_filled[:, :-1]).any():
            return "a list has an empty place before a class"
        if int(np.where(is_filled, classes, 0).max(initial=0)) >= num_classes:
            return f"a list names a class above {num_classes - 1}"
        same = ordered[:, 1:] == ordered[:, :-1]
        if (same & (ordered[:, 1:] != empty)).any():
            return "a list names a class twice"
    elif _beside(np.equal, ordered):
        return "a list names a class twice"
    if probs.dtype.kind == "f" and not _are_probabilities(probs):
        return "a list has a probability that is none"
    if _beside(np.less, probs):
        return "a list's probabilities rise"
    return None


def _beside(compare: np.ufunc, rows: npt.NDArray[Any]) -> bool:
    """Whether a comparison holds of an entry (n, m) and the next one of its row."""
    # Of all at once, which takes a fraction of as many short rows, but for the ends of rows.
    flat = np.ascontiguousarray(rows).reshape(-1)
    holds = np.empty(len(flat), dtype=bool)
    compare(flat[:-1], flat[1:], out=holds[:-1])
    holds[rows.shape[1] - 1 :: rows.shape[1]] = False
    return bool(holds.any())


def top_problem(
    top: npt.NDArray[Any], unreadable: Bools, manifest: Manifest, fill: float
) -> str | None:
    """What is wrong with codes (n, views) of ``labels/top_prob``; None when nothing is.

    Args:
        unreadable: (n,) which images could not be read. fill: the code of no value.
    """
    if unreadable.any():
        if not _are_fill(top[unreadable], fill):
            return "an image that could not be read has labels"
        top = top[~unreadable]
    return None if _top_fits(top, manifest) else "a largest probability is none"


def label_problem(
    codes: Codes,
    specs: Sequence[ArraySpec],
    lists: npt.NDArray[Any],
    unreadable: Bools,
    manifest: Manifest,
) -> str | None:
    """What is wrong with the codes of n images' labels; None when they are labels.

    Args:
        codes: by array name, each (n, views, ...). specs: of these arrays.
        lists: (n, m) codes of the images' lists of likely classes, as they are stored; m may be 0.
        unreadable: (n,) which images could not be read, and have no labels.
        manifest: says how they are stored.
    """
    if unreadable.any():
        for spec in specs:
            if not _are_fill(codes[spec.name][unreadable], spec.fill):
                return "an image that could not be read has labels"
        readable = ~unreadable
        codes = {name: part[readable] for name, part in codes.items()}
        lists = lists[readable]
    if "views/flip" in codes and int(codes["views/flip"].max(initial=0)) > 1:
        return "a view is neither mirrored nor not"
    lists = lists if manifest.encoding == "codes" else lists[:, :0]
    labels = {name: part for name, part in codes.items() if name.startswith("labels/")}
    places = doubtful_labels([(labels, lists)], manifest)
    if places is None:
        return _problem(labels, lists, manifest)
    if not len(places):
        return None
    # Each as an image of one view.
    views = labels["labels/top_prob"].shape[1]
    doubtful = {name: part.reshape(-1, 1, *part.shape[2:])[places] for name, part in labels.items()}
    return _problem(doubtful, lists[places // views], manifest)


def are_surely_labels(chunks: Sequence[tuple[Codes, npt.NDArray[Any]]], manifest: Manifest) -> bool:
    """Whether a quick look at some chunks, all at once, tells that ``label_problem`` has none.

    Args:
        chunks: codes and lists as for ``label_problem``, of images that all have labels.
        manifest: says how they are stored.
    """
    if any(int(codes["views/flip"].max()) > 1 for codes, _ in chunks if "views/flip" in codes):
        return False
    if manifest.encoding != "codes":
        chunks = [(codes, lists[:, :0]) for codes, lists in chunks]
    places = doubtful_labels(chunks, manifest)
    return places is not None and not len(places)


def _problem(codes: Codes, lists: npt.NDArray[Any], manifest: Manifest) -> str | None:
    """As ``label_problem``, of images that have labels: their codes alone, and lists that these
    are ranks in, or none."""
    top, classes = codes["labels/top_prob"], codes["labels/classes"]
    rest = codes["labels/rest_probs"] if manifest.k > 1 else None
    if not _top_fits(top, manifest):
        return "a largest probability is none"
    if rest is not None and not _rest_fits(top.reshape(-1), rest, manifest):
        return "probabilities are none, rise, or exceed 1 in sum"
    if int(classes.max(initial=0)) >= manifest.num_classes + lists.shape[1]:
        return f"a class is above {manifest.num_classes - 1}"
    if lists.shape[1]:
        doubtful = _doubtful_ranks(classes, rest, lists)
    elif rest is not None:
        doubtful = _repeated(_places(classes), rest)
    else:
        doubtful = np.empty(0, dtype=np.int64)
    if len(doubtful) and not _are_distinct(codes, lists, doubtful, manifest):
        return "a label names a class twice, or an empty place of its image's list"
    return None


def _places(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(k, n * views) of codes (n, views, k): what is compared lies side by side."""
    return np.ascontiguousarray(codes.reshape(-1, codes.shape[-1]).T)


def _are_fill(codes: npt.NDArray[Any], fill: float) -> bool:
    return bool((np.isnan(codes) if np.isnan(fill) else codes == fill).all())


def _are_probabilities(values: npt.NDArray[Any]) -> bool:
    """Whether all are numbers from 0 to 1; NaN is not."""
    return not values.size or bool(values.min() >= 0 and values.max() <= 1)


def _top_fits(top: npt.NDArray[Any], manifest: Manifest) -> bool:
    if manifest.encoding == "plain":
        return _are_probabilities(top)
    return codecs.get(manifest.quantizer).top.holds(top)


def _rest_fits(top: npt.NDArray[Any], rest: npt.NDArray[Any], manifest: Manifest) -> bool:
    """Whether probabilities, largest (n * views,) and others (n, views, k - 1), are some, fall
    along a label and are at most 1 in sum."""
    plain = codecs.get("fp32") if manifest.encoding == "plain" else None
    quantizer = plain or codecs.get(manifest.quantizer)
    if not quantizer.rest.holds(rest):
        return False
    if quantizer.by_shares:
        # Shares of a limit that no sum exceeds.
        return True
    rest = _places(rest)
    largest, others = quantizer.top.near(top), quantizer.rest.near(rest)
    # Codes rise where their values do; those that are numbers are near themselves.
    falling = others if rest.dtype.kind == "f" else rest
    if (falling[1:] > falling[:-1]).any():
        return False
    sums = others.sum(axis=0)
    sums += largest
    # Also the sum's error is at most that of as many roundings.
    doubt = sums > 1 - 2 * NEAR - len(rest) * 1.2e-7
    doubt |= others[0] > largest * np.float32(1 - 2 * NEAR)
    places = np.flatnonzero(doubt)
    if not len(places):
        return True
    largest, others = quantizer.top.decode(top[places]), quantizer.rest.decode(rest[:, places])
    exact = largest + others.sum(axis=0, dtype=np.float64)
    return bool((others[0] <= largest).all() and (exact <= 1 + ROUNDING).all())


def _repeated(classes: npt.NDArray[Any], rest: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Which of n labels name a class twice.

    Args:
        classes: (k, n) ids.
        rest: (images, views, k - 1) codes of the labels' probabilities after the first.
    """
    k, count = classes.shape
    if k > _PAIRS:
        ids = classes.astype(np.int64)
        ids[1:] = np.where(_places(rest) > 0, ids[1:], np.arange(1, k)[:, None] - k)
        ids.sort(axis=0)
        return np.flatnonzero((ids[1:] == ids[:-1]).any(axis=0))
    doubt = np.zeros(count, dtype=bool)
    room = np.empty((k - 1, count), dtype=bool)
    is_stored = None
    for step in range(1, k):
        same = np.equal(classes[step:], classes[:-step], out=room[: k - step])
        if not np.count_nonzero(same):
            continue
        # Ids of places that hold nothing say nothing.
        if is_stored is None:
            is_stored = _places(rest) > 0
        same &= is_stored[step - 1 :]
        doubt |= same.any(axis=0)
    return np.flatnonzero(doubt)


def _doubtful_ranks(
    classes: npt.NDArray[Any], rest: npt.NDArray[Any] | None, lists: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Which labels of n images may name a class twice, or an empty place of their image's list.

    Args:
        classes: (n, views, k) codes; rest: (n, views, k - 1) codes of probabilities after the
            first. lists: (n, m) with m > 0.
    """
    views, k = classes.shape[1:]
    size = lists.shape[1]
    empty = np.iinfo(lists.dtype).max
    room = np.full(len(lists), size)
    if (lists[:, -1] == empty).any():
        room = (lists != empty).sum(axis=1)
    # Ranks are different, whatever they are, and most are small; a rank counts the places that no
    # earlier class has taken. So only classes outside the list, and large ranks, are looked at.
    codes = classes.reshape(-1)
    large = np.flatnonzero(codes >= max(int(room.min(initial=size)) - k + 1, 0))
    if not len(large):
        return large
    label, place = np.divmod(large, k)
    if rest is not None:
        is_stored = (place == 0) | (
            rest.reshape(-1)[label * (k - 1) + np.maximum(place - 1, 0)] > 0
        )
        large, label, place = large[is_stored], label[is_stored], place[is_stored]
    code, image = codes[large].astype(np.int64), label // views
    outside = code >= size
    doubt = ~outside & (code >= room[image] - place)
    code, image, stranger = code[outside] - size, image[outside], label[outside]
    listed = (lists[image] == code[:, None].astype(lists.dtype)).any(axis=1)
    named = np.sort(stranger << 32 | code)
    twice = named[1:][named[1:] == named[:-1]] >> 32
    return np.concatenate([label[doubt], stranger[listed], twice])


def _are_distinct(
    codes: Codes,
    lists: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    manifest: Manifest,
) -> bool:
    """Whether some labels, decoded, name different classes that there are."""
    views = codes["labels/classes"].shape[1]
    rows = labels // views
    parts = {
        name: part[rows, labels % views]
        for name, part in codes.items()
        if name.startswith("labels/")
    }
    empty = np.iinfo(lists.dtype).max
    ids = np.where(lists == empty, -1, lists.astype(np.int64)).astype(np.int32)
    classes, probs = decode_labels(parts, ids, rows, manifest)
    apart = np.sort(np.where(probs > 0, classes, -1 - np.arange(classes.shape[1])), axis=1)
    is_stored = probs > 0
    is_stored[:, 0] = True
    return bool((apart[:, 1:] != apart[:, :-1]).all() and (classes[is_stored] >= 0).all())
