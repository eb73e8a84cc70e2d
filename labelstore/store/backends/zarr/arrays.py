"""How a store's arrays are laid out in Zarr."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from labelstore.format.arrays import image_arrays, prior_arrays, view_arrays

if TYPE_CHECKING:
    from labelstore.format.arrays import ArraySpec
    from labelstore.format.manifest import Manifest

__all__ = [
    "ATTRIBUTE",
    "COMMITS",
    "DESCRIPTION",
    "KEYS",
    "TABLE_CHUNK",
    "TARGETS",
    "ArrayGrid",
    "all_arrays",
    "grid_of",
    "level_of",
]

DESCRIPTION = "zarr.json"
"""The object that describes a group, the store's own included, or an array."""

ATTRIBUTE = "labelstore"
"""The group attribute that holds the manifest."""

COMMITS, KEYS, TARGETS = "commits", "images/key", "images/target"

_LABELS_LEVEL = 3
"""That of all of a store without lists of likely classes. 5 takes twice as long; class ids, which
say little of each other, are of about the same size (2 % larger to 4 % smaller, the more the views
of a photo agree)."""

_LISTED_LEVEL = 8
"""That of ranks in lists, and of all else of a store that has lists but what is below. 9 takes two
to three times as long and makes ranks 0.1 to 0.5 % smaller; 5 makes them 6 to 19 % larger."""

_LISTED_LEVELS = {"labels/top_prob": 7, "labels/rest_probs": 7, "images/prior_probs": 9}
"""Probabilities, of the same size at 8 and 9, to 0.3 %; and those of lists, which are few, and up
to 1 % smaller at 9 than at 8."""

TABLE_CHUNK = 65536
"""Images of a chunk of keys or of targets."""


def level_of(name: str, manifest: Manifest) -> int:
    """The level of compression of one of ``all_arrays``; it is free, and any reader reads any."""
    return _LISTED_LEVELS.get(name, _LISTED_LEVEL) if manifest.prior_size else _LABELS_LEVEL


def all_arrays(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays of a store besides keys, targets and commits; labels in units are in none."""
    labels = view_arrays(manifest) if manifest.unit_images is None else ()
    return (*image_arrays(manifest), *prior_arrays(manifest), *labels)


class ArrayGrid(NamedTuple):
    """How an array is divided into objects."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    """Shape of a chunk, in shards of an inner one."""
    shards: tuple[int, ...] | None
    """Shape of a shard; None for an array without."""


def grid_of(spec: ArraySpec, manifest: Manifest) -> ArrayGrid:
    """The grid of one of ``all_arrays``."""
    block = manifest.block_images
    if "view" not in spec.axes:
        return ArrayGrid(spec.shape, (block, *spec.shape[1:]), None)
    rest = spec.shape[2:]
    whole = manifest.num_groups * manifest.group_views
    return ArrayGrid(spec.shape, (block, manifest.group_views, *rest), (block, whole, *rest))
