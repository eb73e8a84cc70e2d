"""What is proven before a store is gone on with, joined or repaired: photos, pixels, teacher."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys

import numpy as np
import pytest
import torch

import labelstore
from labelstore.errors import CorruptError, MismatchError
from labelstore.format.manifest import LOGITS_PROBE, Manifest
from labelstore.format.settings import StoreSettings
from labelstore.images.pixels import content_digest
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.sources.folder import FolderSource
from labelstore.operations.repair import repair
from labelstore.operations.verify import replay, verify
from labelstore.producer.crops.cutter import shape_of
from labelstore.producer.generation import generate
from labelstore.producer.pixel_probe import make_probe
from labelstore.producer.probe import prove
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.store.indexing import evenly_spaced
from labelstore.store.writer import Share, StoreWriter
from labelstore.teachers.load import load_teacher
from labelstore.teachers.teacher import Teacher
from tests.support import commands
from tests.support.stores import few_photos, files_of

RECIPE = LabelSettings(3, StoreSettings(k=3, block_images=3, prior_size=0))

MODULE = '''
import torch

class Colours(torch.nn.Module):
    """The mean colours of 4 x 4 patches through a fixed matrix."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(48, 10, generator=generator))

    def forward(self, x):
        return OUTPUT(torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight)

