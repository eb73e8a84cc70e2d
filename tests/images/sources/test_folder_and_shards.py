"""Shards and Parquet files against the very same photos in folders, with the real command."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import labelstore
from labelstore.errors import MismatchError, NotFoundError, SourceError
from labelstore.images.ground_truth.targets import resolve_targets
from labelstore.images.sources.choose import open_source
from labelstore.images.sources.folder import FolderSource
from labelstore.images.sources.parquet import ParquetSource
from labelstore.images.sources.tar import TarSource
from labelstore.torch import SoftLabelDataset, ViewSampler
from tests.support import commands

NAMES = ("ant", "bee", "cat")
COUNT = 14


@pytest.fixture(scope="module")
def photos():
    """Encoded photos and their class ids."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(COUNT):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made, [number % 3 for number in range(COUNT)]


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path, photos):
    """Two shards as WebDataset's writer makes them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(2):
        members = []
        for number in range(shard, COUNT, 2):
            members.append((f"{number:05}.cls", str(photos[1][number]).encode()))
            members.append((f"{number:05}.png", photos[0][number]))
            members.append((f"{number:05}.json", b"{}"))
        write_tar(folder / f"train-{shard:03}.tar", members)
    return folder


def write_parquet(path, photos, rows=None, **options):
    """As Hugging Face's own library writes it."""
    chosen = range(COUNT) if rows is None else rows
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    table = {
        "image": [{"bytes": photos[0][n], "path": f"{n:05}.png"} for n in chosen],
        "label": [photos[1][n] for n in chosen],
    }
    datasets.Dataset.from_dict(table, features=features).to_parquet(path, **options)


@pytest.fixture
def files(tmp_path, photos):
    folder = tmp_path / "files"
    folder.mkdir()
    write_parquet(folder / "train-0.parquet", photos, range(9), batch_size=4)
    write_parquet(folder / "train-1.parquet", photos, range(9, COUNT))
    return folder


def test_shards(shards, photos):
    source = open_source(shards)
    assert isinstance(source, TarSource)
    assert source.keys == tuple(f"{number:05}" for number in range(COUNT))
    assert [source.read(number) for number in range(COUNT)] == photos[0]
    assert source.numbers.tolist() == photos[1]
    assert source.ignored == COUNT
    assert str(source.path_of(3)).endswith("train-001.tar/00003")
    other = pickle.loads(pickle.dumps(source))
    assert other.read(7) == photos[0][7]
    assert open_source(shards / "train-001.tar").keys == source.keys[1::2]


def test_parquet_files_of_the_real_library(files, photos):
    source = open_source(files)
    assert isinstance(source, ParquetSource)
    assert source.keys == tuple(f"{number:05}.png" for number in range(COUNT))
    order = np.random.default_rng(0).permutation(COUNT).tolist()
    assert [source.read(number) for number in order] == [photos[0][n] for n in order]
    assert source.numbers.tolist() == photos[1]
    assert [source.class_name(n) for n in range(4)] == ["ant", "bee", "cat", "ant"]
    assert source.label_names == NAMES
    other = pickle.loads(pickle.dumps(source))
    assert other.read(7) == photos[0][7]
    assert open_source(files / "train-0.parquet").keys == source.keys[:9]


def test_parquet_of_bytes_without_paths(tmp_path, photos):
    table = pa.table({"image": pa.array(photos[0][:3], pa.binary())})
    pq.write_table(table, tmp_path / "plain.parquet")
    source = open_source(tmp_path / "plain.parquet")
    assert source.keys == ("plain.parquet:0", "plain.parquet:1", "plain.parquet:2")
    assert source.read(1) == photos[0][1]
    assert source.numbers is None


@pytest.mark.parametrize(
    ("classes", "names", "expected"),
    [
        (3, None, "same"),
        (3, ("cat", "bee", "ant"), "by name"),
        (5, ("cat", "x", "bee", "y", "ant"), "by name"),
        (2, None, "refused"),
    ],
)
def test_ground_truth_of_parquet_files(files, photos, classes, names, expected):
    source = open_source(files)
    given = {"num_classes": classes, "class_names": names}
    if expected == "refused":
        with pytest.raises(MismatchError, match="labels from 0 to 2 of 3 classes"):
            resolve_targets(source, **given)
        mapped = resolve_targets(source, **given, class_map={"ant": 1, "bee": 0, "cat": 1})
        assert mapped.tolist() == [(1, 0, 1)[label] for label in photos[1]]
        return
    found = resolve_targets(source, **given).tolist()
    places = photos[1] if names is None else [names.index(NAMES[label]) for label in photos[1]]
    assert found == places


