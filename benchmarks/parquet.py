"""Parquet stores beside Zarr stores: bytes, reading, and SQL over ten million rows.

The same synthetic labels in both. ``rows``: Parquet's two layouts over a part of the labels, one
row a view (labelstore's) and one row an image with lists of all its views, written with the same
encodings, for the same two uses: a slab of views for training, and a query.

    python -m benchmarks.parquet
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import labelstore
from benchmarks.support.measuring import alternate, size_of, summary, synthetic_labels, write_result

VIEWS, K, CLASSES, PART = 500, 4, 1000, 2000

QUERIES = {
    "hardest_classes": """
        SELECT target, avg(top_prob) AS confidence FROM '{path}/labels/*.parquet'
        JOIN '{path}/images.parquet' USING (image) GROUP BY target ORDER BY confidence LIMIT 10""",
    "share_under_thresholds": """
        SELECT avg((top_prob <= 0.15)::INT), avg((top_prob > 0.95)::INT)
        FROM '{path}/labels/*.parquet'""",
    "disagreement_of_two_teachers": """
        SELECT a.image, avg((a.top_class <> b.top_class)::INT) AS disagreement
        FROM '{path}/labels/*.parquet' a JOIN '{other}/labels/*.parquet' b USING (image, view)
        GROUP BY a.image ORDER BY disagreement DESC LIMIT 10""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="a multiple of 2,000 is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), max(1, options.images // PART), options.rounds)
    write_result("parquet", result, options.out)


def measure(folder: Path, parts: int, rounds: int) -> dict[str, Any]:
    ids, probs = labels(parts)
    targets = np.arange(len(ids)) % CLASSES
    stores = {
        name: labelstore.write(
            folder / f"a.{name}",
            ids,
            probs,
            CLASSES,
            targets=targets,
            quantizer="ratio16",
            block_images=1024,
        )
        for name in ("zarr", "parquet")
    }
    other = folder / "b.parquet"
    labelstore.write(other, (ids + 1) % CLASSES, probs, CLASSES, quantizer="ratio16")
    crops = len(ids) * VIEWS
    views = np.arange(16)
    tasks = {
        name: lambda path=store.path: labelstore.open(path).read(
            np.arange(len(ids))[:, None], views
        )
        for name, store in stores.items()
    }
    if not np.array_equal(tasks["zarr"]().probs, tasks["parquet"]().probs):
        raise SystemExit("the two stores differ: the benchmark would be worth nothing")
    slab = alternate(tasks, rounds)
    path = stores["parquet"].path
    queries = {
        name: lambda text=text: duckdb.sql(text.format(path=path, other=other)).fetchall()
        for name, text in QUERIES.items()
    }
    sql = alternate(queries, rounds)
    return {
        "setting": {"rows": crops, "images": len(ids), "views": VIEWS, "k": K},
        "bytes_per_crop": {name: size_of(store.path) / crops for name, store in stores.items()},
        "bytes_per_crop_by_part": {
            name: {part: size / crops for part, size in store.bytes_by_part().items()}
            for name, store in stores.items()
        },
        "read_16_views_of_all_images": {name: summary(times) for name, times in slab.items()},
        "million_crops_per_second": {
            name: len(ids) * len(views) / summary(times)["median_s"] / 1e6
            for name, times in slab.items()
        },
        "sql": {name: summary(times) for name, times in sql.items()},
        "rows": layouts(folder, ids[:PART], probs[:PART], rounds),
    }


def labels(parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of ``parts`` times 2,000 images: one part, with other class ids in each copy."""
    ids, probs = synthetic_labels(PART, VIEWS, K, CLASSES)
    shifts = 37 * np.arange(parts, dtype=np.int32)[:, None, None, None]
    return ((ids + shifts) % CLASSES).reshape(-1, VIEWS, K), np.tile(probs, (parts, 1, 1))


def layouts(folder: Path, ids: np.ndarray, probs: np.ndarray, rounds: int) -> dict[str, Any]:
    """One row a view against one row an image: bytes, a slab of 16 views, a query."""
    path = folder / "part.parquet"
    store = labelstore.write(path, ids, probs, CLASSES, quantizer="ratio16", block_images=1024)
    topk = store.read(np.arange(len(ids))[:, None], np.arange(VIEWS))
    file = folder / "images.parquet"
    columns: dict[str, Any] = {"image": np.arange(len(ids), dtype=np.int32)}
    for rank in range(K):
        columns[f"class_{rank}"] = _lists(topk.indices[..., rank].astype(np.uint16))
        columns[f"prob_{rank}"] = _lists(topk.probs[..., rank])
    split = [f"prob_{rank}.list.element" for rank in range(1, K)]
    pq.write_table(
        pa.table(columns),
        file,
        row_group_size=1024,
        compression="zstd",
        compression_level=5,
        use_dictionary=["prob_0.list.element", *[f"class_{r}.list.element" for r in range(K)]],
        use_byte_stream_split=split,
    )

    def slab() -> list[Any]:
        table = pq.read_table(file)
        return [
            table[name].combine_chunks().flatten().to_numpy().reshape(-1, VIEWS)[:, :16]
            for name in table.column_names[1:]
        ]

    views = np.arange(16)
    tasks = {
        "slab, a row a view": lambda: labelstore.open(path).read(
            np.arange(len(ids))[:, None], views
        ),
        "slab, a row an image": slab,
        "query, a row a view": lambda: duckdb.sql(
            f"SELECT image, avg(top_prob) FROM '{path}/labels/*.parquet' GROUP BY image"
        ).fetchall(),
        "query, a row an image": lambda: duckdb.sql(
            f"SELECT image, list_avg(prob_0) FROM '{file}'"
        ).fetchall(),
    }
    times = alternate(tasks, rounds)
    crops = len(ids) * VIEWS
    return {
        "bytes_per_crop": {
            "a row a view": size_of(path) / crops,
            "a row an image": file.stat().st_size / crops,
        },
        **{name: summary(seconds) for name, seconds in times.items()},
    }


def _lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(0, values.size + 1, VIEWS, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


if __name__ == "__main__":
    main()
