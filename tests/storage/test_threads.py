"""Threads for what NumPy and compressors do."""

from __future__ import annotations

import threading
import time

import pytest

from labelstore.storage.parallel import threads
from labelstore.storage.parallel.threads import on_all_cores


@pytest.mark.parametrize("cores", [1, 4])
def test_results_are_in_order_and_no_thread_is_left(monkeypatch, cores):
    monkeypatch.setattr(threads, "own_cores", lambda _: cores)

    def late(number):
        # The first ones come last.
        time.sleep(0.02 * (4 - number))
        return number, threading.current_thread()

    before = threading.active_count()
    found = on_all_cores(late, range(4))
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert len({thread for _, thread in found}) == cores
    assert threading.active_count() == before
    assert on_all_cores(late, []) == []


@pytest.mark.parametrize("cores", [1, 4])
def test_the_first_items_error_is_raised(monkeypatch, cores):
    monkeypatch.setattr(threads, "own_cores", lambda _: cores)

    def failing(number):
        time.sleep(0.02 * (4 - number))
        if number in (1, 3):
            raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 1"):
        on_all_cores(failing, range(4))
