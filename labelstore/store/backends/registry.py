"""Which backend reads and writes a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.errors import require_packages
from labelstore.storage import local_files
from labelstore.storage.location import place_of, suffix_of
from labelstore.store.backends.npy import MATERIALIZED, MappedBackend

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from labelstore.store.backends.protocol import Backend

    Codes = dict[str, npt.NDArray[Any]]

__all__ = ["backend_of"]

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


def _remote_backend(url: str) -> Backend:
    if suffix_of(url) == ".parquet":
        require_packages(_IN_PARQUET, "pyarrow")
        from labelstore.store.backends.parquet.remote import RemoteParquetBackend

        return RemoteParquetBackend(url)
    from labelstore.store.backends.zarr.remote import RemoteZarrBackend

    return RemoteZarrBackend(url)
