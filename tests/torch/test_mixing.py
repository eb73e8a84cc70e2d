"""Mixing: labels against pixels, partners, boxes, draws, and real batches.

Images here have one channel for each view, 1 in the view's own: the mean of a mixed image over its
pixels is what share each view has in it, whatever the rule did. Labels must have the same shares.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from labelstore.errors import LabelError, UsageError
from labelstore.labels.ferkd import FerKD
from labelstore.labels.soft_labels import SoftLabels
from labelstore.testing.strategies import top_k
from labelstore.torch import (
    CutMix,
    InTurn,
    MixUp,
    OneOf,
    SelfMix,
    SoftLabelDataset,
    TorchSoftLabels,
    ViewSampler,
    collate_views,
    mix_batch,
    soft_cross_entropy,
)
from labelstore.torch.mixing import on_tensors
from labelstore.training import mixing
from labelstore.training.mixing_draws import beta, boxes, cyclic_partners
from tests.support.examples import examples

GROUPS = np.array([4, 4, 4, 4, 9, 9, 2, 7, 7, 7, 9, 4])
"""Views 0 to 3 and 11 are of image 4 and so on; 6 alone is of image 2."""
ROWS, HEIGHT, WIDTH, CLASSES = len(GROUPS), 6, 10, 40
RULES = {
    "mixup": MixUp(0.8),
    "mixup per view": MixUp(0.8, per_view=True),
    "cutmix": CutMix(1.0),
    "cutmix per view": CutMix(1.0, per_view=True),
    "selfmix mixup": SelfMix("mixup", 0.8),
    "selfmix mixup per view": SelfMix("mixup", 0.8, per_view=True),
    "selfmix cutmix": SelfMix("cutmix", 1.0),
    "selfmix cutmix per view": SelfMix("cutmix", 1.0, per_view=True),
    "one of": OneOf((MixUp(), CutMix(), SelfMix("cutmix"), None), (0.3, 0.3, 0.3, 0.1)),
    "one of, per view": OneOf((MixUp(), CutMix(), SelfMix(), None), per_view=True),
    "one of, all per view": OneOf((MixUp(per_view=True), CutMix(per_view=True)), per_view=True),
    "in turn": InTurn((SelfMix("mixup"), MixUp(), CutMix())),
    "in turn, cut first": InTurn((SelfMix("cutmix"), OneOf((MixUp(), None)))),
}


def labels(seed=0):
    rng = np.random.default_rng(seed)
    indices = rng.random((ROWS, CLASSES)).argsort(1)[:, :3]
    base = rng.uniform(0, 0.01, ROWS)
    weights = rng.dirichlet([1, 1, 1], ROWS) * (1 - CLASSES * base)[:, None]
    return SoftLabels(base, indices, weights, CLASSES)


def batch(**extra):
    return markers(), TorchSoftLabels.from_numpy(labels(), image=GROUPS, **extra)


def markers(dtype=torch.float32):
    return torch.eye(ROWS, dtype=dtype)[:, :, None, None].repeat(1, 1, HEIGHT, WIDTH)


def dense(label):
    out = np.zeros((len(label.base), label.num_classes))
    for row in range(len(out)):
        out[row] = float(label.base[row])
        for index, weight in zip(label.indices[row], label.weights[row], strict=True):
            out[row, index] += float(weight)
    return out


def shares(images):
    return images.double().mean(dim=(2, 3)).numpy()


@pytest.mark.parametrize("name", RULES)
def test_labels_have_the_shares_that_pixels_have(name):
    rule, (images, target) = RULES[name], batch()
    moved = 0
    for step in range(25):
        mixed = rule(images, target, step=step)
        share = shares(mixed.images)
        np.testing.assert_allclose(share.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(dense(mixed.target), share @ dense(labels()), atol=1e-6)
        moved += np.abs(share - np.eye(ROWS)).max() > 1e-3
    assert moved >= 20
    np.testing.assert_array_equal(images, markers())
    np.testing.assert_array_equal(target.weights, TorchSoftLabels.from_numpy(labels()).weights)


@pytest.mark.parametrize("mode", ["mixup", "cutmix"])
@pytest.mark.parametrize("per_view", [False, True])
def test_selfmix_stays_within_the_image_and_leaves_nobody_with_himself(mode, per_view):
    rule, (images, target) = SelfMix(mode, per_view=per_view), batch()
    others = np.zeros((ROWS, ROWS))
    for step in range(30):
        mixed = rule(images, target, step=step)
        share = shares(mixed.images)
        assert (share[GROUPS[:, None] != GROUPS] == 0).all()
        assert mixed.alone == 1
        np.testing.assert_array_equal(mixed.images[6], images[6])
        np.testing.assert_array_equal(dense(mixed.target)[6], dense(target)[6])
        others += share * (1 - np.eye(ROWS))
    # Each view meets each other one of its image sooner or later.
    expected = (GROUPS[:, None] == GROUPS) & ~np.eye(ROWS, dtype=bool)
    np.testing.assert_array_equal(others > 0, expected)


def test_a_batch_of_one_view_of_each_image_is_left_as_it_is():
    images, target = batch()
    mixed = SelfMix()(images, target, torch.arange(ROWS), step=0)
    assert mixed.alone == ROWS
    np.testing.assert_array_equal(mixed.images, images)
    assert mixed.target.indices.shape == target.indices.shape
    one = MixUp()(images[:1], target[:1], step=3)
    assert one.alone == 1
    np.testing.assert_array_equal(one.images, images[:1])


@given(st.lists(st.integers(-3, 3), max_size=40), st.integers(0, 2**64 - 1))
def test_partners_are_one_cycle_in_each_group(groups, step):
    partner = cyclic_partners(groups, 5, step)
    assert sorted(partner) == list(range(len(groups)))
    for first in range(len(groups)):
        met, row = [first], int(partner[first])
        while row != first:
            met.append(row)
            row = int(partner[row])
        assert sorted(met) == [i for i, group in enumerate(groups) if group == groups[first]]


# Distribution functions of Beta(alpha, alpha) that have a closed form.
CUMULATIVE = {
    0.5: lambda x: 2 / np.pi * np.arcsin(np.sqrt(x)),
    1.0: lambda x: x,
    2.0: lambda x: 3 * x**2 - 2 * x**3,
    3.0: lambda x: 10 * x**3 - 15 * x**4 + 6 * x**5,
}


@pytest.mark.parametrize("alpha", CUMULATIVE)
def test_weights_are_distributed_as_beta(alpha):
    count = 20_000
    drawn = np.sort(beta(alpha, count, seed=1, step=2))
    steps = np.arange(count + 1) / count
    exact = CUMULATIVE[alpha](drawn)
    distance = max(np.abs(exact - steps[1:]).max(), np.abs(exact - steps[:-1]).max())
    assert distance < 1.95 / np.sqrt(count)


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 0.8, 50.0])
def test_weights_have_betas_mean_and_variance(alpha):
    drawn = beta(alpha, 20_000, seed=3, step=0)
    assert (drawn >= 0).all()
    assert (drawn <= 1).all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.012)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03


def test_weights_of_steps_are_distributed_as_beta_too():
    drawn = np.sort([beta(1.0, 1, seed=0, step=step)[0] for step in range(1000)])
    assert np.abs(drawn - np.arange(1000) / 1000).max() < 1.95 / np.sqrt(1000)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**40))
def test_boxes_lie_in_the_view(height, width, step):
    weight = np.array([0.0, 0.3, 0.99, 1.0])
    found = boxes(weight, (height, width), 7, step)
    assert (found >= 0).all()
    assert (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 3] <= width).all()
    limit = np.floor(np.array([height, width]) * np.sqrt(1 - weight)[:, None])
    assert (found[:, 2:] <= limit).all()
    assert (found[3, 2:] == 0).all()


def test_boxes_that_are_not_clipped_have_the_drawn_area_and_centres_lie_anywhere():
    found = boxes(np.full(4000, 0.75), (100, 200), 7, 0)
    whole = (found[:, 2] == 50) & (found[:, 3] == 100)
    assert whole.mean() == pytest.approx(0.51 * 0.505, abs=0.03)
    assert found[:, 0].min() == 0
    assert (found[:, 0] + found[:, 2]).max() == 100


@pytest.mark.parametrize("name", RULES)
def test_a_step_mixes_the_same_again_and_another_step_or_seed_otherwise(name):
    rule, (images, target) = RULES[name], batch()
    first, again = (rule(images, target, step=3) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.target.weights, again.target.weights)
    steps = [rule(images, target, step=step).images for step in range(3, 9)]
    assert not all(torch.equal(steps[0], other) for other in steps[1:])
    reseeded = dataclasses.replace(rule, seed=1)
    assert any(
        not torch.equal(reseeded(images, target, step=step).images, steps[step - 3])
        for step in range(3, 9)
    )


@pytest.mark.parametrize("name", RULES)
def test_ranks_mix_otherwise(name):
    rule, (images, target) = RULES[name], batch()
    steps = range(12)
    alone = [rule(images, target, step=step).images for step in steps]
    for other in (dataclasses.replace(rule, rank=1), dataclasses.replace(rule, rank=2)):
        mixed = [other(images, target, step=step).images for step in steps]
        assert sum(not torch.equal(*pair) for pair in zip(alone, mixed, strict=True)) >= 6
        assert on_tensors(rule, rank=other.rank) == other
        # What a NumPy loop makes of it.
        seed = mixing.rank_seed(rule.seed, other.rank)
        expected = images.numpy()
        for plan in rule.plans(GROUPS, (HEIGHT, WIDTH), 3, seed):
            expected = mixing.mixed_images(plan, expected)
        np.testing.assert_allclose(mixed[3], expected, atol=1e-6)
    first = dataclasses.replace(rule, rank=0)(images, target, step=3).images
    assert torch.equal(first, alone[3])


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.within_image])
def test_other_images_are_mixed_otherwise(name):
    rule, same = RULES[name], 0
    for step in range(20):
        one, other = (rule.plans(GROUPS + part, (HEIGHT, WIDTH), step)[0] for part in (0, 100))
        same += np.array_equal(one.partner, other.partner) and np.array_equal(
            one.weight, other.weight
        )
    assert same <= 2


PINNED = {
    "partner": [2, 0, 1, 4, 5, 3],
    "box": [139, 94, 85, 65],
    "weight": 0.48055833160056216,
}


def test_the_draws_of_a_seed_stay_as_they_are():
    ids = [0, 0, 0, 1, 1, 1]
    plan = mixing.SelfMix("cutmix", seed=11).plans(ids, (224, 160), step=2**33)[0]
    assert plan.partner.tolist() == PINNED["partner"]
    assert plan.box[0].tolist() == PINNED["box"]
    weight = mixing.MixUp(0.8, seed=11).plans(ids, (224, 160), step=5)[0].weight[0]
    assert weight == pytest.approx(PINNED["weight"], rel=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_tensors_are_mixed_as_numpy_arrays_are(name):
    rule, (images, target) = RULES[name], batch()
    expected_images, expected_labels = images.numpy(), labels()
    for plan in rule.plans(GROUPS, (HEIGHT, WIDTH), 4):
        expected_images = mixing.mixed_images(plan, expected_images)
        expected_labels = mixing.mixed_labels(plan, expected_labels)
    mixed = rule(images, target, step=4)
    np.testing.assert_allclose(mixed.images, expected_images, atol=1e-6)
    np.testing.assert_allclose(mixed.target.dense(), expected_labels.dense(), atol=1e-6)


def test_rules_of_one_kind_draw_on_their_own():
    first, second = InTurn((MixUp(), MixUp())).plans(GROUPS, (HEIGHT, WIDTH), 0)
    assert first.partner.tolist() != second.partner.tolist()
    assert first.weight[0] != second.weight[0]
    choice = OneOf((MixUp(), MixUp()))
    found = {choice.plans(GROUPS, (HEIGHT, WIDTH), step)[0].weight[0] for step in range(9)}
    assert len(found) == 9


def test_one_of_takes_each_rule_as_often_as_it_says():
    images, target = batch()
    for per_view in (False, True):
        rule = OneOf((MixUp(), None), (0.25, 0.75), per_view=per_view)
        untouched = [
            (np.abs(shares(rule(images, target, step=step).images) - np.eye(ROWS)).max(1) < 1e-9)
            for step in range(300)
        ]
        assert np.mean(untouched) == pytest.approx(0.75, abs=0.09)
        together = np.mean([row.all() or not row.any() for row in untouched])
        assert (together == 1) is not per_view
    mixed = OneOf((None,))(images, target, step=0)
    assert mixed.images is images
    assert mixed.target is target


def test_a_second_box_is_counted_by_its_area():
    """Where two rules cut, what the first one's box held is not looked at: close, not exact."""
    rule, (images, target) = InTurn((SelfMix("cutmix"), CutMix())), batch()
    gaps = []
    for step in range(200):
        mixed = rule(images, target, step=step)
        gaps.append(shares(mixed.images) @ dense(labels()) - dense(mixed.target))
    np.testing.assert_allclose(np.sum(gaps, axis=-1), 0, atol=1e-5)
    assert np.abs(np.mean(gaps, axis=0)).max() < 0.05


