"""Bytes a crop against distance to the teacher: labelstore's settings and other projects' files.

Teachers are EfficientNet-Lite 0, 1 and 2 with their real weights, photos those of foolbox
(ImageNet), of scikit-image and scikit-learn, foods, and cut-outs; the teachers' full softmax of
every view is the truth, and KL(teacher || recovered) is its mean over views, in nats. Bytes are
those of all label, prior, commit and image-table files on disk. A chunk of these stores holds as
many crops as one of a large data set, though of fewer images. A store's fixed part (its manifest
and the description of each array, about 10 kB whatever its size) is given apart. Peers' files are
written, weighed and read back, with the recovery of each project
(``benchmarks.support.peer_files``).

    python -m benchmarks.rate_distortion           # everything that can be had
    python -m benchmarks.rate_distortion --small   # under a minute; needs no network

Writes JSON, and beside it a Markdown table and a plot. Logits and photos are kept in a cache
folder, so that a second run makes the tables alone.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.support import rate_report
from benchmarks.support.measuring import size_of, write_result
from benchmarks.support.peer_files import PEERS, Labels, Peer
from benchmarks.support.photos_and_teachers import (
    SETS,
    TEACHERS,
    default_cache,
    log_probs,
    photo_folder,
    teacher_weights,
)
from benchmarks.support.rate_measures import (
    SETTINGS,
    SHORT,
    Setting,
    coding,
    confidence,
    make,
    read_all,
    speed,
    weigh,
)
from labelstore.errors import install_from_checkout
from labelstore.labels.distance import distances
from labelstore.views.law import ViewLaw
from labelstore.views.philox import hash_keys

if TYPE_CHECKING:
    from labelstore.labels.soft_labels import SoftLabels

SIZE = (375, 500)
"""Height and width of the images whose boxes the peers' files hold: ImageNet's most frequent."""

CODED = (SETTINGS[0], SETTINGS[2], SETTINGS[4], SETTINGS[5])


@dataclass(frozen=True)
class Case:
    """A teacher's output for some photos."""

    teacher: str
    photos: str
    logs: np.ndarray
    """(N, V, C) float32 logarithms of probabilities at temperature 1."""
    views: tuple[int, ...]
    """How many of the views are stored: the first ones."""
    full: bool
    """Whether all settings and peers are measured, or the short list and FKD's files alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--images", type=int, default=10, help="of each set but foolbox")
    parser.add_argument("--views", type=int, default=500, help="of foolbox's photos")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.5, 4.0, 20.0])
    parser.add_argument("--small", action="store_true", help="8 photos x 32 views, few settings")
    parser.add_argument("--out", type=Path, help="where the JSON goes; the others lie beside it")
    options = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    out = options.out
    if options.small:
        cases, rounds, images = small_cases(options.cache), 3, 256
        out = out or options.cache / "rate_distortion_small.json"
    else:
        cases, rounds, images = all_cases(options), 7, 1024
    if not cases:
        raise SystemExit(f"no photos or no teacher could be had: {install_from_checkout('demo')}")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), cases, options.temperatures, rounds, images)
    write_result("rate_distortion", result, out)
    rate_report.write(result, out or rate_report.RESULT)


def all_cases(options: argparse.Namespace) -> list[Case]:
    """All views of foolbox's photos with Lite0, 128 of others; what cannot be had is left out."""
    cases = []
    few = min(128, options.views)
    for teacher in TEACHERS:
        weights = teacher_weights(teacher, options.cache)
        if weights is None:
            continue
        first = teacher == next(iter(TEACHERS))
        sizes = dict.fromkeys(SETS, options.images) | {"foolbox": 20 if first else options.images}
        logs: dict[str, list[np.ndarray]] = {}
        for name, count in sizes.items():
            if not first and name not in ("foolbox", "scikit"):
                continue
            folder = photo_folder(name, options.cache, count)
            if folder is not None:
                main = first and name == "foolbox"
                group = name if main else "scikit, food, stamps" if first else "foolbox, scikit"
                views = options.views if main else few
                found = log_probs(teacher, folder, weights, views, options.cache)
                logs.setdefault(group, []).append(found)
        for group, parts in logs.items():
            views = parts[0].shape[1]
            counts = (views, few) if views > few else (views,)
            full = first and group == "foolbox"
            cases.append(Case(teacher, group, np.concatenate(parts), counts, full))
    return cases


def small_cases(cache: Path) -> list[Case]:
    """The first teacher with 8 photos and 32 views."""
    teacher = next(iter(TEACHERS))
    folder, weights = photo_folder("foolbox", cache, 8), teacher_weights(teacher, cache)
    if folder is None or weights is None:
        return []
    return [Case(teacher, "foolbox", log_probs(teacher, folder, weights, 32, cache), (32,), False)]


