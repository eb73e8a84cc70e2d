"""Parquet files as people have them: other columns, labels that are unknown, rows in any order."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labelstore.errors import DecodeError, MismatchError, SourceError, UsageError
from labelstore.images.ground_truth.targets import class_pairs, resolve_targets
from labelstore.images.sources import parquet
from labelstore.images.sources.choose import in_order, open_source

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def photo(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = [{"bytes": photo(n), "path": f"{n}.png"} for n in range(6)]


def write(path, columns, names=None, **options):
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        meta = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": meta})
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([[row] for row in ROWS], pa.list_(STRUCT)), "type list<.*one image a row"),
        ([f"/data/{n}.jpg" for n in range(6)], "type string; encoded images"),
        (pa.array([{"path": "1.png"}] * 6), r"type struct<path: string>; encoded images"),
        (pa.array([{"bytes": None, "path": "1.png"}] * 6, STRUCT), "paths without bytes"),
        ([1.5] * 6, "type double"),
    ],
)
def test_columns_that_hold_no_encoded_images(tmp_path, column, words):
    path = write(tmp_path / "x.parquet", {"image": column})
    with pytest.raises(SourceError, match=f"the column image of .*x.parquet .*{words}"):
        open_source(path)


def test_other_names_of_columns(tmp_path):
    columns = {"img": pa.array(ROWS, STRUCT), "fine": [5, 4, 3, 2, 1, 0], "coarse": [0, 1] * 3}
    path = write(tmp_path / "x.parquet", columns)
    with pytest.raises(SourceError, match=r"no column image \(its columns are img, fine, coarse"):
        open_source(path)
    source = open_source(path, image_column="img")
    assert source.read(2) == ROWS[2]["bytes"]
    with pytest.raises(MismatchError, match=r"no column label \(its columns.*label_column"):
        resolve_targets(source, num_classes=6, class_names=None)
    source = open_source(path, image_column="img", label_column="fine")
    targets = resolve_targets(source, num_classes=6, class_names=None)
    assert targets.tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(SourceError, match="no column colour"):
        open_source(path, image_column="img", label_column="colour")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(photo(0))
    with pytest.raises(UsageError, match=r"a column was asked for"):
        open_source(tmp_path / "photos", label_column="fine")


def test_labels_that_are_unknown(tmp_path):
    """-1, as Hugging Face's test splits have it, and null; of the real library, too."""
    columns = {"image": pa.array(ROWS, STRUCT), "label": [1, 0, -1, None, 0, 1]}
    source = open_source(write(tmp_path / "x.parquet", columns, ["cat", "dog"]))
    known = {"num_classes": 2, "class_names": None}
    assert resolve_targets(source, **known).tolist() == [1, 0, -1, -1, 0, 1]
    named = resolve_targets(source, num_classes=3, class_names=("dog", "cat", "owl"))
    assert named.tolist() == [0, 1, -1, -1, 1, 0]
    assert class_pairs(source, named) == {"cat": 1, "dog": 0}
    mapped = resolve_targets(source, **known, class_map={"cat": 0, "dog": 0})
    assert mapped.tolist() == [0, 0, -1, -1, 0, 0]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    table = datasets.Dataset.from_dict({"image": ROWS, "label": [-1] * 6}, features=features)
    table.to_parquet(tmp_path / "test.parquet")
    source = open_source(tmp_path / "test.parquet")
    assert resolve_targets(source, **known).tolist() == [-1] * 6


