"""Stages of views: torchvision's distributions, and the same parameters for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from labelstore.errors import UsageError
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from labelstore.views.stages.names import MAX_STAGES, STAGES, parse_stage, stage_of_json
from labelstore.views.stages.parameters import OPERATIONS, Draws
from labelstore.views.stages.policies import RandAugment

HASHES = hash_keys([f"photo/{number}.jpg" for number in range(400)])
NAMES = [
    "jitter-0.4",
    "jitter-0.4-0.3-0.2",
    "jitter-0.4-0.4-0.2-0.1-p0.8",
    "gray-0.2",
    "rotate-15",
    "blur-0.5",
    "blur-0.5-0.1-3",
    "solarize-0.2",
    "solarize-0.2-100.5",
    "erase-0.25",
    "ra-n2-m9",
    "ra-n3-m0",
    "ta-wide",
]


def drawn(name, count=8000, seed=5):
    """Codes (count, S) and values (count, S, W) of a stage."""
    hashes, views = np.repeat(HASHES[:80], count // 80), np.tile(np.arange(count // 80), 80)
    parameters = parse_stage(name).draw(Draws(seed, hashes, views.astype(np.uint64), 0))
    return parameters.operation, parameters.values


def theirs(transform, count=8000, image=None):
    torch.manual_seed(1)
    image = torch.zeros(3, 224, 224, dtype=torch.uint8) if image is None else image
    return [transform.make_params([image]) for _ in range(count)]


def same(ours, others):
    assert stats.ks_2samp(np.asarray(ours, float), np.asarray(others, float)).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_name_and_a_manifest_say_the_same_stage(name):
    stage = parse_stage(name)
    assert str(stage) in (name, "jitter-0.4-0.3-0.2-0")
    assert parse_stage(str(stage)) == stage
    assert stage_of_json(stage.to_json()) == stage


def test_a_tiny_probability_has_a_name_that_reads_back():
    stage = type(parse_stage("gray-0.5"))(1e-7)
    assert parse_stage(str(stage)) == stage


@pytest.mark.parametrize(
    "name",
    [
        *("", "jitter", "jitter-", "jitter--0.4", "jitter-0.1-0.2", "jitter-0.4-0.4-0.4-0.6"),
        *(
            "jitter-nan",
            "jitter-inf",
            "jitter-0.4-p2",
            "gray",
            "solarize",
            "erase",
            "gray-1.1",
            "gray-0.1-0.1",
        ),
        *("rotate-181", "rotate", "blur-0.5-2", "blur-0.5-2-1", "solarize-0.1-256", "erase-2"),
        *("ra", "ra-n2", "ra-n0-m9", "ra-n17-m9", "ra-n2-m31", "ra-n2-m9-mstd0.5", "ra-n2-n2"),
        *("ta", "ta-wide-9", "rand-m9-n2", "shuffle-0.2", "RA-n2-m9"),
    ],
)
def test_what_is_no_stage_is_refused_in_one_sentence(name):
    with pytest.raises(UsageError, match="expected") as caught:
        parse_stage(name)
    assert caught.value.arguments == ("augment",)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("rand-m9-mstd0.5-inc1", "ra-n2-m27"),
        ("rand-m5-n3", "ra-n3-m15"),
        ("rand", "ra-n2-m27"),
        ("rand-m40-n99", "ra-n16-m30"),
        ("augmix-m5-w4-d2", "ta-wide"),
        ("v0r-mstd0.5", "ta-wide"),
    ],
)
def test_names_of_timm_are_told_from_ours(name, nearest):
    with pytest.raises(UsageError, match="is timm's") as caught:
        parse_stage(name)
    assert f"the nearest is {nearest}" in str(caught.value)
    assert str(parse_stage(nearest)) == nearest


@pytest.mark.parametrize(
    "change", [{"hue": 0}, {"probability": 2.0}, {"more": 1.0}, {"probability": float("nan")}]
)
def test_settings_of_a_manifest_are_checked(change):
    with pytest.raises(UsageError):
        stage_of_json(parse_stage("jitter-0.4").to_json() | change)
    with pytest.raises(UsageError, match="unknown"):
        stage_of_json({"name": "gray", "version": 2, "probability": 0.1})


def test_too_many_stages_are_refused():
    ViewLaw(stages=("gray-0.1",) * MAX_STAGES)
    with pytest.raises(UsageError, match="at most"):
        ViewLaw(stages=("gray-0.1",) * (MAX_STAGES + 1))


def test_a_stage_at_the_end_leaves_all_before_it_as_they_were():
    plain, short = ViewLaw(seed=3), ViewLaw(seed=3, stages=("jitter-0.4", "ra-n2-m9"))
    long = ViewLaw(seed=3, stages=("jitter-0.4", "ra-n2-m9", "erase-0.5", "jitter-0.4"))
    a, b, c = (law(HASHES[:, None], np.arange(20), 500, 375) for law in (plain, short, long))
    assert a.stages == ()
    for other in (b, c):
        np.testing.assert_array_equal(a.box, other.box)
        np.testing.assert_array_equal(a.flip, other.flip)
    for ours, longer in zip(b.stages, c.stages, strict=False):
        np.testing.assert_array_equal(ours.operation, longer.operation)
        np.testing.assert_array_equal(ours.values, longer.values)
    # The same stage twice draws twice.
    assert (c.stages[0].values != c.stages[3].values).mean() > 0.9


def test_parameters_do_not_depend_on_what_else_is_asked_for():
    law = ViewLaw(seed=3, stages=NAMES)
    whole = law(HASHES[:20, None], np.arange(7), 500, 375)
    one = law(HASHES[11], 4, 500, 375)
    small = law(HASHES[11], 4, 30, 900)
    for ours, single, other in zip(whole.stages, one.stages, small.stages, strict=True):
        np.testing.assert_array_equal(ours[11, 4].operation, single.operation)
        np.testing.assert_array_equal(ours[11, 4].values, single.values)
        np.testing.assert_array_equal(single.values, other.values)
    part = whole[3]
    np.testing.assert_array_equal(part.box, whole.box[3])
    np.testing.assert_array_equal(part.stages[2].values, whole.stages[2].values[3])


def test_the_order_of_a_jitter_and_its_factors_are_torchvisions():
    codes, values = drawn("jitter-0.4-0.3-0.2-0.1")
    names = np.array(OPERATIONS)[codes]
    params = theirs(v2.ColorJitter(0.4, 0.3, 0.2, 0.1))
    for number, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        places = np.argmax(names == name, axis=1)
        factors = np.take_along_axis(values[..., 0], places[:, None], axis=1)[:, 0]
        same(factors, [float(param[f"{name}_factor"]) for param in params])
        assert stats.chisquare(np.bincount(places, minlength=4)).pvalue > 1e-3
        their_places = [param["fn_idx"].tolist().index(number) for param in params]
        table = [np.bincount(places, minlength=4), np.bincount(their_places, minlength=4)]
        assert stats.chi2_contingency(table).pvalue > 1e-3
    orders = np.unique(codes, axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-3


def test_a_strength_of_zero_changes_nothing():
    codes, values = drawn("jitter-0.4")
    assert (codes == OPERATIONS.index("hue")).sum() == 0
    assert (values[codes == 0] == 0).all()
    assert ((codes == 0).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *(("gray-0.2", 0.2), ("solarize-0.3", 0.3), ("erase-0.25", 0.25), ("blur-0.5", 0.5)),
        *(("jitter-0.4-p0.8", 0.8), ("gray-0", 0.0), ("gray-1", 1.0)),
    ],
)
def test_a_probability_is_kept(name, share):
    codes, values = drawn(name)
    applied = (codes > 0).any(axis=1)
    assert stats.binomtest(int(applied.sum()), len(applied), share).pvalue > 1e-3
    assert (values[~applied] == 0).all()


def test_angles_are_torchvisions():
    _, values = drawn("rotate-15")
    same(values[:, 0, 0], [param["angle"] for param in theirs(v2.RandomRotation(15))])


def test_sigmas_are_torchvisions():
    codes, values = drawn("blur-1-0.1-3")
    assert (codes > 0).all()
    params = theirs(v2.GaussianBlur(9, sigma=(0.1, 3.0)))
    same(values[:, 0, 0], [param["sigma"][0] for param in params])


def test_erased_rectangles_are_torchvisions():
    codes, values = drawn("erase-1")
    assert (codes > 0).all()
    tall, wide, top, left = values[:, 0].T
    height, width = np.rint(tall * 224), np.rint(wide * 224)
    i, j = np.floor(top * (225 - height)), np.floor(left * (225 - width))
    others = np.array(
        [[param[name] for name in "hwij"] for param in theirs(v2.RandomErasing(p=1), 4000)]
    )
    for ours, other in zip((height, width, i, j), others.T, strict=True):
        same(ours, other)
    same(height * width, others[:, 0] * others[:, 1])
    same(height / width, others[:, 0] / others[:, 1])
    assert ((tall < 1) & (wide < 1)).all()


def test_operations_of_rand_augment_are_drawn_alike_and_apart():
    codes, values = drawn("ra-n3-m9")
    for step in range(3):
        assert stats.chisquare(np.bincount(codes[:, step])[np.unique(codes)]).pvalue > 1e-3
    pairs = np.zeros((len(OPERATIONS), len(OPERATIONS)))
    np.add.at(pairs, (codes[:, 0], codes[:, 1]), 1)
    seen = np.unique(codes)
    assert len(seen) == 14
    assert stats.chi2_contingency(pairs[np.ix_(seen, seen)]).pvalue > 1e-3
    angles = values[codes == OPERATIONS.index("rotate")][:, 0]
    assert set(angles.tolist()) == {-9.0, 9.0}
    assert stats.binomtest(int((angles > 0).sum()), len(angles)).pvalue > 1e-3
    assert len(drawn("ra-n1-m30")[0][0]) == 1
    np.testing.assert_array_equal(drawn("ra-n1-m9")[0], codes[:, :1])


def test_magnitudes_of_trivial_augment_are_drawn_alike():
    codes, values = drawn("ta-wide")
    angles = values[:, 0, 0][codes[:, 0] == OPERATIONS.index("rotate")]
    assert set(np.abs(angles).tolist()) <= {4.5 * number for number in range(31)}
    counts = np.bincount((np.abs(angles) / 4.5).astype(int), minlength=31)
    assert stats.chisquare(counts).pvalue > 1e-3
    bits = values[:, 0, 0][codes[:, 0] == OPERATIONS.index("posterize")]
    assert set(bits.tolist()) == {2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}


def test_known_parameters_never_change():
    law = ViewLaw(seed=1, stages=("jitter-0.4-0.4-0.2-0.1", "erase-1", "ra-n2-m9", "ta-wide"))
    jitter, erase, rand, trivial = law(hash_keys(["n01440764/a.jpg"])[0], 3, 500, 375).stages
    assert [OPERATIONS[code] for code in jitter.operation] == KNOWN_ORDER
    assert jitter.values[:, 0].tolist() == KNOWN_FACTORS
    assert erase.values[0].tolist() == KNOWN_RECTANGLE
    assert [OPERATIONS[code] for code in (*rand.operation, *trivial.operation)] == KNOWN_CHOICES
    assert [*rand.values.tolist(), *trivial.values.tolist()] == KNOWN_VALUES


def test_every_kind_has_a_usage_that_names_it():
    for name, kind in STAGES.items():
        assert kind.USAGE.startswith(name)
    assert RandAugment(1, 0) == parse_stage("ra-n1-m0")


KNOWN_ORDER = ["brightness", "contrast", "hue", "saturation"]
KNOWN_FACTORS = [1.1915754158049823, 1.0924939062446355, 0.08636084385216236, 1.1231751364655793]
KNOWN_RECTANGLE = [0.30618613875114103, 0.913708473677414, 0.5642270955722779, 0.8388736890628934]
KNOWN_CHOICES = ["sharpness", "equalize", "translate-y"]
KNOWN_VALUES = [[0.73, 0.0], [0.0, 0.0], [0.0, -9.6]]
