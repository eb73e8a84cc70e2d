"""A source of any size whose photos are all the same file, and the teacher of a store of them."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

from benchmarks.support.synthetic_photos import synthetic_photo
from labelstore.images.sources.passed_over import PassedOver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelstore.teachers.teacher import Teacher

__all__ = ["OnePhoto", "photo", "teacher"]


@functools.cache
def photo() -> bytes:
    """The file: small, so that comparing a million of them takes what looking them up takes."""
    file = io.BytesIO()
    synthetic_photo(0, 96, 72).save(file, "JPEG", quality=90)
    return file.getvalue()


def teacher() -> Teacher:
    """One that takes next to nothing: what labelling itself takes is measured elsewhere."""
    from labelstore.teachers.load import load_teacher

    return load_teacher("timm:test_resnet", checkpoint="none", device="cpu", size=64)


class OnePhoto:
    """A source of these keys, as ``labelstore.images.FolderSource`` is one of files."""

    mixed = False
    classes = numbers = None
    path = "photos"

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys, self.passed_over = tuple(keys), PassedOver()

    def __len__(self) -> int:
        return len(self.keys)

    def class_name(self, _index: int) -> None:
        return None

    def path_of(self, index: int) -> str:
        return self.keys[index]

    def read(self, _index: int) -> bytes:
        return photo()
