"""The columns of a Parquet file of images: which are there, of what types, and what labels say."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from labelstore.errors import SourceError, one_line
from labelstore.storage.parquet.pages import check_pages
from labelstore.storage.untrusted import check_expansion

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from labelstore.storage.parquet.footer import RowGroupNumbers

__all__ = [
    "Footer",
    "check_claims",
    "checked_column",
    "checked_rows",
    "column_batches",
    "hold_of",
    "names_of_labels",
    "parsed_photos",
    "read_labels",
    "rows_at_once",
    "source_of",
]

_BATCH_ROWS = 2**16
"""Rows of a batch, at most."""

_SPREAD_BYTES = 2**25
"""Of a batch of rows that may all stand for the largest value of a dictionary."""


class Footer(NamedTuple):
    """What the footer of a file says."""

    metadata: Any
    """pyarrow's, to open the file with again; its row groups must not be looked at."""
    groups: list[RowGroupNumbers]
    size: int
    """Bytes of the file."""


@contextlib.contextmanager
def parsed_photos(where: str) -> Iterator[None]:
    """Turn what pyarrow and the parsing of a foreign file raise into a SourceError.

    Args:
        where: what the error calls that which is read.
    """
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where} has a name, a path or a label that is not valid UTF-8 ({error.object!r:.80}):"
            " write it anew."
        ) from error
    except (
        pa.ArrowException,
        ArithmeticError,
        LookupError,
        MemoryError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise SourceError(f"cannot read {where} ({one_line(error)}): restore the file.") from error


def source_of(opened: Any) -> Any:
    """A file that ``SourceFiles.open`` opened, as pyarrow's."""
    import pyarrow as pa

    if isinstance(opened, os.PathLike):
        return pa.memory_map(os.fspath(opened))
    return pa.PythonFile(opened, mode="r")


def hold_of(opened: Any) -> Callable[[int, int], None]:
    """What asks for a part (start, length) of such a file before it is looked at."""
    return _nothing if isinstance(opened, os.PathLike) else opened.hold


def _nothing(start: int, length: int) -> None:
    """It is here."""


def column_batches(
    file: Any, groups: Sequence[int], leaf: tuple[str, str], rows: int, size: int
) -> Iterator[Any]:
    """Arrow arrays of a column, or of a member of it, together no more than its file accounts for.

    Args:
        file: a ``ParquetFile`` of ``size`` bytes. groups: row groups. leaf: the column's name, and
            that of the member of its structs, "" for the column itself. rows: of an array, at most;
            see ``rows_at_once``.

    Raises:
        ValueError: so many rows stand for one value of a dictionary that they would take a
            thousand times the file's bytes.
    """
    spread = 0
    column, inner = leaf
    for batch in file.iter_batches(
        rows, groups, columns=[f"{column}.{inner}" if inner else column]
    ):
        array = batch.column(0)
        spread += array.nbytes
        check_expansion(spread, size)
        yield array.field(inner) if inner else array


def rows_at_once(dictionary: int) -> int:
    """Rows of a batch of which each may stand for as many bytes."""
    return min(_BATCH_ROWS, max(1, _SPREAD_BYTES // max(dictionary, 1)))


def check_claims(
    source: Any,
    groups: Sequence[RowGroupNumbers],
    paths: Collection[str],
    hold: Callable[[int, int], None],
) -> int:
    """ValueError where columns claim to be more than a file of such a size can hold.

    Args:
        source: the file, of pyarrow. groups: its row groups. paths: of the leaves that will be
            read. hold: see ``hold_of``; a request for each header would take longer than one for
            all of a column.

    Returns:
        the bytes of the largest dictionary; see ``labelstore.storage.parquet.pages.check_pages``.
    """
    columns = [leaf for group in groups for leaf in group.columns if leaf.path in paths]
    for leaf in columns:
        check_expansion(leaf.uncompressed, source.size())
        hold(leaf.start, leaf.compressed)
    return check_pages(source, columns)


def checked_rows(footer: Footer, name: str, column: str) -> int:
    """The number of rows of a file, which its footer says in several places.

    Args:
        footer: the file's.
        name: what errors call the file.
        column: the one of images.

    Raises:
        SourceError: the footer contradicts itself.
    """
    rows, groups = int(footer.metadata.num_rows), sum(group.rows for group in footer.groups)
    if groups != rows:
        raise SourceError(
            f"the footer of {name} tells of {rows} rows and of row groups with {groups}: it is "
            "damaged; restore the file."
        )
    if rows > footer.size:
        raise SourceError(
            f"the footer of {name} tells of {rows:,} rows in {footer.size:,} bytes: it is damaged; "
            "restore the file."
        )
    for group in footer.groups:
        for leaf in group.columns:
            if leaf.path in _leaves(column) and leaf.values != group.rows:
                raise SourceError(
                    f"the footer of {name} tells of a row group of {group.rows} rows with "
                    f"{leaf.values} values of {leaf.path}: it is damaged; restore the file."
                )
    return rows


def _leaves(column: str) -> tuple[str, ...]:
    return (column, f"{column}.bytes", f"{column}.path")


def checked_column(file: Any, footer: Footer, name: str, column: str) -> Any:
    """The type of a file's column of images.

    Args:
        file: a ``ParquetFile``.
        footer: the file's.
        name: what errors call it.
        column: the one of images.

    Raises:
        SourceError: there is none, or it holds something else.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    if column not in schema.names:
        raise SourceError(
            f"{name} has no column {column} (its columns are {', '.join(schema.names)}), expected "
            "encoded images as Hugging Face's datasets writes them: name "
            "the column (image_column).",
            arguments=("image_column",),
        )
    kind = schema.field(column).type
    bytes_kind = kind
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        bytes_kind = kind.field("bytes").type
    is_bytes = pa.types.is_binary(bytes_kind) or pa.types.is_large_binary(bytes_kind)
    if not is_bytes and not pa.types.is_null(bytes_kind):
        is_list = pa.types.is_nested(kind) and not pa.types.is_struct(kind)
        several = "one image a row is" if is_list else "encoded images are"
        raise SourceError(
            f"the column {column} of {name} is of the type {kind}; {several} expected, as bytes or "
            "a struct {bytes, path}: write the images into the file, one a row, or name another "
            "column (image_column).",
            arguments=("image_column",),
        )
    # How many rows have no bytes, as far as statistics tell.
    nulls = sum(
        leaf.nulls
        for group in footer.groups
        for leaf in group.columns
        if leaf.path in (column, f"{column}.bytes")
    )
    if nulls and nulls == footer.metadata.num_rows:
        raise SourceError(
            f"the column {column} of {name} has paths without bytes: the images lie in other "
            "files, which are not read; write them into the Parquet file (with datasets, "
            "embed_external_files=True), or give the folder that holds them."
        )
    return kind


def read_labels(
    file: Any, name: str, column: str | None, batches: Callable[[str, str], Iterator[Any]]
) -> tuple[list[str | None] | None, str]:
    """The label of each row as text, None where unknown; or None, and why.

    Args:
        file: a ``ParquetFile``.
        name: what errors call it.
        column: the column that was asked for; ``"label"``, if it is there, when None.
        batches: gives the arrays of a column; see ``column_batches``.

    Raises:
        SourceError: the column that was asked for is not there or of another type, or a label is
            below -1.
    """
    label = column or "label"
    problem = _label_problem(file.schema_arrow, name, label)
    if problem is not None:
        if column is not None:
            raise SourceError(f"{problem}.", arguments=("label_column",))
        return None, problem
    values = [value for array in batches(label, "") for value in array.to_pylist()]
    for row, value in enumerate(values):
        if isinstance(value, int) and value < -1:
            raise SourceError(
                f"row {row} of {name} has the label {value}, expected a class id, or -1 for "
                "unknown: mend the column."
            )
    return [None if value is None else str(value) for value in values], ""


def _label_problem(schema: Any, name: str, label: str) -> str | None:
    """Why a column of a file's schema has no labels, with the mend; None where it may have."""
    import pyarrow as pa

    if label not in schema.names:
        return (
            f"{name} has no column {label} (its columns are {', '.join(schema.names)}): name the "
            "column (label_column)"
        )
    kind = schema.field(label).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return None
    return (
        f"the column {label} of {name} is of the type {kind}, expected integers or text: name "
        "another (label_column)"
    )


def names_of_labels(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """The names of labels 0, 1, ..., as Hugging Face's metadata have them; None without."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = [str(name) for name in features[column]["names"]]
        # JSON may name half a character, which no store can hold.
        "".join(names).encode()
    except (KeyError, RecursionError, TypeError, ValueError):
        return None
    return names