@pytest.mark.parametrize("name", ["mixup", "cutmix per view", "selfmix cutmix", "in turn"])
def test_masked_views_have_no_say_in_labels(name):
    weight = np.array([1, 0, 0.5, 1, 0, 0, 0, 1, 1, 0, 1, 1])
    rule, (images, target) = RULES[name], batch(weight=weight)
    logits = np.random.default_rng(0).normal(size=(ROWS, CLASSES))
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for step in range(10):
        mixed = rule(images, target, step=step)
        # Cross-entropy is linear: row i is the sum of its parts' own losses, each with its weight.
        each = -(dense(labels())[None] * logs[:, None]).sum(-1) * weight
        expected = (shares(mixed.images) * each).sum(1)
        found = soft_cross_entropy(torch.tensor(logits), mixed.target, "none")
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(mixed.target.weight, shares(mixed.images) @ weight, atol=1e-6)


def test_a_ground_truth_is_left_where_both_views_have_it():
    truth = GROUPS % 4
    images, target = batch(target=truth, view=np.arange(ROWS), action=np.zeros(ROWS))
    own = SelfMix()(images, target, step=0).target
    assert own.target.tolist() == truth.tolist()
    assert own.view.tolist() == list(range(ROWS))
    assert own.image.tolist() == GROUPS.tolist()
    for step in range(30):
        # Some boxes are empty; on views of one pixel, others cover all of it.
        rule = MixUp() if step < 5 else CutMix(0.2 if step < 20 else 1e-3, per_view=True)
        mixed = rule(images if step < 20 else images[:, :, :1, :1], target, step=step)
        present = shares(mixed.images) > 0
        for row, found in enumerate(mixed.target.target.tolist()):
            classes = set(truth[present[row]])
            assert found == (classes.pop() if len(classes) == 1 else -1)


