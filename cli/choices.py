"""The library's words and defaults that ``--help`` shows.

The library's modules that have them import NumPy, for which ``--help`` must not wait. So they stand
here a second time; tests/cli/test_options.py compares each with the library's own, and the types
are the library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from labelstore.labels.actions import Combine
    from labelstore.labels.ferkd import Calibrate, Confidence
    from labelstore.labels.top_k import LabelType, Tail
    from labelstore.operations.lifecycle.subset import Choice
    from labelstore.peers.exports.fkd import FkdArrays, FkdLabels
    from labelstore.producer.settings import OnError, Resize
    from labelstore.store.ensembles import Images
    from labelstore.training.cycle import Schedule

Targets = Literal["folders", "none"]
EngineName = Literal["local", "ray"]
Peer = Literal["fkd", "tinyvit", "ml-dr", "sre2l", "relabel", "distillkit", "npz"]
Thresholds = Literal["paper", "fit", "fit-by-class"]
Layout = Literal["chunks", "units"]
ExportName = Literal["fkd", "webdataset", "npz", "hf"]

ON_ERROR: tuple[OnError, ...] = ("stop", "skip")
TARGETS: tuple[Targets, ...] = get_args(Targets)
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
PEERS: tuple[Peer, ...] = get_args(Peer)
THRESHOLDS: tuple[Thresholds, ...] = get_args(Thresholds)
CONFIDENCES: tuple[Confidence, ...] = ("max", "target")
CALIBRATES: tuple[Calibrate, ...] = ("smooth", "loca")
COMBINES: tuple[Combine, ...] = ("all", "any", "mean")
TAILS: tuple[Tail, ...] = ("image", "uniform", "none")
LABEL_TYPES: tuple[LabelType, ...] = ("top-k", "hard", "smoothing")
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
RESIZES: tuple[Resize, ...] = ("workers", "device")
IMAGES: tuple[Images, ...] = ("strict", "intersection")
VIEW_CHOICES: tuple[Choice, ...] = ("random", "surgical")
SCHEDULES: tuple[Schedule, ...] = ("random", "surgical", "easy-to-hard", "hard-to-easy")
EXPORTS: tuple[ExportName, ...] = get_args(ExportName)
FKD_LABELS: tuple[FkdLabels, ...] = (
    "hard",
    "smoothing",
    "marginal_smoothing_k5",
    "marginal_smoothing_k10",
)
FKD_ARRAYS: tuple[FkdArrays, ...] = ("tensors", "numpy")
QUANTIZERS = ("ratio16", "ratio32", "u8", "u16", "fp16", "fp32")
FIDELITIES = ("small", "balanced", "fast")

LOW, MIDDLE, TOP = 0.15, 0.30, 0.95
"""FerKD's thresholds."""
SMOOTHING, ALPHA = 0.1, 0.9
SCALE, RATIO, FLIP, SEED = (0.08, 1.0), (3 / 4, 4 / 3), 0.5, 0
"""The view law's."""
GRACE = 20.0
"""Seconds after SIGTERM."""
FKD_FOLDER = "train"
"""The folder of photos that FKD's scripts train from."""
SHARD_MB = 256
"""Millions of bytes of a shard of an export."""
TOLERANCE = 0.02
"""Of ``labelstore verify --replay``."""
NAMED = 10
"""Names of each kind of finding that ``labelstore check`` and ``doctor`` tell."""