def make():
    return Colours(), {
        "input_size": (32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bilinear"
    }
'''


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return few_photos(tmp_path_factory.mktemp("photos"), 9)


@pytest.fixture
def copy(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "copy")


def code(folder, output="1.0 *"):
    """A module with a factory, whose network does ``output`` to what it says at the end."""
    (folder / "colours_of.py").write_text(MODULE.replace("OUTPUT", output))


def teacher(output="1.0 *", precision="fp32"):
    """What ``load_teacher`` makes of the module's factory."""
    names: dict = {}
    exec(MODULE.replace("OUTPUT", output), names)
    model, preprocessing = names["make"]()
    spec = "python:colours_of:make"
    return Teacher(
        model, Preprocessing(**preprocessing), spec=spec, device="cpu", precision=precision
    )


def make(folder, path, by=None, **options):
    source = FolderSource(folder)
    unknown = np.full(len(source), -1, np.int32)
    return generate(source, unknown, by or teacher(), path, RECIPE, options=RunOptions(**options))


def unfinish(path, block):
    """As a killed run leaves a store: without a block's commit."""
    (path / "commits" / "c" / str(block) / "0").unlink()


def test_the_same_weights_with_other_code_do_not_go_on_with_a_store(photos, tmp_path):
    path = tmp_path / "s.zarr"
    make(photos, path)
    whole = files_of(path)
    unfinish(path, 2)
    begun = files_of(path)
    command = [
        *(sys.executable, "-m", "labelstore", "generate", str(photos), "--targets", "none"),
        *("--teacher", "python:colours_of:make", "--device", "cpu", "--views", "3"),
        *("--top-k", "3", "--prior-size", "0", "--block-images", "3", "--quiet", "-o", str(path)),
    ]
    code(tmp_path, "-1.0 *")
    run = commands.run(command, cwd=tmp_path, timeout=120)
    assert run.returncode == 1
    assert re.search("teacher that does something else: of view 0 of .* log-prob", run.stderr)
    assert files_of(path) == begun

    code(tmp_path)
    commands.run(command, cwd=tmp_path, check=True, timeout=120)
    assert files_of(path) == whole


@pytest.mark.parametrize("output", ["-1.0 *", "1.01 *", "0.01 +", "torch.tanh", "torch.exp"])
def test_whatever_changes_labels_is_told_and_what_does_not_is_let_through(photos, tmp_path, output):
    path = tmp_path / "s.zarr"
    make(photos, path)
    if output == "0.01 +":  # The softmax is the same.
        assert make(photos, path, teacher(output)).blocks_made == 0
        return
    # A finished store is not called that of another teacher, either.
    with pytest.raises(MismatchError, match="something else"):
        make(photos, path, teacher(output))
    unfinish(path, 1)
    with pytest.raises(MismatchError, match="something else"):
        make(photos, path, teacher(output))
    # Processes that join a store look, too.
    with pytest.raises(MismatchError, match="something else"):
        make(photos, path, teacher(output), share=Share(1, 2))
    assert make(photos, path, share=Share(1, 2)).blocks_made == 1


def test_blocks_of_stores_of_other_code_cannot_be_exchanged(photos, tmp_path):
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    make(photos, a)
    make(photos, b, teacher("-1.0 *"))
    assert (
        labelstore.open(a).manifest.teacher["weights_digest"]
        == (labelstore.open(b).manifest.teacher["weights_digest"])
    )
    assert labelstore.open(a).manifest.id != labelstore.open(b).manifest.id
    for file in b.rglob("c/1/**/*"):
        if file.is_file():
            shutil.copy(file, a / file.relative_to(b))
    with pytest.raises(CorruptError):
        labelstore.open(a).read(4, 0)


def test_repair_compares_before_it_withdraws_and_replay_tells(photos, tmp_path):
    path = tmp_path / "s.zarr"
    make(photos, path)
    store = labelstore.open(path)
    source = FolderSource(photos)
    assert not replay(store, source, teacher("-1.0 *"), 1.0).agrees
    (damaged,) = (file for file in (path / "labels/top_prob").rglob("1/*") if file.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = files_of(path)
    with pytest.raises(MismatchError, match="something else"):
        repair(labelstore.open(path), source, teacher("-1.0 *"))
    assert files_of(path) == before
    repair(labelstore.open(path), source, teacher())
    assert verify(labelstore.open(path)).whole


def test_a_store_without_the_teachers_answers_is_gone_on_with(photos, tmp_path):
    make(photos, tmp_path / "new.zarr")
    new = labelstore.open(tmp_path / "new.zarr")
    # As releases before wrote it.
    described = {
        name: value for name, value in new.manifest.teacher.items() if name != LOGITS_PROBE
    }
    manifest = dataclasses.replace(new.manifest, teacher=described)
    path = tmp_path / "old.zarr"
    with StoreWriter(path, manifest, new.keys, new.targets):
        pass
    assert make(photos, path).blocks_made == 3
    old = labelstore.open(path)
    assert old.manifest.id == manifest.id
    assert verify(old).whole
    assert (old.read(np.arange(9), 1).indices == new.read(np.arange(9), 1).indices).all()


def test_the_probes_lie_all_over_the_set(photos, copy, tmp_path):
    path = tmp_path / "s.zarr"
    make(photos, path)
    manifest = labelstore.open(path).manifest
    keys = FolderSource(photos).keys
    probed = list(dict.fromkeys(entry["key"] for entry in manifest.probe))
    assert probed == [keys[0], keys[3], keys[5], keys[8]]
    answers = manifest.teacher[LOGITS_PROBE]
    assert [(a["key"], a["view"]) for a in answers] == [
        (entry["key"], entry["view"]) for entry in manifest.probe
    ]
    assert Manifest.from_json(manifest.to_json(), "here").id == manifest.id

    # Another photo under the last name is noticed by a process that joins, before it makes any.
    unfinish(path, 0)
    shutil.copy(copy / keys[1], copy / keys[8])
    with pytest.raises(MismatchError, match=rf"other pixels: views of '{keys[8]}'"):
        make(copy, path, share=Share(1, 2))
    # Images that cannot be decoded are passed over.
    (copy / keys[3]).write_bytes(b"no photo")
    make(copy, tmp_path / "skipped.zarr", on_error="skip")
    probe = labelstore.open(tmp_path / "skipped.zarr").manifest.probe
    assert [entry["key"] for entry in probe[::2]] == [keys[0], keys[4], keys[5], keys[8]]


def test_another_file_is_noticed_wherever_it_lies_in_a_block(photos, copy, tmp_path):
    path = tmp_path / "s.zarr"
    make(photos, path)
    unfinish(path, 0)
    key = FolderSource(photos).keys[7]  # in the middle of the last block
    # The pixels are the same, and the file another.
    (copy / key).write_bytes((copy / key).read_bytes() + b"\0")
    with pytest.raises(MismatchError, match=f"another file '{key}'"):
        make(copy, path)
    assert make(photos, path).blocks_made == 1
    digests = labelstore.open(path).image_digests(np.arange(9)).tolist()
    assert digests == [content_digest(file.read_bytes()) for file in sorted(photos.iterdir())]


def test_stores_of_other_files_under_the_same_keys_are_not_averaged(photos, copy, tmp_path):
    key = FolderSource(photos).keys[4]
    make(photos, tmp_path / "a.zarr")
    # The pixels are the same, and the file another.
    (copy / key).write_bytes((copy / key).read_bytes() + b"\0")
    make(copy, tmp_path / "b.zarr", teacher("-1.0 *"))
    a, b = (labelstore.open(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    with pytest.raises(MismatchError, match=f"other files .* 1 in all, first '{key}'"):
        labelstore.ensemble([a, b])
    make(photos, tmp_path / "c.zarr", teacher("-1.0 *"))
    assert labelstore.ensemble([a, labelstore.open(tmp_path / "c.zarr")]).complete


@pytest.mark.parametrize(("count", "wanted"), [(1, 4), (3, 4), (4, 4), (9, 4), (10**6, 8)])
def test_places_that_are_spread(count, wanted):
    places = evenly_spaced(count, wanted)
    assert (places[0], places[-1]) == (0, count - 1)
    assert len(places) == min(count, wanted)
    steps = np.diff(places)
    assert not steps.size or steps.max() - steps.min() <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rounding_is_no_other_code_at_any_batch_size_and_number_of_threads(
    photos, tmp_path, precision
):
    def real():
        return load_teacher(
            "timm:test_vit", checkpoint="none", device="cpu", size=96, precision=precision
        )

    path = tmp_path / "s.zarr"
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        make(photos, path, real())
        torch.set_num_threads(2)
        unfinish(path, 1)
        assert make(photos, path, real(), batch_size=3).blocks_made == 1
    finally:
        torch.set_num_threads(threads)


def test_answers_of_bf16_are_compared_more_loosely_than_those_of_fp32(photos, tmp_path):
    for precision, loose in (("fp32", False), ("bf16", True)):
        path = tmp_path / f"{precision}.zarr"
        make(photos, path, teacher(precision=precision))
        if loose:
            make(photos, path, teacher("1.005 *", precision))
        else:
            with pytest.raises(MismatchError, match=r"the same within 0\.00"):
                make(photos, path, teacher("1.005 *", precision))
        with pytest.raises(MismatchError, match="expected the same within"):
            make(photos, path, teacher("1.5 *", precision))


def test_a_view_without_finite_logits_has_no_answer(photos):
    source = FolderSource(photos)
    by = teacher("1.0 *")
    law = RECIPE.law
    probe = make_probe(source, shape_of(by.preprocessing), law, 3)
    manifest = Manifest(
        9, 3, 10, 3, "0" * 32, law, 3, 3, probe=probe, teacher=by.describe(), prior_size=0
    )
    assert len(prove(source, by, manifest, "here")) == 8
    usual = by._model.forward
    first = []

    def infinite(x):
        first.append(x)
        return usual(x) * (float("inf") if len(first) == 1 else 1.0)

    by._model.forward = infinite
    answers = prove(source, by, manifest, "here")
    assert [(a["key"], a["view"]) for a in answers] == [
        (entry["key"], entry["view"]) for entry in probe[1:]
    ]
