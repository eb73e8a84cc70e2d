"""Which photo of a source is which image of a store, and why a photo is probably not there."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from labelstore.images.formats import is_image_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

__all__ = ["Cause", "KeyPairs", "OtherRoot", "alike_keys", "other_root", "pair_keys"]

Cause = Literal["normal-form", "case", "extension", "folder", "renamed", "root"]
"""Why a key is missing: a key of the source is the same but for Unicode's normal form, upper and
lower case, the suffix, or the folder; the same file has another name; the source is the folder
above or below that of the store."""

_DEPTH = 4
"""Folders by which a source's root may be another."""


class KeyPairs(NamedTuple):
    """The images of a store and the photos of a source."""

    places: npt.NDArray[np.int64]
    """(num_images,): where the source has each image, -1 where it lacks it."""
    extra: list[int]
    """Places of the photos that are no image of the store."""
    without_suffix: bool
    """Whether the store's keys have the suffixes that the source's lack, as those of shards do."""


class OtherRoot(NamedTuple):
    """The source's folder is another than the store's keys are relative to."""

    above: bool
    """Whether it lies above the right one."""
    folder: str
    """Between the two, without a slash at its end."""


def pair_keys(keys: Sequence[str], source_keys: Sequence[str], shards: bool) -> KeyPairs:
    """Find each image of a store in a source.

    Args:
        keys: of the store. source_keys: of the source.
        shards: whether these are keys of tar samples, which lack the suffix that the key of a file
            has: a store of a folder fits shards that were packed from it.
    """
    known = {key: place for place, key in enumerate(source_keys)}
    places = np.fromiter((known.get(key, -1) for key in keys), np.int64, len(keys))
    without_suffix = False
    if shards and (places < 0).all():
        stems = (known.get(_stem(key), -1) for key in keys)
        places = np.fromiter(stems, np.int64, len(keys))
        without_suffix = bool((places >= 0).any())
    own = np.zeros(len(source_keys), dtype=bool)
    own[places[places >= 0]] = True
    return KeyPairs(places, np.flatnonzero(~own).tolist(), without_suffix)


def other_root(keys: Sequence[str], source_keys: Sequence[str]) -> OtherRoot | None:
    """The folder by which a source's root is another, where that explains most missing keys.

    Args:
        keys: of a store none of whose keys the source has.
    """
    ours, theirs = set(keys), set(source_keys)
    roots: Counter[OtherRoot] = Counter()
    for key in source_keys:
        for folder, rest in _splits(key):
            if rest in ours:
                roots[OtherRoot(True, folder)] += 1
    for key in keys:
        for folder, rest in _splits(key):
            if rest in theirs:
                roots[OtherRoot(False, folder)] += 1
    if not roots:
        return None
    (root, count), *_ = roots.most_common(1)
    return root if 2 * count > len(keys) else None


def _splits(key: str) -> Iterable[tuple[str, str]]:
    """Leading folders of a key, and the rest of it."""
    parts = key.split("/")
    for depth in range(1, min(len(parts), _DEPTH + 1)):
        yield "/".join(parts[:depth]), "/".join(parts[depth:])


def alike_keys(missing: Sequence[str], spare: Sequence[str]) -> dict[str, tuple[Cause, str]]:
    """For each missing key the spare one that it probably became, and why, as far as names tell.

    Args:
        missing: keys that a source lacks. spare: keys of it that a store lacks.
    """
    forms: list[tuple[Cause, Callable[[str], str]]] = [
        ("normal-form", _composed),
        ("case", _folded),
        ("extension", _folded_stem),
        ("folder", posixpath.basename),
    ]
    likely: dict[str, tuple[Cause, str]] = {}
    for cause, form in forms:
        counts = Counter(map(form, spare))
        by_form = {form(key): key for key in spare}
        # A name that several have tells nothing.
        missing_counts = Counter(map(form, missing))
        for key in missing:
            same = form(key)
            if key not in likely and counts[same] == 1 and missing_counts[same] == 1:
                likely[key] = (cause, by_form[same])
    return likely


def _composed(key: str) -> str:
    return unicodedata.normalize("NFC", key)


def _folded(key: str) -> str:
    return _composed(key).casefold()


def _stem(key: str) -> str:
    return posixpath.splitext(key)[0] if is_image_name(key) else key


def _folded_stem(key: str) -> str:
    return _folded(_stem(key))
