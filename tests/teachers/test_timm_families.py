"""A small network of each of timm's families, with random weights: labelled, or truly refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import labelstore
from labelstore.errors import TeacherError
from labelstore.format.settings import StoreSettings
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.teachers.load import load_teacher

SMALL = (
    "test_|atto|femto|pico|nano|zepto",
    "xxs|xxt|_050|_035|extra_tiny|ultratiny",
    "tiny|_xs|_t_|_ti_|lite0|_b0|_s0|_a0|_000|_002|_m0|_t0|xsmall|xtiny|_n_",
    "small|_s_|_s$|_t$|18|mini|_1$|_b1|_s1|_m1|10|12",
)
"""What timm calls its smaller networks, the smallest first."""

REFUSALS = (
    "has no classifier",
    "gives an embedding of",
    "takes [0-9]+ channels, expected 3",
    "fails on one image of",
)
MOST_PARAMETERS = 60e6


def families():
    """Name of each module of timm, and its networks, what looks small first."""
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            yield module, sorted(names, key=lambda name: (rank(name), len(name), name))


def rank(name):
    return next((n for n, words in enumerate(SMALL) if re.search(words, name)), len(SMALL))


def parameters(name):
    """How many a network has; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def label_and_read(name, folder, path):
    """Label two photos, and compare what is read with the teacher's own words."""
    teacher = load_teacher(f"timm:{name}", checkpoint="none", device="cpu")
    source = FolderSource(folder)
    targets = np.full(len(source), -1, dtype=np.int32)
    recipe = LabelSettings(2, StoreSettings(k=3, quantizer="fp32", prior_size=0))
    report = generate(source, targets, teacher, path, recipe, options=RunOptions(batch_size=2))
    assert (report.views_made, report.notes) == (4, ())
    stored = labelstore.open(path)
    described = stored.manifest.teacher
    assert stored.num_classes == teacher.num_classes
    assert described["input_size"] == list(teacher.preprocessing.input_size)
    probs = stored.read([0, 1], [0, 1]).probs
    assert np.isfinite(probs).all()
    assert (np.diff(probs, axis=-1) <= 0).all()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


# Distilled heads, a fixed size, shares of the photo above 1: what is odd and small.
@pytest.mark.parametrize("name", ["test_efficientnet", "levit_128s", "visformer_tiny"])
def test_odd_ones(name, photos, tmp_path):
    label_and_read(name, photos, tmp_path / "s.zarr")


@pytest.mark.slow
@pytest.mark.parametrize(("module", "names"), list(families()), ids=lambda value: str(value)[:30])
@pytest.mark.filterwarnings("ignore")
def test_a_small_network_of_each_family(module, names, photos, tmp_path):
    name = next((name for name in names[:8] if parameters(name) < MOST_PARAMETERS), None)
    if name is None:
        pytest.skip(f"{module} has no small network")
    try:
        label_and_read(name, photos, tmp_path / "s.zarr")
    except TeacherError as error:
        if not re.search("|".join(REFUSALS), str(error)):
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_outputs_that_are_taken_for_embeddings_are_those_of_clip():
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        if 0 < config.num_classes < 10_000 and config.num_classes != 1000:
            assert re.search("clip|_mci|siglip|pe_core", name), name
