"""Labels of flat teachers: more stored classes never make them worse, nor any setting than none."""

from __future__ import annotations

import numpy as np
import pytest

import labelstore
from labelstore.format.codecs.suitability import suiting
from labelstore.format.settings import StoreSettings
from labelstore.labels.distance import distances
from labelstore.labels.prior import ImagePrior, decode_probs
from labelstore.labels.top_k import TopK
from labelstore.operations.plan import Setting, advice, measure
from labelstore.producer.settings import LabelSettings
from tests.support.lists import fit_one

TEMPERATURES = (0.5, 4, 20, 40)


def distributions(temperature, classes, seed, images=2, views=16):
    """(images, views, C): logits as a network's, a photo's views alike, some classes far above."""
    rng = np.random.default_rng(seed)
    photo = rng.gumbel(0, 1.3, (images, 1, classes))
    likely = rng.integers(0, classes, (images, 1, 3))
    height = rng.uniform(2, 8, (images, 1, 3))
    np.put_along_axis(photo, likely, height, axis=-1)
    logits = (photo + rng.normal(0, 0.9, (images, views, classes))) / temperature
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (probs / probs.sum(axis=-1, keepdims=True)).astype(np.float32)


def stored(path, truth, k, quantizer, size):
    """Mean KL of the teacher from a store's labels, and that from 1/C for every class."""
    order = np.argsort(-truth, axis=-1, kind="stable")[..., :k]
    probs = np.take_along_axis(truth, order, axis=-1)
    classes = truth.shape[-1]
    store = labelstore.write(
        path,
        order,
        probs,
        classes,
        means=truth.mean(axis=1, dtype=np.float64),
        prior_size=size,
        quantizer=quantizer,
    )
    topk = store.read(np.arange(len(truth))[:, None], np.arange(truth.shape[1]))
    found = distances((truth[i], topk[i].recover()) for i in range(len(truth)))
    even = (truth * np.log(np.maximum(truth.astype(np.float64), 1e-300) * classes)).sum(-1).mean()
    return found.kl_nats, float(even), topk


KINDS = (
    *((10, 5, "ratio16"), (10, 10, "u8"), (300, 64, "ratio16"), (1000, 64, "u8")),
    *((1000, 1000, "u16"), (5000, 64, "u8")),
)


@pytest.mark.parametrize(
    ("classes", "size", "quantizer", "temperature"),
    [
        # The sharpest and the flattest teachers of each kind in turn; the rest takes its time.
        pytest.param(*kind, t, marks=() if t == (0.5, 40)[n % 2] else pytest.mark.slow)
        for n, kind in enumerate(KINDS)
        for t in TEMPERATURES
    ],
)
def test_more_classes_are_never_worse_and_no_setting_than_an_even_spread(
    tmp_path, temperature, classes, size, quantizer
):
    truth = distributions(temperature, classes, seed=classes + int(temperature))
    before = np.inf
    for k in (1, 2, 3, 5, 10):
        kl, even, _ = stored(tmp_path / f"{k}.zarr", truth, k, quantizer, size)
        # What is weighed is known to within a little, and rounding has a part of its own.
        assert kl <= before * 1.01 + 3e-5
        # Where rounding may cost more than that, generate takes a finer one, or warns.
        if suiting(quantizer, temperature, classes) == quantizer:
            assert kl <= even + 3e-5
        before = kl


def test_a_flat_teacher_keeps_few_classes_and_a_sharp_one_all(tmp_path):
    for temperature, most in ((1, 5), (20, 3)):
        truth = distributions(temperature, 1000, seed=0)
        _, _, topk = stored(tmp_path / f"{temperature}.zarr", truth, 5, "u8", 64)
        assert (topk.probs > 0).sum(axis=-1).max() == most
        assert (topk.prior.classes >= 0).all()


