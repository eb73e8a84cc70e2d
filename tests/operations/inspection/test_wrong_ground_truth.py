"""Photos in the wrong folder are found: real images, a real teacher, folders exchanged."""

import numpy as np
import pytest
import torch

import labelstore
from benchmarks.support import fashion_mnist as fashion
from labelstore.operations.inspection.inspect import report
from labelstore.statistics.distributions import mean_labels
from labelstore.statistics.image_labels import joined, of_images
from labelstore.statistics.mistakes import suspicions


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Labels of 3,000 images of Fashion-MNIST in class folders, 16 views each."""
    cache = tmp_path_factory.mktemp("fashion")
    torch.manual_seed(0)
    data = fashion.load(fashion.fetch(cache))
    fashion.train_teachers(cache, data, epochs=2)
    photos = fashion.place_photos(cache, data, 3000)
    return labelstore.open(fashion.make_stores(cache, photos, views=16)["residual"])


def exchanged(store, share, seed):
    """Ground truth in which a share of the images have changed places, and which those are."""
    rng = np.random.default_rng(seed)
    targets = store.targets.copy()
    chosen = rng.choice(store.num_images, round(share * store.num_images), replace=False)
    targets[chosen] = store.targets[rng.permutation(chosen)]
    return targets, set(np.flatnonzero(targets != store.targets).tolist())


@pytest.mark.slow
def test_nine_in_ten_of_exchanged_photos_are_in_the_first_tenth(store, capsys):
    images, means, top = [], [], []
    groups = list(range(store.manifest.num_groups))
    for block in store.reader.committed_blocks():
        for positions, topk in store.iter_labels(block, groups, 64):
            images.append(positions)
            means.append(mean_labels(topk.recover()))
            top.append(topk.indices[..., 0])
    shares = []
    for seed in range(10):
        targets, wrong = exchanged(store, 0.05, seed)
        labels = joined(
            [of_images(n, targets[n], m, t) for n, m, t in zip(images, means, top, strict=True)],
            store.num_classes,
        )
        first = suspicions(labels, store.num_classes, store.num_images // 10).entries
        shares.append(len(wrong & {entry.image for entry in first}) / len(wrong))
    with capsys.disabled():
        print(f"\nof the exchanged photos in the first tenth: {np.round(shares, 3)}")
    assert np.mean(shares) >= 0.9


@pytest.mark.slow
def test_a_report_names_those_of_an_exchange(store, tmp_path):
    """The same through a store whose ground truth is exchanged, as a person would meet it."""
    targets, wrong = exchanged(store, 0.05, 99)
    rows = np.arange(store.num_images)
    topk = store.read(rows[:, None], np.arange(store.num_views)[None])
    other = labelstore.write(
        tmp_path / "exchanged.zarr",
        topk.indices,
        topk.probs,
        store.num_classes,
        keys=store.keys,
        targets=targets,
    )
    entries = report(other)["wrong_targets"]["entries"]
    assert len(entries) == 50
    assert np.mean([entry["image"] in wrong for entry in entries]) > 0.5
