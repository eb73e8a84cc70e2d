"""Parquet stores as the tools that people have read them: nothing of labelstore is needed."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pytest

from tests.support.stores import make_planned, written

IMAGES, VIEWS, K = 20, 6, 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("tools") / "teacher.parquet"
    return make_planned(path, k=K, group_views=4, block_images=8)[0]


@pytest.fixture(scope="module")
def labels(store):
    """Class ids and probabilities as labelstore reads them, (rows, k), by image and view."""
    topk = store.read(np.arange(IMAGES)[:, None], np.arange(VIEWS))
    return topk.indices.reshape(-1, K), topk.probs.reshape(-1, K)


def check(frame, labels):
    """A frame of all rows, in any order, against what labelstore reads."""
    frame = frame.sort_values(["image", "view"]).reset_index(drop=True)
    classes, probs = labels
    assert frame["image"].tolist() == np.repeat(np.arange(IMAGES), VIEWS).tolist()
    assert frame["view"].tolist() == np.tile(np.arange(VIEWS), IMAGES).tolist()
    assert frame["top_class"].tolist() == classes[:, 0].tolist()
    assert frame["top_prob"].tolist() == probs[:, 0].tolist()
    for row in range(len(frame)):
        held = probs[row, 1:] > 0
        assert list(frame["rest_classes"][row]) == classes[row, 1:][held].tolist()
        assert list(frame["rest_probs"][row]) == probs[row, 1:][held].tolist()


def test_duckdb(store, labels):
    check(duckdb.sql(f"SELECT * FROM '{store.path}/labels/*.parquet'").df(), labels)


def test_pandas(store, labels):
    check(pandas.read_parquet(store.path / "labels"), labels)


def test_polars(store, labels):
    found = polars.scan_parquet(store.path / "labels" / "*.parquet").sort("image", "view").collect()
    assert found["top_class"].to_list() == labels[0][:, 0].tolist()
    assert found["top_prob"].to_list() == labels[1][:, 0].tolist()
    assert found["rest_classes"][5].to_list() == labels[0][5, 1:].tolist()


def test_hugging_face_datasets(store, labels, tmp_path):
    found = datasets.load_dataset(
        "parquet",
        data_files=str(store.path / "labels" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path),
    )
    check(found.to_pandas(), labels)


def test_the_image_tables(store):
    images = pandas.read_parquet(store.path / "images.parquet")
    assert tuple(images["key"]) == store.keys
    assert images["target"].tolist() == store.targets.tolist()
    measured = pandas.read_parquet(store.path / "measured")
    assert measured["width"].tolist() == store.sizes(range(IMAGES))[0].tolist()
    prior = store.read(np.arange(IMAGES), 0).prior
    listed = prior.classes[3] >= 0
    assert measured["prior_classes"][3].tolist() == prior.classes[3][listed].tolist()
    assert measured["prior_probs"][3].tolist() == prior.probs[3][listed].tolist()


def test_pages_have_checksums(store):
    """A flipped bit in a page is seen by pyarrow itself when it is told to look."""
    file = store.path / "labels" / "000000.parquet"
    whole = bytearray(file.read_bytes())
    chunk = pq.read_metadata(file).row_group(0).column(3)
    whole[chunk.data_page_offset + chunk.total_compressed_size // 2 + 8] ^= 1
    broken = store.path.parent / "broken.parquet"
    broken.write_bytes(whole)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(broken, page_checksum_verification=True).read()


PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "sql.md"


def queries(store, other):
    """The page's queries, of these stores."""
    return [
        query.replace("'teacher.parquet", f"'{store.path}").replace(
            "'other.parquet", f"'{other.path}"
        )
        for query in re.findall(r"```sql\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    ]


def test_the_queries_of_the_page_on_sql(store, labels, tmp_path):
    other, indices, _ = written(tmp_path / "other.parquet", images=IMAGES, views=VIEWS, seed=5)
    hardest, disagree, below, misplaced = (
        duckdb.sql(query).fetchall() for query in queries(store, other)
    )
    confidence = labels[1][:, 0].reshape(IMAGES, VIEWS).mean(1)
    order = np.argsort(confidence)[:10]
    assert [row[0] for row in hardest] == store.targets[order].tolist()
    np.testing.assert_allclose([row[1] for row in hardest], confidence[order], rtol=1e-6)
    differs = (labels[0][:, 0].reshape(IMAGES, VIEWS) != indices[..., 0]).mean(1)
    most = sorted(range(IMAGES), key=lambda image: (-differs[image], store.keys[image]))[:10]
    assert [row[0] for row in disagree] == [store.keys[image] for image in most]
    top = labels[1][:, 0]
    expected = [(top <= 0.15).mean(), ((top > 0.15) & (top <= 0.3)).mean(), (top > 0.95).mean()]
    np.testing.assert_allclose(below[0], expected)
    classes = labels[0][:, 0].reshape(IMAGES, VIEWS)
    strange = np.flatnonzero((classes != store.targets[:, None]).mean(1) > 0.9)
    ordered = sorted(strange, key=lambda image: (-confidence[image], store.keys[image]))[:20]
    assert len(ordered) > 10, "the data tells little"
    assert [row[0] for row in misplaced] == [store.keys[image] for image in ordered]
    assert [row[1] for row in misplaced] == store.targets[ordered].tolist()
    for row, image in zip(misplaced, ordered, strict=True):
        assert (classes[image] == row[2]).sum() == np.bincount(classes[image]).max()
