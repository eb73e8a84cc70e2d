"""What is done on the teacher's device: on a GPU where there is one, else on the CPU.

The CPU shows that these tests can be passed; a GPU is where they have something to find: results
that are looked at before their copy has arrived, buffers used again too early, other arithmetic.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import labelstore
from benchmarks.support.synthetic_photos import place_synthetic_photos
from labelstore import FerKD
from labelstore.format.settings import StoreSettings
from labelstore.images.decoding import decode
from labelstore.images.pillow_passes import FILTERS
from labelstore.images.pixels import cut
from labelstore.images.preprocessing import Preprocessing
from labelstore.images.resize_on_device import resize_boxes
from labelstore.images.sources.folder import FolderSource
from labelstore.producer.generation import generate
from labelstore.producer.settings import LabelSettings, RunOptions
from labelstore.teachers.load import load_teacher
from labelstore.teachers.teacher import Teacher
from labelstore.teachers.timm_networks import create_model
from labelstore.teachers.top_k import top_k
from labelstore.torch import StoredLabels, recover, soft_cross_entropy
from labelstore.training.recovery import Recovery

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RECIPE = LabelSettings(9, StoreSettings(k=3, block_images=2, prior_size=8))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Five photos, made here: a GPU may be where no package of photos is."""
    folder = tmp_path_factory.mktemp("photos") / "five"
    place_synthetic_photos(folder, 5, width=512, height=512)
    return FolderSource(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A network of a seed, its last layer so steep that it is sure of its views, and of others
    otherwise."""
    torch.manual_seed(0)
    network = create_model("resnet10t")
    with torch.no_grad():
        network.fc.weight *= 300
        network.fc.bias.zero_()
    checkpoint = tmp_path_factory.mktemp("teacher") / "steep.safetensors"
    save_file(network.state_dict(), checkpoint)
    return load_teacher("timm:resnet10t", checkpoint=checkpoint, device=DEVICE)


def make(source, teacher, path, **options):
    targets = np.arange(len(source), dtype=np.int32)
    generate(source, targets, teacher, path, RECIPE, options=RunOptions(workers=3, **options))
    return labelstore.open(path)


def labels_of(store):
    return store.read(np.arange(5)[:, None], np.arange(RECIPE.num_views))


@pytest.fixture(scope="module")
def store(source, teacher, tmp_path_factory):
    """Batches of 7 views: of one photo and of two, whole ones and, at a block's end, shorter."""
    return make(source, teacher, tmp_path_factory.mktemp("store") / "a.zarr", batch_size=7)


def test_every_label_is_that_of_its_own_view(source, teacher, store):
    for image in range(5):
        photo = decode(source.read(image), "")
        views = store.views(image, np.arange(RECIPE.num_views))
        size, interpolation = teacher.preprocessing.input_size, teacher.preprocessing.interpolation
        crops = [
            cut(photo, box.tolist(), bool(flip), size, interpolation)
            for box, flip in zip(views.box, views.flip, strict=True)
        ]
        classes, probs = top_k(teacher.logits(np.stack(crops)), RECIPE.store.k, 1.0)
        found = store.read(image, np.arange(RECIPE.num_views))
        # Stored probabilities are quantized, and other batches may differ in the last bits.
        np.testing.assert_allclose(found.probs[:, 0], probs[:, 0], atol=0.004)
        assert len(set(np.round(probs[:, 0], 2))) > 1
        clear = probs[:, 0] - probs[:, 1] > 1e-4
        assert np.array_equal(found.indices[clear, 0], classes[clear, 0])


@pytest.mark.parametrize("resize", ["workers", "device"])
def test_runs_and_ways_of_resizing_agree(source, teacher, store, tmp_path, resize):
    again = labels_of(make(source, teacher, tmp_path / "b.zarr", batch_size=7, resize=resize))
    first = labels_of(store)
    assert np.array_equal(again.indices, first.indices)
    assert np.array_equal(again.probs, first.probs)
    assert np.array_equal(again.prior.classes, first.prior.classes)


@pytest.mark.parametrize("interpolation", sorted(FILTERS))
def test_crops_are_pillows(source, interpolation):
    photo = decode(source.read(0), "")
    rng = np.random.default_rng(0)
    count = 40 if DEVICE == "cuda" else 10
    sides = rng.integers(1, 513, (count, 2))
    boxes = np.concatenate([rng.integers(0, 513 - sides), sides], axis=1)
    flips = rng.random(count) < 0.5
    pixels = torch.from_numpy(np.array(photo)).to(DEVICE)
    made = resize_boxes(pixels, boxes, flips, (96, 80), interpolation).cpu().numpy()
    for crop, box, flip in zip(made, boxes, flips, strict=True):
        assert np.array_equal(crop, cut(photo, box.tolist(), bool(flip), (96, 80), interpolation))


def test_a_batch_that_fits_fits(teacher):
    count = teacher.fitting_batch(limit=64)
    assert count in {16, 32, 64}
    pixels = torch.zeros((count, *teacher.preprocessing.input_size, 3), dtype=torch.uint8)
    assert teacher.outputs(pixels).isfinite().all()


def test_labels_are_recovered_there(store):
    images, views = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    topk, target = store.read(images, views), store.targets[images]
    low, middle = np.quantile(topk.confidence, [0.3, 0.6]).tolist()
    rule = FerKD(low, middle, top=1.0, discard="mask")
    recovery = Recovery(None, "top-k", rule, None)
    expected = recovery(topk, target)
    stored = StoredLabels.from_numpy(topk, target, images, views)
    if DEVICE == "cuda":
        stored = stored.pin_memory()
    found = recover(stored.to(DEVICE, non_blocking=True), recovery)
    assert found.base.device.type == DEVICE
    np.testing.assert_allclose(found.dense().cpu(), expected.labels.dense(), atol=2e-6)
    assert np.array_equal(found.action.cpu(), expected.action)
    assert len(set(expected.action.tolist())) == 3
    logits = torch.randn(len(found), found.num_classes)
    loss = soft_cross_entropy(logits.to(DEVICE), found).item()
    rows = expected.labels.cross_entropy(logits.numpy()) * expected.weight
    assert loss == pytest.approx(rows.sum() / expected.weight.sum(), rel=1e-5)


def test_a_recorded_forward_says_what_the_network_says(teacher):
    rng = np.random.default_rng(3)
    count = 24 if DEVICE == "cuda" else 6
    shape = (count, *teacher.preprocessing.input_size, 3)
    pixels = [torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(3)]
    network = load_teacher("timm:resnet10t", checkpoint="none", device=DEVICE)
    with torch.inference_mode():
        before = [network.outputs(batch) for batch in pixels]
        assert network.record(count) is (DEVICE == "cuda")
        after = [network.outputs(batch) for batch in pixels]
        short = network.outputs(pixels[0][:5])
    for left, right in zip(before, after, strict=True):
        assert torch.equal(left, right)
    np.testing.assert_allclose(short.cpu(), before[0][:5].cpu(), atol=1e-4)


def test_what_waits_for_the_device_is_not_recorded():
    class Waiting(torch.nn.Module):
        """It looks at its input in the middle of its work."""

        def __init__(self):
            super().__init__()
            self.last = torch.nn.Linear(3, 5)

        def forward(self, values):
            means = values.mean((2, 3))
            return self.last(means if float(means.sum()) > -1e30 else -means)

    preprocessing = Preprocessing((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    network = Teacher(Waiting(), preprocessing, spec="timm:waiting", device=DEVICE)
    pixels = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8)
    before = network.outputs(pixels)
    assert network.record(16) is False
    assert torch.equal(network.outputs(pixels), before)


def test_logits_do_not_depend_on_where_and_how_pixels_lie(teacher):
    """On the host, in pinned memory, on the device, with gaps; a whole batch and a short one."""
    rng = np.random.default_rng(4)
    count = 16 if DEVICE == "cuda" else 4
    shape = (count, *teacher.preprocessing.input_size, 3)
    pixels = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    spaced = pixels.repeat_interleave(2, dim=0)[::2]
    forms = [spaced, pixels.to(DEVICE), spaced.to(DEVICE)]
    if DEVICE == "cuda":
        forms.append(pixels.pin_memory())
    # Convolutions of another layout may round otherwise.
    channels_first = pixels.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).to(DEVICE)
    network = load_teacher("timm:resnet10t", checkpoint="none", device=DEVICE)
    with torch.inference_mode():
        plain = network.outputs(pixels), network.outputs(pixels[:3])
        assert network.record(count) is (DEVICE == "cuda")
        for form in (pixels, *forms):
            assert torch.equal(network.outputs(form), plain[0])
            # What was kept of the whole batch is in none of a short one.
            assert torch.equal(network.outputs(form[:3]), plain[1])
        for part in (channels_first, channels_first[:3]):
            near = plain[0][: len(part)].cpu()
            np.testing.assert_allclose(network.outputs(part).cpu(), near, atol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU at most")
def test_a_teacher_stays_on_its_gpu_whichever_is_current(source, tmp_path):
    """Each records its forward on a GPU of its own, and labels with another one current."""
    stores = []
    for number in (0, 1):
        with torch.cuda.device(number):
            network = load_teacher("timm:resnet10t", checkpoint="none", device="cuda")
        assert network.place == torch.device("cuda", number)
        assert network.record(7)
        stores.append(make(source, network, tmp_path / f"{number}.zarr", batch_size=7))
    first, second = map(labels_of, stores)
    assert np.array_equal(first.indices, second.indices)
    assert np.array_equal(first.probs, second.probs)
