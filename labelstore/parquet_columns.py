"""The columns of a Parquet file of images: which are there, of what types, and what labels say."""

from __future__ import annotations

import json
from typing import Any

from labelstore.errors import SourceError

__all__ = ["checked_column", "checked_rows", "names_of_labels", "read_labels"]


def checked_rows(metadata: Any, name: str) -> int:
    """The number of rows of a file, which its footer says twice."""
    groups = sum(int(metadata.row_group(n).num_rows) for n in range(metadata.num_row_groups))
    if groups != metadata.num_rows:
        raise SourceError(
            f"the footer of {name} tells of {metadata.num_rows} rows and of row groups with "
            f"{groups}: it is damaged; restore the file."
        )
    return groups


def checked_column(file: Any, name: str, column: str) -> Any:
    """The type of a file's column of images.

    Raises:
        SourceError: there is none, or it holds something else.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    if column not in schema.names:
        raise SourceError(
            f"{name} has no column {column} (its columns are {', '.join(schema.names)}), expected "
            "encoded images as Hugging Face's datasets writes them: name the column with "
            "--image-column (image_column=)."
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
            "column with --image-column (image_column=)."
        )
    if file.metadata.num_rows and _nulls(file.metadata, column) == file.metadata.num_rows:
        raise SourceError(
            f"the column {column} of {name} has paths without bytes: the images lie in other "
            "files, which are not read; write them into the Parquet file (with datasets, "
            "embed_external_files=True), or give the folder that holds them."
        )
    return kind


def _nulls(metadata: Any, column: str) -> int:
    """How many rows have no bytes, as far as a file's statistics tell."""
    total = 0
    for place in range(metadata.num_row_groups):
        group = metadata.row_group(place)
        for leaf in map(group.column, range(group.num_columns)):
            if leaf.path_in_schema in (column, f"{column}.bytes") and leaf.statistics is not None:
                total += leaf.statistics.null_count or 0
    return total


def read_labels(file: Any, name: str, column: str | None) -> tuple[list[str | None] | None, str]:
    """The label of each row as text, None where unknown; or None, and why.

    Args:
        file: a ``ParquetFile``.
        name: what errors call it.
        column: the column that was asked for; ``"label"``, if it is there, when None.

    Raises:
        SourceError: the column that was asked for is not there or of another type, or a label is
            below -1.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    wanted = column or "label"
    if wanted not in schema.names:
        reason = (
            f"{name} has no column {wanted} (its columns are {', '.join(schema.names)}): name the "
            "column with --label-column (label_column=)"
        )
        if column is not None:
            raise SourceError(f"{reason}.")
        return None, reason
    kind = schema.field(wanted).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (
        pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ):
        reason = (
            f"the column {wanted} of {name} is of the type {kind}, expected integers or text: name "
            "another with --label-column (label_column=)"
        )
        if column is not None:
            raise SourceError(f"{reason}.")
        return None, reason
    values = file.read(columns=[wanted]).column(wanted).to_pylist()
    for row, value in enumerate(values):
        if isinstance(value, int) and value < -1:
            raise SourceError(
                f"row {row} of {name} has the label {value}, expected a class id, or -1 for "
                "unknown: mend the column."
            )
    return [None if value is None else str(value) for value in values], ""


def names_of_labels(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """The names of labels 0, 1, ..., as Hugging Face's metadata have them; None without."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
