"""DistillKit's Parquet: labels are what its bytes say, and what else is there is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

import labelstore
from labelstore.cli.main import main
from labelstore.errors import CorruptError, FormatError, LabelError, LabelStoreError, UsageError
from labelstore.images import open_source
from labelstore.peers.distillkit.reader import DistillKitReader
from labelstore.peers.peer_labels import PeerOptions
from tests.peers import distillkit_files
from tests.peers.photo_folders import make_photos

SETTINGS = {
    "plain": distillkit_files.PLAIN,
    "halves": distillkit_files.HALVES,
    "deltas": distillkit_files.DELTAS,
    "polynomial": distillkit_files.POLYNOMIAL,
}


def read(folder, **options):
    return DistillKitReader(folder, PeerOptions(**options))


def dense_of(labels, classes):
    dense = np.zeros((*labels.indices.shape[:-1], classes))
    np.put_along_axis(dense, labels.indices.astype(np.int64), labels.probs, axis=-1)
    return dense


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("classes", [100, 128, 129])
def test_labels_are_what_the_bytes_say(tmp_path, name, classes):
    truth = distillkit_files.write(tmp_path / "kit", SETTINGS[name], classes=classes)
    truth /= np.maximum(truth.sum(-1, keepdims=True), 1)
    reader = read(tmp_path / "kit")
    assert (reader.num_views, reader.num_classes, reader.k) == (4, classes, 8)
    assert reader.keys == [str(row) for row in range(11)]
    for numbers in (range(11), [2], range(3, 9)):
        labels = reader.images(numbers)
        assert (np.diff(labels.probs, axis=-1) <= 0).all()
        np.testing.assert_allclose(dense_of(labels, classes), truth[list(numbers)], atol=1e-12)


def test_the_command_makes_a_store_of_them(tmp_path):
    truth = distillkit_files.write(tmp_path / "kit", distillkit_files.PLAIN)
    command = ["convert", str(tmp_path / "kit"), "--from", "distillkit", "--quantizer", "fp32"]
    run = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "a.zarr"), "--json"])
    assert run.exit_code == 0, run.output
    assert not json.loads(run.stdout)["replayable"]
    store = labelstore.open(tmp_path / "a.zarr")
    labels = store.read(np.arange(11), np.full(11, 2))
    np.testing.assert_allclose(dense_of(labels, 100), truth[:, 2], atol=1e-7)
    spread = truth[:, 2] + np.where(truth[:, 2] > 0, 0, (1 - truth[:, 2].sum(1))[:, None] / 92)
    np.testing.assert_allclose(labels.recover("uniform").dense(), spread, atol=1e-7)


def retabled(change):
    """Change the columns of one file, lists of Python."""

    def spoil(folder):
        file = folder / "data_1.parquet"
        columns = pq.read_table(file).to_pydict()
        changed = change(columns)
        schema = pa.schema([field for field in distillkit_files.SCHEMA if field.name in changed])
        pq.write_table(pa.Table.from_pydict(changed, schema=schema), file)

    return spoil


def with_row(column, row):
    def change(columns):
        columns[column][1] = row(columns[column][1])
        return columns

    return retabled(change)


def cut(folder):
    file = folder / "data_1.parquet"
    file.write_bytes(file.read_bytes()[:-60])


def without(name):
    return retabled(lambda columns: {key: value for key, value in columns.items() if key != name})


def nan(row):
    return [[*token[:-4], 0, 0, 192, 127] for token in row]


SPOILT = {
    "cut": (cut, CorruptError),
    "no indices": (without("bytepacked_indices"), FormatError),
    "fewer tokens": (with_row("compressed_logprobs", lambda row: row[:3]), CorruptError),
    "fewer bytes": (with_row("compressed_logprobs", lambda r: [t[:-1] for t in r]), CorruptError),
    "a null": (with_row("bytepacked_indices", lambda _: None), CorruptError),
    "not a number": (with_row("compressed_logprobs", nan), LabelError),
    "sure of all": (
        with_row("compressed_logprobs", lambda r: [[0] * len(t) for t in r]),
        LabelError,
    ),
    "one class": (with_row("bytepacked_indices", lambda r: [[0] * len(t) for t in r]), LabelError),
    "class 127": (
        with_row("bytepacked_indices", lambda r: [[255] * len(t) for t in r]),
        LabelError,
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_damage_is_told_and_the_file_is_named(tmp_path, name):
    spoil, error = SPOILT[name]
    distillkit_files.write(tmp_path / "kit", distillkit_files.PLAIN)
    spoil(tmp_path / "kit")
    with pytest.raises(error, match=r"data_1\.parquet") as caught:
        read(tmp_path / "kit").images(range(11))
    assert "\n" not in str(caught.value)


CONFIGS = {
    "no k": {"k": None},
    "text": {"d": "many"},
    "too many exact": {"exact_k": 9},
    "a type": {"exact_dtype": "float8"},
    "a term": {"polynomial_terms": ["__import__"]},
    "a power": {"polynomial_terms": [10**9]},
    "bits": {"exact_k": 6, "residual_bins": [distillkit_files.POLYNOMIAL["residual_bins"][0]] * 2},
    "a switch": {"delta_encoding": "yes"},
    "other bytes": {"exact_dtype": "float64"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_that_does_not_fit(tmp_path, name):
    distillkit_files.write(tmp_path / "kit", distillkit_files.PLAIN)
    file = tmp_path / "kit" / "compression_config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **CONFIGS[name]}))
    with pytest.raises(LabelStoreError, match="compression_config"):
        read(tmp_path / "kit").images(range(11))


def test_yaml_is_read_and_never_run(tmp_path, capfd):
    distillkit_files.write(tmp_path / "kit", distillkit_files.PLAIN)
    file = tmp_path / "kit" / "compression_config.yaml"
    file.write_text(
        file.read_text() + "\nx: !!python/object/apply:builtins.print ['this was run']\n"
    )
    with pytest.raises(CorruptError, match="compression_config"):
        read(tmp_path / "kit")
    assert "this was run" not in capfd.readouterr().out


def test_what_does_not_belong(tmp_path):
    distillkit_files.write(tmp_path / "kit", distillkit_files.PLAIN)
    photos = open_source(make_photos(tmp_path / "photos", 5))
    with pytest.raises(UsageError, match="name no image"):
        read(tmp_path / "kit", photos=photos)
    with pytest.raises(UsageError, match="says 100 classes"):
        read(tmp_path / "kit", num_classes=1000)
    (tmp_path / "kit" / "data_1.parquet").unlink()
    with pytest.raises(CorruptError, match=r"no data_1\.parquet"):
        read(tmp_path / "kit")
    with pytest.raises(FormatError, match=r"no data_0\.parquet"):
        read(tmp_path)