def measure(
    folder: Path, cases: list[Case], temperatures: list[float], rounds: int, images: int
) -> dict[str, Any]:
    """Everything, as it goes into the JSON."""
    tables, coded = [], []
    for case in cases:
        for temperature in temperatures:
            for views in case.views:
                place = folder / f"{len(tables)}"
                place.mkdir()
                truth, order = truth_of(case.logs[:, :views], temperature)
                table = {
                    "teacher": case.teacher,
                    "photos": case.photos,
                    "images": len(truth),
                    "views": views,
                    "temperature": temperature,
                    "full": case.full,
                }
                print(", ".join(f"{key} {value}" for key, value in table.items()), flush=True)
                table["labelstore"] = stores(place, truth, order, SETTINGS if case.full else SHORT)
                table["peers"] = peers(place, truth, order, case.full)
                tables.append(table)
                if case is cases[0] and views == case.views[0]:
                    coded += [
                        {
                            "temperature": temperature,
                            **coding(truth, order, setting, place / f"coded-{number}.zarr"),
                        }
                        for number, setting in enumerate(CODED)
                    ]
    tops = [
        np.sort(truth_of(case.logs, temperature)[0].reshape(-1, case.logs.shape[-1]), axis=-1)
        for case in cases
        for temperature in temperatures
    ]
    probs = np.concatenate([top[:, :-3:-1] for top in tops])
    return {
        "tables": tables,
        "targets": rate_report.targets(tables),
        "against_peers": rate_report.against_peers(tables),
        "coding": coded,
        "confidence": confidence(probs),
        "speed": speed(folder, images, 64, rounds),
    }


def truth_of(logs: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, V, C) float32 distributions at a temperature, and the 100 likeliest classes in order."""
    scaled = logs.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    truth = (scaled / scaled.sum(axis=-1, keepdims=True)).astype(np.float32)
    order = np.argsort(-truth, axis=-1, kind="stable")[..., :100]
    return truth, order


def stores(
    folder: Path, truth: np.ndarray, order: np.ndarray, settings: tuple[Setting, ...]
) -> list[dict[str, Any]]:
    """A row for each setting: its bytes in both backends, and its distances, which are the same."""
    rows = []
    for number, setting in enumerate(settings):
        store = make(folder / f"{number}.zarr", truth, order, setting)
        other = make(folder / f"{number}.parquet", truth, order, setting)
        topk = read_all(store)
        if not np.array_equal(topk.probs, read_all(other).probs):
            raise SystemExit("the two backends differ: the benchmark would be worth nothing")
        found = distances((truth[i], topk[i].recover()) for i in range(len(truth)))
        rows.append(
            {
                "setting": setting.name,
                "k": setting.k,
                **weigh(store),
                "parquet": weigh(other),
                "classes_per_crop": round(float((topk.probs > 0).sum(axis=-1).mean()), 2),
                **found.to_json(),
            }
        )
    return rows


def peers(folder: Path, truth: np.ndarray, order: np.ndarray, full: bool) -> list[dict[str, Any]]:
    """A row for each peer: bytes of its files and the distances of what it recovers."""
    images, views, classes = truth.shape
    hashes = hash_keys([str(image) for image in range(images)])
    law = ViewLaw()(hashes[:, None], np.arange(views), SIZE[1], SIZE[0])
    probs = np.take_along_axis(truth, order, axis=-1)
    labels = Labels(order, probs, law.box, law.flip, SIZE, classes)
    rows = []
    for number, peer in enumerate(PEERS):
        if not full and not peer.name.startswith("FKD"):
            continue
        place = folder / f"peer-{number}"
        place.mkdir()
        peer.write(place, labels)
        size = size_of(place)
        soft = recovered(peer, place, labels)
        found = distances((truth[i], soft[i]) for i in range(images))
        rows.append(
            {
                "peer": peer.name,
                "bytes_per_crop": round(size / images / views, 3),
                "negative_share": round(float((soft.base < 0).mean()), 4),
                **found.to_json(),
            }
        )
    return rows


def recovered(peer: Peer, folder: Path, labels: Labels) -> SoftLabels:
    """What a peer makes of its files, after a check that they hold the labels' classes."""
    found = peer.read(folder, labels)
    if not np.array_equal(found[0], labels.top(peer.k)[0]):
        raise SystemExit(f"{peer.name}: other classes came back than were written")
    return peer.recover(found, labels.num_classes)


if __name__ == "__main__":
    main()
