"""Rows of Hugging Face's ``datasets``, joined by key."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Unpack

from labelstore.errors import UsageError
from labelstore.images.sources.folder import read_image
from labelstore.torch.joins.view_join import JoinOptions, ViewJoin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from labelstore.store.label_reader import LabelReader

__all__ = ["HuggingFaceViews"]


class HuggingFaceViews(ViewJoin):
    """A transform for ``set_transform`` of Hugging Face's ``datasets``.

    ``dataset[i]`` becomes ``{"pixels": (m, 3, height, width), "labels": TorchSoftLabels}``;
    ``collate_views`` makes batches of these. Every row must have labels: ``select`` the rows whose
    keys are in ``labelstore.open(path).keys``.
    """

    def __init__(
        self,
        store: LabelReader | str | os.PathLike[str],
        views_per_image: int = 1,
        *,
        key_column: str | None = None,
        image_column: str = "image",
        root: str | None = None,
        **options: Unpack[JoinOptions],
    ) -> None:
        """Plan epochs over a store.

        Args:
            store, views_per_image, options: as for ``ViewJoin``, but for ``budget``: choose rows
                with ``select`` instead.
            key_column: the column with the images' keys. When None: the ``path`` of images that are
                not decoded (``cast_column("image", datasets.Image(decode=False))``).
            image_column: images, decoded or not.
            root: a folder that keys are relative to, as with local files (``imagefolder``).

        Raises:
            UsageError, MismatchError, IncompleteError: as ``ViewJoin``.
        """
        if "budget" in options:
            raise UsageError(
                "a budget was asked for and a transform cannot leave rows out: choose rows with "
                "dataset.select."
            )
        super().__init__(store, views_per_image, **options)
        self.key_column, self.image_column, self.root = key_column, image_column, root

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Columns ``pixels`` and ``labels`` of rows.

        Raises:
            NotFoundError: the store has no such image. UsageError: a column is missing, or the keys
            are unknown. SourceError: the file of an image that is not decoded cannot be read.
            Others as ``join``.
        """
        for column in (self.image_column, self.key_column):
            if column is not None and column not in rows:
                raise UsageError(
                    f"the rows have the columns {', '.join(rows)} and no {column!r}: give "
                    "image_column= and key_column=."
                )
        photos = [_encoded(item) for item in rows[self.image_column]]
        numbers = [self.image_of(key) for key in self._keys(rows)]
        samples = self.join(numbers, photos)
        return {
            "pixels": [pixels for pixels, _ in samples],
            "labels": [labels for _, labels in samples],
        }

    def _keys(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        if self.key_column is not None:
            keys = [str(key) for key in rows[self.key_column]]
        else:
            items = rows[self.image_column]
            paths = [item.get("path") if isinstance(item, dict) else None for item in items]
            if None in paths:
                raise UsageError(
                    f"the images of column {self.image_column!r} come without their paths, "
                    "expected a path or a key for each: give key_column=, or cast the column to "
                    "datasets.Image(decode=False)."
                )
            keys = [str(path) for path in paths]
        if self.root is None:
            return keys
        try:
            return [PurePath(key).relative_to(self.root).as_posix() for key in keys]
        except ValueError as error:
            raise UsageError(
                f"a key lies outside the folder {self.root} ({error}): give root= as the folder "
                "that the store was made from."
            ) from error


def _encoded(item: Any) -> Any:
    """An image of Hugging Face's: the bytes of one that is not decoded, else as it is."""
    if not isinstance(item, dict):
        return item
    if item.get("bytes") is not None:
        return item["bytes"]
    path = item.get("path")
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(
            f"a row has an image without bytes whose path is {path!r}, expected one of the two: "
            "leave it out."
        )
    return read_image(os.fspath(path))