def test_floats_keep_every_class(tmp_path):
    truth = distributions(20, 1000, seed=0)
    _, _, topk = stored(tmp_path / "a.zarr", truth, 5, "fp32", 64)
    assert (topk.probs > 0).all()
    np.testing.assert_array_equal(topk.probs, -np.sort(-truth, axis=-1)[..., :5])


def rows_of(entry, views):
    """A fitted list for each of an image's views, as it is read."""
    classes, probs = (np.tile(part, (views, 1)) for part in (entry.classes, decode_probs(entry[1])))
    return ImagePrior(classes, probs, np.full(views, entry.powers / 100, dtype=np.float32))


def test_the_choice_is_the_nearest_of_all_choices():
    """Against a slow search: labels of every number of classes and either spread, recovered."""
    for temperature in (1, 8, 20, 40):
        truth = distributions(temperature, 200, seed=3, images=1)[0]
        order = np.argsort(-truth, axis=-1, kind="stable")[:, :6]
        probs = np.take_along_axis(truth, order, axis=-1)
        mean = truth.mean(axis=0, dtype=np.float64)

        def recovered(kept, prior, probs=probs, order=order, truth=truth):
            held = np.where(np.arange(6) < kept, probs, 0)
            labels = TopK(order, held, 200, prior).recover()
            return distances([(truth, labels)]).kl_nats

        chosen = fit_one(mean, order, probs, 32)
        every = []
        for kept in range(1, 7):
            entry = fit_one(mean, order[:, :kept], probs[:, :kept], 32, fewest=kept)
            every += [recovered(kept, rows_of(entry, 16)), recovered(kept, None)]
        assert recovered(chosen.kept, rows_of(chosen, 16)) <= min(every) * 1.02 + 2e-5


def test_a_fidelity_takes_a_quantizer_that_suits_the_temperature():
    for temperature, quantizer in ((0.5, "ratio16"), (1, "ratio16"), (4, "ratio16"), (20, "u8")):
        settings = LabelSettings(10, temperature=temperature)
        assert settings.store_of(1000).quantizer == quantizer
        assert len(settings.advice(1000)) == (temperature == 20)
    asked = LabelSettings(10, StoreSettings(1, "ratio16"), temperature=20)
    (sentence,) = asked.advice(1000)
    assert "ratio16" in sentence
    assert "quantizer u8" in sentence
    assert "39%" in sentence
    # Ten classes are never as small as its steps.
    assert LabelSettings(10, temperature=20).store_of(10).quantizer == "ratio16"
    # What is no temperature is refused where it is checked, not here.
    for temperature in (0.0, -1.0, float("inf"), float("nan"), 1e300, 1e-300):
        assert suiting("u8", temperature, 1000) == "u8"
        assert suiting("ratio16", temperature, 1000) in ("ratio16", "u8")


def test_plan_names_settings_that_are_no_nearer_than_an_even_spread_or_are_cut():
    truth = distributions(100, 1000, seed=0)
    settings = [StoreSettings(1, "ratio16", 64), StoreSettings(10, "u8", 0)]
    rows = [measure(truth, Setting("", settings), 500) for settings in settings]
    (sentence,) = advice(rows)
    assert sentence.startswith("1:ratio16:64:")
    assert "10:u8:0" in sentence
    flat = [measure(distributions(20, 1000, seed=0), Setting("", StoreSettings(5, "u8", 64)), 9)]
    (sentence,) = advice(flat)
    assert sentence.startswith("5:u8:64:")
    assert flat[0].classes_per_crop < 4
    # Of three classes a list knows all: a longer one cannot be had.
    few = [measure(distributions(20, 3, seed=0), Setting("", StoreSettings(3, "ratio16", 3)), 9)]
    assert few[0].cut
    assert advice(few) == []
    sharp = [measure(distributions(1, 1000, seed=0), Setting("", StoreSettings(5, "u8", 64)), 9)]
    assert advice(sharp) == []
    assert sharp[0].classes_per_crop == 5
