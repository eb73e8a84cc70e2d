"""Iterators that run ahead of their reader."""

from __future__ import annotations

import threading
import time

import pytest

from labelstore.producer.background import ahead


def test_items_come_in_order_and_waiting_is_counted():
    def slow():
        for number in range(5):
            time.sleep(0.02)
            yield number

    with ahead(slow(), 2) as running:
        assert list(running) == list(range(5))
    assert running.waited >= 0.08


def test_it_runs_no_further_ahead_than_the_bound():
    asked = []

    def counted():
        for number in range(100):
            asked.append(number)
            yield number

    with ahead(counted(), 3) as running:
        reader = iter(running)
        next(reader)
        time.sleep(0.3)
        # One was read, three wait, one is in the thread's hand.
        assert len(asked) <= 5


def test_an_error_comes_after_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise ValueError("no third")

    seen = []
    with ahead(failing(), 5) as running, pytest.raises(ValueError, match="no third"):
        seen.extend(running)
    assert seen == [1, 2]


def test_leaving_early_closes_the_generator_and_ends_the_thread():
    before = threading.active_count()
    closed = []

    def counted():
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread().name)

    with ahead(counted(), 2) as running:
        assert next(iter(running)) == 0
    assert closed == ["labelstore-ahead"]
    assert threading.active_count() == before
