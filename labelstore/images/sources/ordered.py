"""A source's photos in an order of one's own, some of them, and names of photos that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from labelstore.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from labelstore.images.sources.choose import ImageSource

__all__ = ["OrderedSource", "RearrangedSource", "with_first"]


class OrderedSource:
    """Reads like a source of the photos of these keys, in their order.

    Classes it has none: ground truth is made of the source itself.

    Args:
        photos: where they are read. keys: of this source; those that ``photos`` lacks cannot be
            read.
    """

    mixed = False
    classes: tuple[str, ...] | None = None
    numbers: npt.NDArray[np.int64] | None = None

    def __init__(self, photos: ImageSource, keys: Sequence[str]) -> None:
        self._photos = photos
        places = {key: place for place, key in enumerate(photos.keys)}
        photo_places = (places.get(key, -1) for key in keys)
        self._places = np.fromiter(photo_places, dtype=np.int64, count=len(keys))
        self.path, self.passed_over = photos.path, photos.passed_over
        self.keys = tuple(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def class_name(self, index: int) -> str | None:
        """None."""
        return None

    def path_of(self, index: int) -> Path | str:
        """Where photo number ``index`` lies; its key where the source lacks it."""
        place = int(self._places[index])
        return self.keys[index] if place < 0 else self._photos.path_of(place)

    def read(self, index: int) -> bytes:
        """The encoded file of photo number ``index``; SourceError where the source lacks it, or as
        there."""
        place = int(self._places[index])
        if place < 0:
            raise SourceError(
                f"the photo {self.keys[index]!r} is not in {self.path}: restore it there."
            )
        return self._photos.read(place)


class RearrangedSource(OrderedSource):
    """All photos of a source in another order, with what it tells of their classes.

    Args:
        photos: the source. keys: all of its keys.
    """

    def __init__(self, photos: ImageSource, keys: Sequence[str]) -> None:
        super().__init__(photos, keys)
        self.classes, self.mixed = photos.classes, photos.mixed
        self.numbers = None if photos.numbers is None else photos.numbers[self._places]
        self.label_names = getattr(photos, "label_names", None)
        self.unlabelled = getattr(photos, "unlabelled", "")

    def class_name(self, index: int) -> str | None:
        """What the class of photo number ``index`` is called, as the source has it."""
        return self._photos.class_name(int(self._places[index]))


def with_first(photos: ImageSource, keys: Sequence[str]) -> ImageSource:
    """A source with the photos of these keys first, in their order, and then the others; as it is
    where it lacks one of them."""
    first = set(keys)
    ordered = (*keys, *(key for key in photos.keys if key not in first))
    if ordered == photos.keys or len(ordered) != len(photos):
        return photos
    return cast("ImageSource", RearrangedSource(photos, ordered))
