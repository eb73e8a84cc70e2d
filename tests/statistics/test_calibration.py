"""The temperature that mends a teacher, against a search of the likelihood itself."""

from __future__ import annotations

import numpy as np
import pytest

from labelstore.statistics import calibration
from labelstore.statistics.calibration import COLDEST, HOTTEST, calibration_of

BINS = 20


def teacher(temperature, images, classes=7, seed=0):
    """Logits whose softmax at a temperature is what the ground truth is drawn from."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(images, classes))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    truth = np.array([rng.choice(classes, p=row) for row in p])
    return (z * temperature).astype(np.float32), truth


def slow_nll(logits, truth, temperature):
    total = 0.0
    for row, y in zip(logits.astype(np.float64) / temperature, truth, strict=True):
        total -= row[y] - row.max() - np.log(np.exp(row - row.max()).sum())
    return total / len(truth)


def slow_error(logits, truth, temperature):
    """Equation 3, bin by bin."""
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    confidence, right = p.max(1), p.argmax(1) == truth
    error = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = (confidence >= low) & ((confidence < high) | (number == BINS - 1))
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    return error


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
def test_the_temperature_that_was_lost_is_found(temperature):
    logits, truth = teacher(temperature, images=8000)
    done = calibration_of(logits, truth)
    assert done.temperature == pytest.approx(temperature, rel=0.04)
    assert not done.at_bound
    # What is left is of the draw: 8,000 images in twenty bins.
    assert done.mended_error < 0.03
    assert done.images == 8000


def test_numbers_are_those_of_the_definitions(monkeypatch):
    logits, truth = teacher(2.0, images=300, seed=1)
    monkeypatch.setattr(calibration, "_AT_A_TIME", 100)
    done = calibration_of(logits, truth)
    tried = np.geomspace(0.5, 8, 400)
    losses = [slow_nll(logits, truth, value) for value in tried]
    best = int(np.argmin(losses))
    assert tried[best - 1] < done.temperature < tried[best + 1]
    for step in (1 - 1e-3, 1 + 1e-3):
        assert slow_nll(logits, truth, done.temperature * step) > done.mended_nll
    assert done.nll == pytest.approx(slow_nll(logits, truth, 1), abs=1e-12)
    assert done.mended_nll == pytest.approx(slow_nll(logits, truth, done.temperature), abs=1e-12)
    assert done.expected_calibration_error == pytest.approx(slow_error(logits, truth, 1), abs=1e-6)
    expected = slow_error(logits, truth, done.temperature)
    assert done.mended_error == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("factor", [0.125, 4.0])
def test_logits_times_a_number_have_the_temperature_times_it(factor):
    logits, truth = teacher(1.5, images=200, seed=2)
    one, other = calibration_of(logits, truth), calibration_of(logits * np.float32(factor), truth)
    assert other.temperature == pytest.approx(factor * one.temperature, rel=1e-8)
    assert other.mended_nll == pytest.approx(one.mended_nll, abs=1e-12)


def test_a_shift_of_all_logits_of_an_image_says_nothing():
    logits, truth = teacher(1.5, images=200, seed=3)
    shifts = np.float32(2) ** np.random.default_rng(0).integers(4, 8, (200, 1))
    shifted = calibration_of((logits + shifts).astype(np.float32), truth)
    assert shifted.temperature == pytest.approx(calibration_of(logits, truth).temperature, rel=1e-4)


@pytest.mark.parametrize(("wrong", "bound"), [(False, COLDEST), (True, HOTTEST)])
def test_a_teacher_that_is_always_right_or_wrong_has_no_temperature(wrong, bound):
    logits, _ = teacher(1.0, images=50)
    done = calibration_of(logits, logits.argmin(1) if wrong else logits.argmax(1))
    assert done.at_bound
    assert done.temperature == bound


def test_logits_beyond_what_an_exponential_holds():
    logits, truth = teacher(1.0, images=100)
    done = calibration_of(logits * np.float32(3000), truth)
    assert done.at_bound
    assert done.temperature == HOTTEST
    assert np.isfinite([done.nll, done.mended_nll, done.mended_error]).all()
