"""The benchmark that draws out what cannot be tried: its lines, and that its tasks run."""

from __future__ import annotations

import pytest

from benchmarks import ceiling
from benchmarks.ceiling import CORES, GPUS, IMAGES, VIEWS


def row(images, seconds, memory=10**8, **others):
    return {"images": images, "cpu_seconds": seconds, "most_memory_bytes": memory, **others}


def test_figures_lie_on_the_line_through_the_last_two_sizes():
    rows = [row(1024, 99.0), row(8192, 2.0, 10**8), row(16_384, 3.0, 2 * 10**8)]
    found = ceiling.drawn_out(rows)
    beyond = (IMAGES - 16_384) / 8192
    assert found["drawn_out"]["cpu_seconds"] == 3.0 + beyond
    assert found["drawn_out"]["most_memory_bytes"] == 2e8 + 1e8 * beyond
    assert found["growth"] == 0.58  # log2(3 / 2)
    # What falls by noise is taken as constant.
    assert ceiling.drawn_out([row(8192, 3.0), row(16_384, 2.0)])["drawn_out"]["cpu_seconds"] == 2.0


def test_memory_of_less_than_some_blocks_is_not_drawn_out():
    found = ceiling.drawn_out([row(1024, 1.0), row(2048, 2.0)])["drawn_out"]
    assert set(found) == {"cpu_seconds"}


def test_the_stages_say_how_fast_a_gpu_must_label_before_the_cores_bind():
    blocks = [row(8192, 10.0, fitting_a_list_cpu_seconds=0.004)]
    found = ceiling.stages(
        {"write blocks": {"measured": blocks, "drawn_out": {"cpu_seconds": 1.0}}}
    )
    a_view = found["processor_s_a_view_in_all"]
    limit = found["views_per_second_a_gpu_before_the_cores_bind"]
    assert limit * GPUS * a_view == pytest.approx(CORES)
    hours = found["hours_by_views_per_second_of_a_gpu"]
    assert hours["1000"] == pytest.approx(IMAGES * VIEWS / (1000 * GPUS) / 3600)
    assert all(time >= found["hours_where_the_cores_bind"] for time in hours.values())


@pytest.mark.slow
def test_the_tasks_run_on_a_store_of_their_making(tmp_path):
    store, other = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    made = ceiling.measured("fill", store, "48", "4", "0")
    assert made["most_memory_bytes"] > 2**20
    assert ceiling.measured("verify", store, other)["problems"] == 0
    assert ceiling.measured("inspect", store, other)["crops"] == 48 * 4
    assert ceiling.measured("open_store", store, other)["missing_blocks"] == 0
