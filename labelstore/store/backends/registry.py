"""Which backend reads and writes a path, and how labels lie there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError, require_packages
from labelstore.format.unit_blocks import default_unit_images
from labelstore.storage import local_files
from labelstore.storage.location import place_of, suffix_of
from labelstore.store.backends.npy import MATERIALIZED, MappedBackend

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import LabelLayout
    from labelstore.store.backends.protocol import Backend

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["backend_of", "unit_images_of"]

_IN_PARQUET = "a store in Parquet"


def backend_of(path: str | os.PathLike[str]) -> Backend:
    """The backend for a path: Parquet for names that end in ``.parquet``, a materialized copy for
    folders that hold one, else Zarr."""
    path = place_of(path)
    if isinstance(path, str):
        return _remote_backend(path)
    with local_files.readable(path):
        if (path / MATERIALIZED).is_file():
            return MappedBackend(path)
    if path.suffix == ".parquet":
        require_packages(_IN_PARQUET, "pyarrow")
        from labelstore.store.backends.parquet.backend import ParquetBackend

        return ParquetBackend(path)
    from labelstore.store.backends.zarr.backend import ZarrBackend

    return ZarrBackend(path)


def unit_images_of(
    path: str | os.PathLike[str],
    layout: LabelLayout | None,
    group_views: int,
    stored: Manifest | None = None,
) -> int | None:
    """Images of a unit of the store that is to be made at a path; None for one without units.

    Args:
        layout: how its labels are to lie; when None as in ``stored``, else in chunks.
        group_views: views of its groups.
        stored: what says how large units are, where it has groups of as many views: the store
            that is gone on with, or written anew.

    Raises:
        UsageError: units were asked for, and the store is to be in Parquet.
    """
    if backend_of(path).encoding != "codes":
        if layout == "units":
            raise UsageError(
                f"{path} is to be in Parquet, where labels do not lie in units: choose a name that "
                "does not end in .parquet, or leave the layout out.",
                arguments=("layout",),
            )
        return None
    if stored is not None and stored.unit_images is not None and layout != "chunks":
        same = stored.group_views == group_views
        return stored.unit_images if same else default_unit_images(group_views)
    return default_unit_images(group_views) if layout == "units" else None


def _remote_backend(url: str) -> Backend:
    if suffix_of(url) == ".parquet":
        require_packages(_IN_PARQUET, "pyarrow")
        from labelstore.store.backends.parquet.remote import RemoteParquetBackend

        return RemoteParquetBackend(url)
    from labelstore.store.backends.zarr.remote import RemoteZarrBackend

    return RemoteZarrBackend(url)
