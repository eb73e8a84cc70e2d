"""The store of ImageNet's size, in small: whole, each image its own; and a task in a process."""

import labelstore
from benchmarks.support.operation_tasks import grow, grow_plan
from benchmarks.support.own_process import measured
from benchmarks.support.whole_store import make
from labelstore.operations.verify import verify


def test_a_store_of_blocks_laid_down_over_and_over(tmp_path):
    path = tmp_path / "made.zarr"
    # Four blocks are the template; the fifth is its first again, and the last one is cut short.
    make(str(path), 4 * 1024 + 1024 + 100, views=8)
    store = labelstore.open(path)
    assert store.manifest.num_blocks == 6
    assert verify(store).whole
    assert len(set(store.keys)) == store.num_images
    again, first = store.read(4096, [0, 7]), store.read(0, [0, 7])
    assert again.indices.tolist() == first.indices.tolist()
    assert store.read(1024, [0]).probs.tolist() != first.probs[:1].tolist()
    assert grow_plan(str(path), str(tmp_path / "grown.zarr")) == {"views_to_label": 4 * 8}
    assert grow(str(path), str(tmp_path / "grown.zarr")) == {"views_made": 4 * 8, "blocks_made": 6}
    grown = labelstore.open(tmp_path / "grown.zarr")
    assert grown.num_images == store.num_images + 4
    row = measured("benchmarks.support.operation_tasks", "verify", str(path), "", limit=60)
    assert row["problems"] == 0
    assert row["most_memory_bytes"] > 2**20