def test_ground_truth_of_shards(shards, photos, tmp_path):
    source = open_source(shards)
    targets = resolve_targets(source, num_classes=1000, class_names=None)
    assert targets.tolist() == photos[1]
    mapped = resolve_targets(
        source, num_classes=1000, class_names=None, class_map={"0": 7, "1": 8, "2": 9}
    )
    assert mapped.tolist() == [7 + label for label in photos[1]]
    write_tar(tmp_path / "names.tar", [("ant/1.png", photos[0][0]), ("bee/1.png", photos[0][1])])
    named = open_source(tmp_path / "names.tar")
    assert named.keys == ("ant/1", "bee/1")
    found = resolve_targets(named, num_classes=3, class_names=("bee", "cat", "ant"))
    assert found.tolist() == [2, 0]


def test_what_is_no_source_is_refused(tmp_path, shards, photos):
    with pytest.raises(NotFoundError):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError):
        open_source(tmp_path / "empty")
    write_tar(shards / "train-002.tar", [("00004.png", photos[0][0])])
    with pytest.raises(SourceError, match="second image with the key '00004'"):
        open_source(shards)
    (shards / "train-002.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(SourceError, match=r"cannot read the shard .*train-002.tar"):
        open_source(shards)
    pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "other.parquet")
    with pytest.raises(SourceError, match="has no column image"):
        open_source(tmp_path / "other.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="cannot read"):
        open_source(tmp_path / "bad.parquet")


def test_a_shard_that_was_cut_later_is_an_error(shards):
    source = open_source(shards)
    shard = shards / "train-000.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(SourceError, match="was cut"):
        source.read(12)


def test_the_command_and_training_from_every_kind(tmp_path, shards, files, photos):
    """The same keys give the same crops, the same photos the same labels."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.layer = torch.nn.Linear(3, 3)\n"
        "    def forward(self, x):\n"
        "        return 5 * self.layer(x.mean((2, 3)))\n"
        "def net():\n"
        "    return Net(), {'input_size': (16, 16), 'mean': (0.5,) * 3, 'std': (0.5,) * 3,\n"
        "                   'interpolation': 'bilinear'}\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, data in enumerate(photos[0]):
        (folder / f"{number:05}.png").write_bytes(data)
    stores = {}
    for source, targets in ((shards, "folders"), (files, "folders"), (folder, "none")):
        out = tmp_path / f"{source.name}.zarr"
        command = [sys.executable, "-m", "labelstore", "generate", str(source), "--views", "6"]
        command += ["--teacher", "python:mine:net", "-o", str(out), "--targets", targets, "-q"]
        command += ["--quantizer", "fp32", "--prior-size", "0", "--top-k", "3"]
        done = commands.run(command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        stores[source] = labelstore.open(out)
    assert stores[shards].targets.tolist() == photos[1] == stores[files].targets.tolist()
    images, views = np.arange(COUNT)[:, None], np.arange(6)
    a, b = stores[files].read(images, views), stores[folder].read(images, views)
    assert np.array_equal(a.indices, b.indices)
    assert np.array_equal(a.probs, b.probs)
    # WebDataset's keys have no suffix, and so other crops.
    assert not np.array_equal(stores[shards].read(images, views).probs, b.probs)
    data = SoftLabelDataset(open_source(shards), stores[shards])
    reference = SoftLabelDataset(FolderSource(folder), stores[folder])
    for show in ViewSampler(data, 2, seed=1):
        pixels, target = data[show]
        assert pixels.shape == (2, 3, 16, 16)
        assert target.target.tolist() == [photos[1][show.image]] * 2
        assert reference[show][0].shape == pixels.shape
    loader = SoftLabelDataset(open_source(files), stores[files])
    for show in ViewSampler(loader, 2, seed=1):
        assert np.array_equal(loader[show][0].numpy(), reference[show][0].numpy())
