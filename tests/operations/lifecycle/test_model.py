"""Any sequence of subsets, joins, copies and recodings says what a dictionary of labels says."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

import labelstore
from labelstore.operations.lifecycle.parts import join_parts
from labelstore.operations.lifecycle.subset import ViewChoice, subset
from labelstore.operations.pull import pull
from labelstore.operations.recode import recode
from labelstore.store.lineage import lineage
from tests.support.stores import make_planned


def labels_of(store):
    """key -> (ground truth, digest, a list of each view's crop and label): the whole store."""
    everything = {}
    views = np.arange(store.num_views)
    for row, key in enumerate(store.keys):
        topk = store.read(row, views)
        crops = store.views(row, views)
        everything[key] = (
            int(store.targets[row]),
            int(store.image_digests(row)),
            [
                (
                    tuple(crops.box[view].tolist()),
                    bool(crops.flip[view]),
                    topk[view].indices.tobytes(),
                    topk[view].probs.tobytes(),
                    topk[view].recover().dense().tobytes(),
                )
                for view in views
            ],
        )
    return everything


def changed(store, model, path, draw):
    """One operation, on the store and on the model of it."""
    keys = list(model)
    num_views = store.num_views
    operation = draw.choice(["images", "views", "each", "parts", "pull", "targets", "class"])
    if operation == "images":
        chosen = sorted(draw.sample(keys, draw.randint(1, len(keys))))
        subset(store, path, images=chosen)
        return {key: model[key] for key in keys if key in set(chosen)}
    if operation == "views":
        start = draw.randrange(num_views)
        stop = draw.randint(start + 1, num_views)
        subset(store, path, views=range(start, stop))
        return {key: (*rest, views[start:stop]) for key, (*rest, views) in model.items()}
    if operation == "each":
        count = draw.randint(1, num_views)
        choice = ViewChoice(count, draw.choice(["random", "surgical"]), draw.randrange(9))
        subset(store, path, views=choice)
        kept = labels_of(labelstore.open(path))
        for key, (target, digest, views) in model.items():
            assert kept[key][:2] == (target, digest)
            assert len(kept[key][2]) == count
            # In their order; two views of a photo may be the same crop with the same label.
            left = iter(views)
            assert all(view in left for view in kept[key][2])
        return kept
    if operation == "class":
        wanted = sorted({model[key][0] for key in draw.sample(keys, draw.randint(1, len(keys)))})
        if wanted == [-1]:
            wanted = []
        wanted = [number for number in wanted if number >= 0]
        if not wanted:
            pull(store, path)
            return model
        subset(store, path, classes=wanted)
        return {key: value for key, value in model.items() if value[0] in wanted}
    if operation == "parts":
        if len(keys) < 2:
            pull(store, path)
            return model
        first = sorted(draw.sample(keys, draw.randint(1, len(keys) - 1)))
        second = [key for key in keys if key not in first]
        halves = [path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(2)]
        for half, part in zip(halves, (first, second), strict=True):
            subset(store, half, images=part)
        join_parts(halves, path)
        order = [key for key in keys if key in first] + second
        return {key: model[key] for key in order}
    if operation == "pull":
        count = draw.randint(1, num_views)
        pull(store, path, views=range(count))
        return {key: (*rest, views[:count]) for key, (*rest, views) in model.items()}
    targets = [draw.randrange(-1, store.num_classes) for _ in keys]
    recode(store, path, targets=np.array(targets))
    return {
        key: (target, *rest)
        for target, (key, (_, *rest)) in zip(targets, model.items(), strict=True)
    }


@pytest.mark.parametrize("seed", range(2))
def test_a_sequence_of_operations_says_what_the_model_says(tmp_path, suffix, seed):
    follow(tmp_path, suffix, seed)


def test_a_sequence_of_operations_on_units(tmp_path):
    assert follow(tmp_path, "zarr", 2, unit_images=3).manifest.label_layout == "units"


def follow(tmp_path, suffix, seed, **layout):
    """Some operations, each on what the last one made; the last one's store."""
    draw = random.Random(seed)
    store, _ = make_planned(tmp_path / f"0.{suffix}", images=9, views=5, **layout)
    model = labels_of(store)
    for step in itertools.count(1):
        path = tmp_path / f"{step}.{suffix}"
        model = changed(store, model, path, draw)
        store = labelstore.open(path)
        assert list(store.keys) == list(model)
        assert labels_of(store) == model
        assert [store.check_block(block) for block in range(store.manifest.num_blocks)] == [
            []
        ] * store.manifest.num_blocks
        if step == 4:
            break
    steps = lineage(store.manifest)
    assert all(step["settings"]["labelstore"] == labelstore.__version__ for step in steps)
    return store
