"""Counts of confidences: each value where FerKD's rule puts it."""

import numpy as np
from hypothesis import given, strategies as st

from labelstore.labels.ferkd import FerKD
from labelstore.statistics.confidence import THRESHOLDS, ConfidenceCounts

values_of_any_kind = st.lists(
    st.one_of(st.floats(0, 1, width=32), st.sampled_from([np.float32(t) for t in THRESHOLDS])),
    min_size=1,
    max_size=60,
)


def counted(parts):
    counts = ConfidenceCounts()
    for part in parts:
        counts.add(np.array(part, dtype=np.float32))
    return counts


@given(values_of_any_kind, st.lists(st.integers(0, 200), min_size=3, max_size=3))
def test_the_curve_gives_what_the_rule_counts_at_any_thresholds(values, steps):
    low, middle, top = (THRESHOLDS[step] for step in sorted(steps))
    at_most = dict(zip(THRESHOLDS, counted([values]).thresholds()["at_most"], strict=True))
    told = FerKD(low=low, middle=middle, top=top).count(np.array(values, np.float32))
    assert at_most[low] == told.discarded_low
    assert at_most[middle] - at_most[low] == told.calibrated
    assert at_most[top] - at_most[middle] == told.kept
    assert len(values) - at_most[top] == told.discarded_high


@given(st.lists(values_of_any_kind, min_size=1, max_size=4))
def test_parts_add_up(parts):
    together = counted([[value for part in parts for value in part]])
    apart = counted(parts)
    assert apart.crops == together.crops
    assert apart.counts().tolist() == together.counts().tolist()
    assert apart.thresholds() == together.thresholds()
    assert apart.counts().sum() == apart.crops


def test_a_part_of_the_crops_has_an_error_and_all_of_them_none():
    counts = counted([[0.2] * 50 + [0.9] * 50])
    assert all(row["error"] == 0.0 for row in counts.histogram(100))
    errors = {row["low"]: row["error"] for row in counts.histogram(10_000)}
    # 1.96 sqrt(0.5 x 0.5 / 104) sqrt(1 - 0.01)
    assert round(errors[0.2], 4) == 0.0956
    assert 0 < errors[0.5] < 0.04