def test_labels_whose_names_are_other_classes_of_the_teacher(tmp_path):
    """Some names are the teacher's: where they have other numbers, no number is the teacher's."""
    columns = {"image": pa.array(ROWS, STRUCT), "label": [0, 1, 2, 0, -1, 1]}
    source = open_source(write(tmp_path / "x.parquet", columns, ["cat", "dog", "ox"]))

    def targets(*names, called=None):
        return resolve_targets(source, num_classes=3, class_names=names, called=called).tolist()

    assert targets("cat", "dog", "cow") == [0, 1, 2, 0, -1, 1]
    assert targets("n1", "n2", "n3", called={"cat": (0, 2), "ox": (2,)}) == [0, 1, 2, 0, -1, 1]
    for words in ({"names": ("dog", "cat", "cow")}, {"names": "123", "called": {"cat": (2,)}}):
        with pytest.raises(MismatchError, match=r"its label 0 'cat', which is the .* class [12]"):
            targets(*words["names"], called=words.get("called"))
    columns["label"] = [-1] * 6
    source = open_source(write(tmp_path / "y.parquet", columns, ["cat", "dog", "ox"]))
    assert targets("dog", "cat", "cow") == [-1] * 6


def test_a_name_of_several_labels_is_no_name(tmp_path):
    """As "crane" of ImageNet, a bird and a machine."""
    columns = {"image": pa.array(ROWS, STRUCT), "label": [0, 1, 2, 0, -1, 1]}
    names = ("crane", "dog", "crane")
    source = open_source(write(tmp_path / "x.parquet", columns, names))
    for known in (names, ("n1", "dog", "n2"), None):
        targets = resolve_targets(source, num_classes=3, class_names=known)
        assert targets.tolist() == [0, 1, 2, 0, -1, 1]
    for class_map in ({"crane": 0, "dog": 1}, {"0": 0, "dog": 1}):
        with pytest.raises(MismatchError, match="class map lacks"):
            resolve_targets(source, num_classes=3, class_names=None, class_map=class_map)
    targets = resolve_targets(
        source, num_classes=3, class_names=None, class_map={"0": 2, "dog": 1, "2": 0}
    )
    assert targets.tolist() == [2, 1, 0, 2, -1, 1]


def test_labels_that_cannot_be(tmp_path):
    columns = {"image": pa.array(ROWS, STRUCT), "label": [0, 1, 2, 0, 1, 1]}
    with pytest.raises(SourceError, match=r"x\.parquet/2 has the label 2 .* name 2 labels"):
        open_source(write(tmp_path / "x.parquet", columns, ["cat", "dog"]))
    columns["label"] = [0, -7, 0, 0, 0, 0]
    with pytest.raises(SourceError, match=r"row 1 of .* has the label -7"):
        open_source(write(tmp_path / "x.parquet", columns))
    columns["label"] = [[0, 1]] * 6
    source = open_source(write(tmp_path / "x.parquet", columns))
    with pytest.raises(MismatchError, match=r"column label of .* type list<"):
        resolve_targets(source, num_classes=2, class_names=None)


def test_labels_as_text(tmp_path):
    texts = pa.array(["cat", "dog", None] * 2).dictionary_encode()
    path = write(tmp_path / "x.parquet", {"image": pa.array(ROWS, STRUCT), "label": texts})
    targets = resolve_targets(open_source(path), num_classes=2, class_names=("dog", "cat"))
    assert targets.tolist() == [1, 0, -1] * 2


def test_a_row_without_bytes_is_named(tmp_path):
    rows = [*ROWS[:3], {"bytes": None, "path": "3.png"}, None]
    source = open_source(write(tmp_path / "x.parquet", {"image": pa.array(rows, STRUCT)}))
    assert source.read(2) == ROWS[2]["bytes"]
    for row in (3, 4):
        with pytest.raises(DecodeError, match=rf"x\.parquet/{row} has no image bytes"):
            source.read(row)


def shuffled(tmp_path, rows=60, group=10):
    """Rows in no order, as the hub's ImageNet, and the bytes by path."""
    order = np.random.default_rng(0).permutation(rows).tolist()
    data = {f"{n:03}.png": photo(n) for n in order}
    column = pa.array([{"bytes": d, "path": p} for p, d in data.items()], STRUCT)
    path = tmp_path / "x.parquet"
    write(path, {"image": column, "label": list(range(rows))}, row_group_size=group)
    return path, data


