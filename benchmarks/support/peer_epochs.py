"""An epoch of labels as others read it: one view, or four, of every image, in random order.

Each row is (seconds for the epoch, how it was measured). What takes long is measured on a sample
of images and scaled linearly, which is said; a file an image then lies in a folder of few files,
in the peer's favour. ``labels`` gives (n, V, k) ids and probabilities of images.
"""

from __future__ import annotations

import gzip
import io
import pickle
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PEERS", "floor"]

BATCH = 256
FILE_VIEWS, ML_DR_VIEWS = 500, 400
"""Views in a file of FKD and of ml-dr, as they are given away."""

Row = dict[str, Any]
Labels = tuple[np.ndarray, np.ndarray]


def floor(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
    """A memory map of decoded labels: what reading could cost at the least."""
    ids, probs = labels
    arrays = []
    for name, values in (("ids", ids.astype("<u2")), ("probs", probs.astype("<f4"))):
        np.save(folder / f"{name}.npy", values)
        arrays.append(np.load(folder / f"{name}.npy", mmap_mode="r"))

    def run() -> None:
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH, None]
            columns = shown[order[start : start + BATCH]]
            arrays[0][rows, columns].astype(np.int32), np.asarray(arrays[1][rows, columns])

    size = sum(array.nbytes for array in arrays)
    return {"seconds": _median(run), "how": "whole epoch", "bytes": size}


