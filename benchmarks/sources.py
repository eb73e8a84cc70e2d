"""Photos by the million: what it takes to list, index and read them, and to begin a store of them.

``folders`` lists files that are really there, one folder a class and all in one, and scales to
ImageNet's number; ``creation`` makes the empty store of as many images. ``shards`` indexes tar
files as WebDataset's writer makes them, and then again, with the indexes that were kept.
``parquet`` reads row groups whose paths have another order than their rows.

    python -m benchmarks.sources
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.measuring import write_result

IMAGENET = 1_281_167
FILES_A_FOLDER = 1_300
_MOST_LINKS = 30_000
"""Names of one file; file systems allow some more."""

_MEASURED = """
import json, resource, sys, time
from benchmarks.support import source_tasks
begun, used = time.perf_counter(), time.process_time()
details = getattr(source_tasks, sys.argv[1])(*sys.argv[2:])
print(json.dumps({
    "seconds": time.perf_counter() - begun,
    "cpu_seconds": time.process_time() - used,
    "most_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    **details,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200_000, help="of the folders")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LABELSTORE_CACHE"] = folder
        result = measure(Path(folder), options.files)
    write_result("sources", result, options.out)


def measure(root: Path, files: int) -> dict[str, Any]:
    result: dict[str, Any] = {"setting": {"files": files, "imagenet": IMAGENET}}
    result["folders"] = {}
    for name, size in (("a folder a class", FILES_A_FOLDER), ("all in one", files)):
        folder = root / name.replace(" ", "_")
        _fill(folder, files, size)
        row = measured("list_files", str(folder))
        row["imagenet_cpu_seconds"] = row["cpu_seconds"] * IMAGENET / files
        result["folders"][name] = row
    result["creation"] = {
        kind: measured("create_store", str(root / f"store.{kind}"), str(IMAGENET))
        for kind in ("zarr", "parquet")
    }
    for name, with_classes in (("photos", False), ("photos and classes", True)):
        folder = root / f"shards_{with_classes}"
        _fill_shards(folder, files // 4, with_classes)
        rows = {kind: measured("index_shards", str(folder)) for kind in ("read", "kept")}
        result.setdefault("shards", {})[name] = rows
    _fill_parquet(root / "photos.parquet")
    result["parquet"] = measured("read_rows", str(root / "photos.parquet"))
    return result


def measured(task: str, *arguments: str) -> dict[str, Any]:
    """What a task of ``source_tasks`` takes in a process of its own."""
    command = [sys.executable, "-c", _MEASURED, task, *arguments]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _fill(folder: Path, files: int, size: int) -> None:
    """Names of a few tiny files, so many in each folder."""
    folder.mkdir()
    for number in range(files):
        if number % _MOST_LINKS == 0:
            photo = folder / f".photo{number}"
            photo.write_bytes(b"\0")
        own = folder if size >= files else folder / f"n{number // size:08}"
        if number % size == 0:
            own.mkdir(exist_ok=True)
        os.link(photo, own / f"{own.name}_{number}.JPEG")


def _fill_shards(folder: Path, images: int, with_classes: bool) -> None:
    """Ten shards of tiny photos."""
    folder.mkdir()
    for shard in range(10):
        path = folder / f"train-{shard:04}.tar"
        with tarfile.open(path, "w") as archive:
            for number in range(shard * images // 10, (shard + 1) * images // 10):
                for field in ("cls", "jpg") if with_classes else ("jpg",):
                    member = tarfile.TarInfo(f"{number:08}.{field}")
                    data = b"123" if field == "cls" else bytes(900)
                    member.size, member.mtime = len(data), 1.7e9 + number / 1000
                    archive.addfile(member, io.BytesIO(data))
        # An index is kept of what has not been written just now.
        os.utime(path, (1.7e9, 1.7e9))


def _fill_parquet(path: Path, rows: int = 4000, group: int = 100) -> None:
    rng = np.random.default_rng(0)
    photos = [{"bytes": rng.bytes(10_000), "path": f"{n}.jpg"} for n in rng.permutation(rows)]
    pq.write_table(pa.table({"image": photos}), path, row_group_size=group)


if __name__ == "__main__":
    main()