def test_integer_pixels_can_be_cut_but_not_averaged():
    images, target = markers(torch.uint8) * 255, batch()[1]
    mixed = CutMix()(images, target, step=1)
    assert mixed.images.dtype == torch.uint8
    share = (mixed.images > 0).double().mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(dense(mixed.target), share @ dense(labels()), atol=1e-6)
    with pytest.raises(UsageError, match=r"torch\.uint8.*floating point.*normalize"):
        MixUp()(images, target, step=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_of_pixels(dtype):
    images = torch.randn(ROWS, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    target = batch()[1]
    mixed = MixUp()(images.to(dtype), target, step=1)
    exact = MixUp()(images.to(dtype).double(), target, step=1)
    assert mixed.images.dtype == dtype
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(mixed.images.double(), exact.images, rtol=epsilon, atol=1e-7)


@examples(25)
@given(top_k(6, 12), st.integers(0, 2**20), st.sampled_from(sorted(RULES)))
def test_mixed_labels_are_distributions_again(topk, step, name):
    recovered = topk.recover()
    target = TorchSoftLabels.from_numpy(recovered, image=GROUPS[:6])
    images = torch.zeros(6, 1, 1, 3)
    mixed = RULES[name](images, target, step=step).target
    found = dense(mixed)
    assert found.min() >= -1e-6
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_real_views_are_calibrated_mixed_and_trained_on(photos, store):
    rule = FerKD(discard="mask")
    data = SoftLabelDataset(photos, store, ferkd=rule, check_pixels=False)
    sampler = ViewSampler(data, views_per_image=4)
    loader = torch.utils.data.DataLoader(
        data, batch_size=7, sampler=sampler, collate_fn=collate_views
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 20, 20))
    selfmix, seen = SelfMix("cutmix"), 0
    for step, (images, target) in enumerate(loader):
        mixed, labels, alone = selfmix(images, target, step=step)
        loss = soft_cross_entropy(model(mixed), labels)
        loss.backward()
        assert torch.isfinite(loss)
        assert alone == 0
        changed = (mixed != images).any(dim=1).flatten(1).any(dim=1)
        assert changed.float().mean() > 0.5
        known = labels.target >= 0
        assert known.all()
        np.testing.assert_allclose(labels.dense().sum(1), 1, atol=1e-5)
        seen += len(images)
    assert seen == 14 * 4
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_rules_without_torch_become_callable():
    images, target = batch()
    for plain, ours in (
        (mixing.SelfMix("cutmix", 0.7, seed=3), SelfMix("cutmix", 0.7, seed=3)),
        (mixing.OneOf((mixing.MixUp(), None)), OneOf((MixUp(), None))),
        (mixing.InTurn((mixing.CutMix(), mixing.MixUp())), InTurn((CutMix(), MixUp()))),
    ):
        expected = ours(images, target, step=1).images
        assert torch.equal(on_tensors(plain)(images, target, step=1).images, expected)
        assert torch.equal(mix_batch(plain, images, target, step=1).images, expected)
        assert on_tensors(ours) is ours
    with pytest.raises(UsageError, match="expected a MixUp"):
        on_tensors("mixup")


def test_what_does_not_fit_is_refused():
    images, target = batch()
    unknown = TorchSoftLabels.from_numpy(labels())
    with pytest.raises(UsageError, match=r"SelfMix mixes views of the same image.*pass image="):
        SelfMix()(images, unknown, step=0)
    assert MixUp()(images, unknown, step=0).alone == 0
    with pytest.raises(LabelError, match=r"\(11, 12, 6, 10\) for 12 labels"):
        MixUp()(images[:11], target, step=0)
    with pytest.raises(LabelError, match=r"image numbers have shape \(3,\)"):
        SelfMix()(images, target, torch.arange(3), step=0)
    with pytest.raises(UsageError, match="step is -1"):
        MixUp()(images, target, step=-1)
    for alpha in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="expected a positive number"):
            CutMix(alpha)
    with pytest.raises(UsageError, match=r"'cut'.*mixup, cutmix"):
        SelfMix("cut")
    with pytest.raises(UsageError, match="rules are"):
        OneOf(())
    with pytest.raises(UsageError, match="rules are"):
        InTurn((None,))
    for odds in ((0.5,), (0.5, 0.6), (1.5, -0.5), (float("nan"), 0.5)):
        with pytest.raises(UsageError, match="sum to 1"):
            OneOf((MixUp(), None), odds)