def fkd(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
    """A ``torch.save`` an image with all its views, loaded whole for the few that are shown."""
    files = 256
    ids, probs = (_views(part[:files], FILE_VIEWS) for part in labels)
    for image in range(files):
        boxes, flips = torch.rand(FILE_VIEWS, 4), torch.zeros(FILE_VIEWS, dtype=torch.bool)
        stacked = np.stack([ids[image], probs[image]], axis=1).astype(np.float32)
        torch.save([boxes, flips, torch.from_numpy(stacked)], folder / f"{image}.tar")

    def run() -> None:
        for image in range(files):
            label = torch.load(folder / f"{image}.tar", weights_only=True)[2]
            label[torch.from_numpy(shown[image])].numpy()

    return _scaled(run, files, len(order))


def tinyvit(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
    """A file an epoch of one view, records found by a dictionary of keys; more views, more
    epochs' files."""
    ids, probs = labels
    k, count = ids.shape[-1], len(order)
    record = np.dtype([("seed", "<i4"), ("ids", "<i2", (k,)), ("probs", "<f2", (k,))])
    rows = np.zeros(len(ids), dtype=record)
    rows["ids"], rows["probs"] = ids[:, 0], probs[:, 0]
    (folder / "rank0-values.bin").write_bytes(rows.tobytes())
    (folder / "rank0-keys.txt").write_text("".join(f"{image}\n" for image in range(len(ids))))
    sample = min(count, 100_000)
    start = time.perf_counter()
    places = {}
    with (folder / "rank0-keys.txt").open() as file:
        for place, line in enumerate(file):
            places[line.strip()] = place
    keys = time.perf_counter() - start

    def run() -> None:
        with (folder / "rank0-values.bin").open("rb") as file:
            for image in order[:sample].tolist():
                file.seek(places[str(image)] * record.itemsize)
                data = file.read(record.itemsize)
                np.frombuffer(data[4 : 4 + 2 * k], "<i2"), np.frombuffer(data[4 + 2 * k :], "<f2")

    found = _scaled(run, sample, count)
    found["seconds"] = (found["seconds"] + keys) * shown.shape[1]
    found["how"] += "; the dictionary of keys, made anew for each epoch, whole and included"
    return found


def _ml_dr(packed: bool) -> Callable[..., Row]:
    def row(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
        files = 128
        ids, probs = (_views(part[:files], ML_DR_VIEWS).tolist() for part in labels)
        for image in range(files):
            samples = [
                {"params": [(0, 0, 224, 224), (False,)], "prob": (values, classes)}
                for values, classes in zip(probs[image], ids[image], strict=True)
            ]
            if packed:
                data = gzip.compress(pickle.dumps((image, samples), protocol=4), mtime=0)
            else:
                buffer = io.BytesIO()
                torch.save((image, samples), buffer, pickle_protocol=4)
                data = buffer.getvalue()
            (folder / str(image)).write_bytes(data)

        def run() -> None:
            for image in range(files):
                if packed:
                    # These files were just written here.
                    data = gzip.decompress((folder / str(image)).read_bytes())
                    _, samples = pickle.loads(data)
                else:
                    _, samples = torch.load(folder / str(image), weights_only=False)
                for view in shown[image].tolist():
                    np.array(samples[view]["prob"][0]), np.array(samples[view]["prob"][1])

        return _scaled(run, files, len(order))

    return row


def lmdb(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
    """A value an image, of all views that were written: uint16 ids and float16 probabilities."""
    import lmdb as library

    ids, probs = labels
    count = min(len(order), 200_000)
    views, k = ids.shape[1:]
    held = np.concatenate(
        [ids[:count].astype("<u2"), probs[:count].astype("<f2").view("<u2")], axis=-1
    )
    with library.open(str(folder), map_size=2**34, sync=False) as made:
        with made.begin(write=True) as transaction:
            for image in range(count):
                transaction.put(b"%08d" % image, held[image].tobytes(), append=True)
        chosen = order[order < count]

        def run() -> None:
            with made.begin(buffers=True) as transaction:
                for image in chosen.tolist():
                    value = np.frombuffer(transaction.get(b"%08d" % image), "<u2")
                    rows = value.reshape(views, 2 * k)[shown[image]]
                    rows[:, :k], rows[:, k:].view("<f2")

        return _scaled(run, len(chosen), len(order))


def parquet(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
    """A row an image, a column a view, of fixed-size lists: read whole, then gathered."""
    names = _write_columns(labels, lambda table: pq.write_table(table, folder / "a"))

    def run() -> None:
        table = pq.read_table(folder / "a", columns=names)
        _gather(_arrays(table, labels[0].shape[-1]), order, shown)

    return {"seconds": _median(run, 3), "how": "whole epoch"}


def lance(folder: Path, labels: Labels, order: np.ndarray, shown: np.ndarray) -> Row:
    """As Parquet."""
    import lance as library

    names = _write_columns(labels, lambda table: library.write_dataset(table, folder / "a"))

    def run() -> None:
        table = library.dataset(folder / "a").to_table(columns=names)
        _gather(_arrays(table, labels[0].shape[-1]), order, shown)

    return {"seconds": _median(run, 3), "how": "whole epoch"}


PEERS: dict[str, Callable[..., Row]] = {
    "FKD: a torch file an image": fkd,
    "ml-dr: a torch file an image": _ml_dr(packed=False),
    "ml-dr: a gzip pickle an image": _ml_dr(packed=True),
    "TinyViT: seek and read": tinyvit,
    "LMDB": lmdb,
    "Parquet": parquet,
    "Lance": lance,
}
"""The rows; one whose library is missing raises ImportError."""


def _views(values: np.ndarray, count: int) -> np.ndarray:
    """Labels (n, V, k) repeated to (n, count, k)."""
    return np.resize(np.moveaxis(values, 1, 0), (count, *values[:, 0].shape)).swapaxes(0, 1)


def _write_columns(labels: Labels, write: Callable[[pa.Table], object]) -> list[str]:
    columns = {}
    for view in range(labels[0].shape[1]):
        for name, values in zip("ip", labels, strict=True):
            part = values[:, view].astype("<u2" if name == "i" else "<f4")
            flat = pa.array(np.ascontiguousarray(part).reshape(-1))
            columns[f"{name}{view}"] = pa.FixedSizeListArray.from_arrays(flat, part.shape[1])
    write(pa.table(columns))
    return list(columns)


def _arrays(table: pa.Table, k: int) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate(
            [part.flatten().to_numpy(zero_copy_only=False) for part in table[name].chunks]
        ).reshape(-1, k)
        for name in table.column_names
    }


def _gather(arrays: dict[str, np.ndarray], order: np.ndarray, shown: np.ndarray) -> None:
    views = shown.max() + 1
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for view in range(views):
            chosen = rows[(shown[rows] == view).any(axis=1)]
            arrays[f"i{view}"][chosen].astype(np.int32), arrays[f"p{view}"][chosen]


def _median(run: Callable[[], object], rounds: int = 3) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def _scaled(run: Callable[[], object], sample: int, count: int) -> Row:
    how = "whole epoch" if sample == count else f"{sample:,} images, scaled linearly"
    return {"seconds": _median(run) * count / sample, "how": how}
