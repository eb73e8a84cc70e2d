"""What is asked of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from labelstore.errors import UsageError, require_choice
from labelstore.format import codecs
from labelstore.format.codecs.ratio import STEP
from labelstore.format.codecs.suitability import (
    COARSE,
    FINE,
    FLAT,
    even_nats,
    rounding_share,
    suiting,
)
from labelstore.format.settings import StoreSettings
from labelstore.producer.stopping import GRACE_SECONDS
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    import os

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.manifest import Manifest
    from labelstore.format.settings import LabelLayout
    from labelstore.labels.top_k import LabelType
    from labelstore.producer.growth.growth import Growth
    from labelstore.store.writer import Remake, Share

__all__ = [
    "DEFAULT_OPTIONS",
    "FIDELITIES",
    "RESIZES",
    "LabelSettings",
    "OnError",
    "Output",
    "Resize",
    "RunOptions",
    "RunPlan",
]

Resize = Literal["workers", "device"]
RESIZES: tuple[Resize, ...] = ("workers", "device")
"""Where crops are resized: by Pillow in the worker threads, or on the teacher's device."""

OnError = Literal["stop", "skip"]
"""What becomes of a run that meets an image without labels."""

FIDELITIES: dict[str, StoreSettings] = {
    "small": StoreSettings(k=1, quantizer="ratio16", prior_size=64),
    "balanced": StoreSettings(k=4, quantizer="ratio16", prior_size=64, top_p=0.95),
    "fast": StoreSettings(k=5, quantizer="u8", prior_size=0),
}
"""Settings of ``LabelSettings.store`` by the name of what they are good at."""


@dataclass(frozen=True)
class LabelSettings:
    """What labels are to be made; all of it goes into the manifest."""

    num_views: int
    store: StoreSettings = field(default_factory=StoreSettings)
    """How they are stored. A setting that is None is that of ``FIDELITIES["balanced"]``, but for
    ``top_p`` and, where its steps are too coarse for the temperature, the quantizer; ``k`` is 1
    unless the label type is "top-k", and at most the number of classes; the layout is by the number
    of images and the backend."""
    law: ViewLaw = field(default_factory=ViewLaw)
    temperature: float = 1.0
    """The logits are divided by it before softmax."""
    label_type: LabelType = "top-k"
    layout: LabelLayout | None = None
    """How labels lie in a Zarr store; when None as they do in a store that is gone on with, or
    grows, else in chunks."""

    @classmethod
    def of_manifest(cls, manifest: Manifest, num_views: int | None = None) -> LabelSettings:
        """Those that a store was made with, but for the number of views where one is given.

        Raises:
            UsageError: it has no view law.
        """
        if not isinstance(manifest.law, ViewLaw):
            raise UsageError("the store has no view law, so its views cannot be cut again.")
        return cls(
            num_views=num_views or manifest.num_views,
            store=manifest.settings,
            law=manifest.law,
            temperature=1.0 if manifest.temperature is None else manifest.temperature,
            label_type=manifest.label_type,
        )

    def store_of(self, num_classes: int) -> StoreSettings:
        """``store`` for a teacher of so many classes; only ``top_p`` and the layout may be None."""
        store, balanced = self.store, FIDELITIES["balanced"]
        k = min(balanced.k or 1, num_classes) if self.label_type == "top-k" else 1
        prior_size = balanced.prior_size if store.prior_size is None else store.prior_size
        return replace(
            store,
            k=k if store.k is None else store.k,
            quantizer=store.quantizer or self.quantizer_of("balanced", num_classes),
            prior_size=min(prior_size or 0, num_classes),
        )

    def quantizer_of(self, fidelity: str, num_classes: int) -> str:
        """A fidelity's quantizer, or a finer one where it is too coarse for the temperature."""
        quantizer = FIDELITIES[fidelity].quantizer or codecs.DEFAULT
        if self.label_type == "hard":
            return quantizer
        return suiting(quantizer, self.temperature, num_classes)

    def advice(self, num_classes: int) -> list[str]:
        """A sentence for each setting that does not suit the temperature."""
        store, temperature = self.store_of(num_classes), self.temperature
        if self.label_type == "hard":
            return []
        sentences = []
        quantizer = store.quantizer or codecs.DEFAULT
        share = rounding_share(quantizer, temperature, num_classes)
        if share > COARSE:
            sentences.append(
                f"at temperature {temperature:g} the probabilities of {num_classes} classes are "
                f"near {1 / num_classes:.2g}, and {quantizer} has steps of {STEP} there: rounding "
                f"loses about {share:.0%} of what the same probability for every class would; "
                f"take the quantizer {FINE}, or name none."
            )
        listed = store.prior_size or 0
        if listed and (store.k or 1) > 1 and even_nats(temperature) < FLAT:
            sentences.append(
                f"at temperature {temperature:g} labels are about {even_nats(temperature):.1g} "
                f"nats from the same probability for every class, and more than one stored class "
                f"may make them worse: of the {store.k} asked for each image keeps as many as "
                f"help; a list of more than {listed} classes (the prior size) helps more."
            )
        return sentences


