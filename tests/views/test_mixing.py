"""Mixed views' parameters: torchvision's distributions, partners that nothing but keys decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from labelstore.errors import MismatchError, UsageError
from labelstore.images.mixing.blend import cutmix_box
from labelstore.views.exact import log
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys
from labelstore.views.stages.names import parse_stage, stage_of_json
from labelstore.views.stages.parameters import OPERATIONS

KEYS = [f"photo/{number}.jpg" for number in range(400)]
HASHES = hash_keys(KEYS)
SIZE = (224, 160)


def drawn(name, views=40, hashes=HASHES, seed=5):
    """Codes (images, views), values (images, views, 3) and partners of a law of one stage."""
    law = ViewLaw(seed=seed, stages=(name,)).among(hashes)
    shown = law(hashes[:, None], np.arange(views), 500, 375)
    return shown.stages[0].operation[..., 0], shown.stages[0].values[..., 0, :], shown.partners


def theirs(transform, count=8000):
    torch.manual_seed(1)
    image = torch.zeros(2, 3, *SIZE, dtype=torch.uint8)
    return [transform.make_params([image]) for _ in range(count)]


def same(ours, others):
    assert stats.ks_2samp(np.asarray(ours, float), np.asarray(others, float)).pvalue > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        *("mixup-0.8", "mixup-0.2-p0.5", "mixup-2-r1", "mixup-0.1-p0.25-r16"),
        *("cutmix-1", "cutmix-0.5-r8", "mix-0.8-1", "mix-0.2-1-p0.5-r1"),
    ],
)
def test_a_name_and_a_manifest_say_the_same_stage(name):
    stage = parse_stage(name)
    assert str(stage) == name
    assert parse_stage(str(stage)) == stage
    settled, _ = stage.among(HASHES)
    assert stage_of_json(settled.to_json()) == settled
    assert (settled.partners, str(settled)) == (400, name)
    assert not stage.settled
    assert settled.settled


@pytest.mark.parametrize(
    "name",
    [
        *("mixup", "mixup-", "mixup-0.05", "mixup-2.1", "mixup-nan", "mixup-0.8-1", "mixup-0.8-p2"),
        *("cutmix", "cutmix-1-r0", "cutmix-1-r4-p0.5", "cutmix-1-r1.5", "cutmix-1-x"),
        *("mix", "mix-0.8", "mix-0.8-1-0.5", "mix-0.8-1-r65537", "MixUp-0.8"),
    ],
)
def test_what_is_no_mixing_is_refused_in_one_sentence(name):
    with pytest.raises(UsageError, match="expected") as caught:
        parse_stage(name)
    assert caught.value.arguments == ("augment",)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stages", [("mixup-1", "cutmix-1"), ("mixup-1", "gray-0.1")])
def test_mixing_is_the_last_stage_and_the_only_one_of_its_kind(stages):
    with pytest.raises(UsageError, match="as the last"):
        ViewLaw(stages=stages)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 2.0])
def test_shares_are_torchvisions_beta(alpha):
    _, values, _ = drawn(f"mixup-{alpha}")
    shares = values[..., 0].ravel()
    others = [param["lam"] for param in theirs(v2.MixUp(alpha=alpha, num_classes=2))]
    same(shares, np.rint(np.array(others) * 65536) / 65536)
    # Against the distribution itself; of small alphas much rounds to 0 and 1.
    if alpha > 0.5:
        assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert ((shares * 65536) % 1 == 0).all()
    assert (values[..., 1:] == 0).all()


def test_boxes_of_cutmix_are_torchvisions():
    codes, values, _ = drawn("cutmix-1", 20)
    assert (codes == OPERATIONS.index("cutmix")).all()
    boxes = np.array([cutmix_box(value, SIZE) for value in values.reshape(-1, 3)])
    params = theirs(v2.CutMix(alpha=1.0, num_classes=2))
    others = np.array([[*np.array(param["box"])[[1, 0, 3, 2]]] for param in params])
    for ours, other in zip(boxes.T, others.T, strict=True):
        same(ours, other)
    left = [1 - (y2 - y1) * (x2 - x1) / (SIZE[0] * SIZE[1]) for y1, x1, y2, x2 in boxes]
    same(left, [param["lam_adjusted"] for param in params])


def test_either_is_mixed_half_of_the_time_and_a_probability_is_kept():
    codes, values, partners = drawn("mix-0.2-1-p0.6")
    mixed = codes > 0
    assert stats.binomtest(int(mixed.sum()), mixed.size, 0.6).pvalue > 1e-3
    cut = codes == OPERATIONS.index("cutmix")
    assert stats.binomtest(int(cut.sum()), int(mixed.sum())).pvalue > 1e-3
    np.testing.assert_array_equal(partners.image >= 0, mixed)
    assert (values[~mixed] == 0).all()
    assert (partners.view[~mixed] == 0).all()
    same(values[cut][:, 0], drawn("cutmix-1", seed=9)[1][..., 0].ravel())
    same(values[mixed & ~cut][:, 0], drawn("mixup-0.2", seed=9)[1][..., 0].ravel())


def test_partners_are_chosen_alike_and_never_the_image_itself():
    few = HASHES[:12]
    _, _, partners = drawn("mixup-1-r1", 600, few)
    counts = np.zeros((12, 12))
    np.add.at(counts, (np.arange(12)[:, None], partners.image), 1)
    assert (np.diag(counts) == 0).all()
    for row, count in enumerate(counts):
        assert stats.chisquare(np.delete(count, row)).pvalue > 1e-4
    # What one view has says nothing of the next, nor one image of another.
    pairs = np.zeros((12, 12))
    np.add.at(pairs, (partners.image[3, :-1], partners.image[3, 1:]), 1)
    assert stats.chi2_contingency(np.delete(np.delete(pairs, 3, 0), 3, 1)).pvalue > 1e-4
    assert stats.kstest(partners.view.ravel() / 65536, "uniform").pvalue > 1e-3


def test_partners_and_shares_have_nothing_to_do_with_each_other():
    _, values, partners = drawn("cutmix-1-r1", 200)
    numbers = [values[..., n].ravel() for n in range(3)]
    numbers += [partners.image.ravel(), partners.view.ravel()]
    for n, one in enumerate(numbers):
        for other in numbers[:n]:
            assert stats.spearmanr(one, other).pvalue > 1e-4


def test_a_run_of_views_has_one_partner_image_and_views_of_its_own():
    _, _, partners = drawn("mixup-1-r8", 40)
    runs = partners.image.reshape(400, 5, 8)
    assert (runs == runs[..., :1]).all()
    assert (runs[:, 0, 0] != runs[:, 1, 0]).mean() > 0.99
    assert np.mean([len(set(row)) for row in partners.view[:, :8].tolist()]) > 7.99
    # Those that begin a run are what every view has without runs.
    single = drawn("mixup-1-r1", 40)[2]
    np.testing.assert_array_equal(partners.image[:, ::8], single.image[:, ::8])


def test_a_view_depends_on_no_order_of_images_nor_on_what_else_is_asked_for():
    law = ViewLaw(seed=5, stages=("ra-n2-m9", "mix-0.8-1-p0.8"))
    order = np.random.default_rng(0).permutation(400)
    one, two = law.among(HASHES), law.among(HASHES[order])
    assert one == two
    a, b = (each(HASHES[:, None], np.arange(9), 500, 375) for each in (one, two))
    np.testing.assert_array_equal(a.stages[1].values, b.stages[1].values)
    held = a.partners.image >= 0
    np.testing.assert_array_equal(a.partners.image[held], order[b.partners.image[held]])
    assert (b.partners.image[~held] == -1).all()
    single = one(HASHES[11], 4, 30, 900)
    part = a[11][4]
    np.testing.assert_array_equal(single.stages[1].values, part.stages[1].values)
    assert (single.partners.image, single.partners.view) == (
        part.partners.image,
        part.partners.view,
    )
    # All before the mixing is as without it.
    plain = law.unmixed(HASHES[:, None], np.arange(9), 500, 375)
    np.testing.assert_array_equal(plain.box, a.box)
    np.testing.assert_array_equal(plain.stages[0].values, a.stages[0].values)
    assert plain.partners is None


def test_new_images_change_nothing_of_the_old_ones():
    law = ViewLaw(seed=5, stages=("mixup-0.8",))
    old = law.among(HASHES[:300])
    grown = old.among(HASHES)
    assert grown == old
    a = old(HASHES[:300, None], np.arange(9), 500, 375).partners.image
    b = grown(HASHES[:, None], np.arange(9), 500, 375).partners.image
    np.testing.assert_array_equal(a, b[:300])
    # New ones are mixed with old ones, each as likely as any other.
    assert stats.chisquare(np.bincount(b[300:, ::4].ravel(), minlength=300)).pvalue > 1e-4
    for others in (HASHES[:299], HASHES[1:], np.roll(HASHES, 1)):
        with pytest.raises(MismatchError, match="are others"):
            old.among(others)
    assert law.among(HASHES) != old


def test_a_law_that_knows_no_images_says_so():
    law = ViewLaw(stages=("mixup-0.8",))
    with pytest.raises(UsageError, match="nothing tells with which images"):
        law(HASHES, 0, 500, 375)
    with pytest.raises(UsageError, match="give more photos"):
        law.among(HASHES[:1])


def test_the_logarithm_is_exact_enough():
    units = (np.arange(1, 2**32, 65521, dtype=np.float64)) * 2.0**-32
    values = np.concatenate([units, 1 + units, 1 - units[units < 1e-3], 2.0 ** np.arange(-40, 40)])
    error = np.abs(log(values) - np.log(values))
    assert (error <= 4 * np.spacing(np.maximum(np.abs(np.log(values)), 1e-300))).all()


def test_known_parameters_never_change():
    law = ViewLaw(seed=1, stages=("gray-0.1", "mix-0.8-1")).among(HASHES[:7])
    shown = law(HASHES[:3, None], [3, 4], 500, 375)
    assert law.mixing.partners_digest == KNOWN_DIGEST
    names = [[OPERATIONS[code] for code in row] for row in shown.stages[1].operation[..., 0]]
    assert names == KNOWN_NAMES
    assert (shown.stages[1].values[..., 0, :] * [65536, 2**32, 2**32]).tolist() == KNOWN_VALUES
    assert shown.partners.image.tolist() == KNOWN_PARTNERS
    assert shown.partners.view.tolist() == KNOWN_VIEWS


KNOWN_DIGEST = "e514ff47e917cb79591118dc92cc9689"
KNOWN_NAMES = [["mixup", "mixup"], ["cutmix", "mixup"], ["cutmix", "cutmix"]]
KNOWN_VALUES = [
    [[46385, 0, 0], [23055, 0, 0]],
    [[15009, 2051466606, 3904937000], [62821, 0, 0]],
    [[27013, 3152161343, 935415459], [48826, 743059273, 455102699]],
]
KNOWN_PARTNERS = [[3, 2], [4, 0], [0, 3]]
KNOWN_VIEWS = [[54111, 59273], [47828, 12592], [5254, 934]]
