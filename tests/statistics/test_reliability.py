"""Reliability and the expected calibration error against a slow loop, and known answers."""

import numpy as np
import pytest

from labelstore.statistics.reliability import Reliability


def test_it_is_what_a_slow_loop_finds():
    rng = np.random.default_rng(0)
    confidence = rng.random((40, 25)).astype(np.float32)
    confidence[0, :4] = 0.0, 0.05, 0.95, 1.0
    right = rng.random((40, 25)) < confidence**2
    reliability = Reliability()
    reliability.add(confidence[:13], right[:13])
    reliability.add(confidence[13:], right[13:])
    told = reliability.result()
    distance = 0.0
    for number, row in enumerate(told["bins"]):
        low, high = np.float32(row["low"]), np.float32(row["high"])
        inside = (confidence >= low) & ((confidence < high) | (number == 19))
        assert row["count"] == inside.sum() > 0
        assert row["confidence"] == pytest.approx(confidence[inside].mean(dtype=np.float64))
        assert row["accuracy"] == pytest.approx(right[inside].mean())
        gap = abs(right[inside].mean() - confidence[inside].mean(dtype=np.float64))
        distance += inside.sum() / confidence.size * gap
    assert told["expected_calibration_error"] == pytest.approx(distance)


def test_a_teacher_that_is_right_as_often_as_it_says_has_no_error():
    reliability = Reliability()
    reliability.add(np.full(4, 0.75, np.float32), np.array([True, True, True, False]))
    assert reliability.result()["expected_calibration_error"] == 0.0


def test_without_crops_there_is_none():
    assert Reliability().result() is None