@dataclass(frozen=True)
class RunOptions:
    """How a run does its work, and what it does about errors and about a store that is there.

    What a view's label is does not depend on it, but for the last bits; the manifest says so where
    ``resize`` or ``compiled`` are not the usual.

    Raises:
        UsageError: a number below 1, or an unknown ``resize``.
    """

    batch_size: int | None = None
    """Views in one forward; when None by the device, on a GPU by its free memory."""
    workers: int = 2
    """Threads that decode and cut."""
    resize: Resize = "workers"
    """Where crops are resized, by Pillow in the ``workers`` or on the teacher's ``device``; the
    pixels are the same."""
    compiled: bool = False
    """Run the network through torch.compile; the manifest says so."""
    on_error: OnError = "stop"
    """What to do about an image that was read whole and cannot be decoded, or that a teacher has no
    finite logits for: ``stop``, or ``skip`` it (its place in the store stays, marked unreadable).
    What cannot be read stops the run in either case."""
    overwrite: bool = False
    """Replace a store that is there."""
    allow_version_drift: bool = False
    """Go on with a store that other library versions began."""
    grace: float = GRACE_SECONDS
    """Seconds that the block in work may take after SIGTERM; it is given up where it takes
    longer."""
    share: Share | None = None
    """Which of several processes this is that make the same store. In a folder a run returns once
    all blocks are there, those of processes that died meanwhile among them; on an object store,
    where there are no locks, once it has made its own."""

    def __post_init__(self) -> None:
        for name, value in (("batch size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, expected at least 1.")
        if not self.grace >= 0:
            raise UsageError(f"grace is {self.grace} seconds, expected 0 or more.")
        require_choice("resize", self.resize, RESIZES)

    def as_made(self, manifest: Manifest) -> RunOptions:
        """These, but ``resize`` and ``compiled`` as the teacher of a store was run."""
        how = manifest.teacher or {}
        return replace(
            self,
            resize="device" if how.get("resize") == "device" else "workers",
            compiled=bool(how.get("compiled")),
        )


DEFAULT_OPTIONS = RunOptions()
"""What is done where nothing else is asked for."""


@dataclass(frozen=True)
class Output:
    """The store that one teacher of a run makes."""

    targets: npt.NDArray[np.int32]
    """(num_images,) ground truth in the teacher's classes, -1 unknown."""
    path: str | os.PathLike[str]
    settings: LabelSettings
    """Their law, number of views and block size are those of the run's other stores."""
    remake: Remake | None = None
    """Blocks to make anew, though they are committed."""
    growth: Growth | None = None
    """The store whose labels are taken over; ``targets`` and the run's source are in its plan's
    order then, and the settings its."""


@dataclass(frozen=True)
class RunPlan:
    """What the blocks of a run are made with."""

    manifests: tuple[Manifest, ...]
    """Of each teacher's store."""
    paths: tuple[str, ...]
    """Of the stores, for messages."""
    options: RunOptions
    first_views: npt.NDArray[np.int64] | None = None
    """(N,) of each image, the first view to label; the first of all when None."""