def test_rows_in_any_order_are_read_once(tmp_path, monkeypatch):
    """Each row group is decoded once for a walk over all images."""
    path, data = shuffled(tmp_path)
    begun = []
    batches = parquet._Group._batches
    monkeypatch.setattr(
        parquet._Group, "_batches", lambda self: begun.append(self._place) or batches(self)
    )
    source = open_source(path)
    assert source.keys == tuple(data)
    assert [source.read(n) for n in range(60)] == list(data.values())
    assert begun == list(range(6))


def test_a_store_of_another_order_is_followed(tmp_path):
    path, data = shuffled(tmp_path)
    source = open_source(path)
    keys = sorted(data)
    other = in_order(source, keys)
    assert other.keys == tuple(keys)
    assert [other.read(n) for n in range(60)] == [data[key] for key in keys]
    places = [source.keys.index(key) for key in keys]
    assert other.numbers.tolist() == places
    assert [other.class_name(n) for n in range(60)] == [str(place) for place in places]
    assert in_order(source, keys[1:]) is source


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()])
def test_large_row_groups_are_read_in_batches(tmp_path, monkeypatch, kind):
    """As groups beyond 2 GiB, with smaller limits: bounded memory, the right bytes in any order."""
    size, rows = 200_000, 40
    noise = np.random.default_rng(0).integers(0, 256, (rows, size), dtype=np.uint8)
    data = [row.tobytes() for row in noise]
    values = (
        [{"bytes": d, "path": f"{n:02}"} for n, d in enumerate(data)] if kind == STRUCT else data
    )
    path = write(tmp_path / "x.parquet", {"image": pa.array(values, kind)}, compression="none")
    monkeypatch.setattr(parquet, "_KEPT_BYTES", 10 * size)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 2 * size)
    source = open_source(path)
    for row in [*range(rows), *np.random.default_rng(1).permutation(rows).tolist()]:
        assert source.read(row) == data[row]
    (group,) = source._groups.values()
    assert len(group._kept) == 4
    assert sum(images.nbytes for _, images in group._kept) < 9 * size


@pytest.mark.slow
def test_a_row_group_beyond_2_gib(tmp_path):
    # As photos are, it cannot be compressed: what grows ten thousandfold is refused.
    padding = np.random.default_rng(0).bytes(100 << 20)
    chunks = [pa.array([{"bytes": photo(n) + padding, "path": f"{n:02}"}], STRUCT)
              for n in range(22)]  # fmt: skip
    column = pa.chunked_array(chunks, STRUCT)
    path = write(tmp_path / "x.parquet", {"image": column}, compression="none")
    del column, chunks
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    source = open_source(path)
    for row in (0, 21, 3):
        assert source.read(row) == photo(row) + padding


def test_files_of_one_name_without_paths(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "0.parquet", {"image": [photo(0)]})
    with pytest.raises(SourceError, match="several files of one name"):
        open_source(tmp_path)


@pytest.mark.parametrize("group", [1, 3, 40, 200])
def test_threads_that_read_in_order_read_each_row_group_once(tmp_path, monkeypatch, group):
    """Whatever the order of paths, and the rows of a group: no more than 1.2 times the bytes."""
    rng = np.random.default_rng(0)
    rows = [{"bytes": rng.bytes(2000), "path": f"{n}.jpg"} for n in rng.permutation(400)]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet", row_group_size=group)
    source = open_source(tmp_path / "a.parquet")
    decoded = []
    real = parquet.column_batches

    def counted(*arguments):
        for array in real(*arguments):
            decoded.append(array.nbytes)
            yield array

    monkeypatch.setattr(parquet, "column_batches", counted)
    with ThreadPoolExecutor(16) as threads:
        photos = list(threads.map(source.read, range(400)))
    assert photos == [row["bytes"] for row in rows]
    assert sum(decoded) < 1.2 * (tmp_path / "a.parquet").stat().st_size
