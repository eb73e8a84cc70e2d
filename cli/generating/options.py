"""The options of ``labelstore generate``, and what they make of the library's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..options import ResultOptions, StoreSettingsOptions

if TYPE_CHECKING:
    from labelstore.format.settings import StoreSettings
    from labelstore.labels.top_k import LabelType
    from labelstore.launch import Launch
    from labelstore.producer.settings import LabelSettings, OnError, Resize, RunOptions
    from labelstore.views.law import ViewLaw

    from ..choices import EngineName, Layout, Targets
    from ..options import LawOptions, SourceOptions
    from ..teacher_options import TeachersOptions

__all__ = ["GenerateOptions", "LabelOptions"]


@dataclass(frozen=True)
class LabelOptions(StoreSettingsOptions):
    """What is kept of a teacher's output."""

    fidelity: str
    label_type: LabelType
    layout: Layout | None

    def label_settings(
        self, views: int, law: ViewLaw, temperature: float, num_classes: int
    ) -> LabelSettings:
        """What labels a teacher of so many classes is to make."""
        from labelstore.producer.settings import LabelSettings

        settings = LabelSettings(
            num_views=views,
            law=law,
            temperature=temperature,
            label_type=self.label_type,
            layout=self.layout,
        )
        store = self._store(num_classes)
        if self.quantizer is None:
            store = replace(store, quantizer=settings.quantizer_of(self.fidelity, num_classes))
        return replace(settings, store=store)

    def _store(self, num_classes: int) -> StoreSettings:
        """The settings of a fidelity, with those that were asked for in their stead."""
        from labelstore.producer.settings import FIDELITIES

        settings = FIDELITIES[self.fidelity]
        # A fidelity's classes are at most the teacher's.
        settings = replace(settings, k=min(settings.k or num_classes, num_classes))
        if self.label_type != "top-k":
            # One class with an even tail, or none, is all that these labels are.
            settings = replace(settings, k=1, prior_size=0)
        if self.top_k is not None or settings.k == 1:
            # A fidelity's mass goes with its own number of classes.
            settings = replace(settings, top_p=None)
        return replace(settings, **self.settings().chosen())


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ResultOptions):
    """The options of ``labelstore generate``."""

    source: str
    output: tuple[str, ...]
    teachers: TeachersOptions
    labels: LabelOptions
    views: int | None
    views_law: LawOptions
    views_from: str | None
    grow: str | None
    relabel_changed: bool
    photos: SourceOptions
    targets: Targets
    class_map: str | None
    engine: EngineName
    actors: int | None
    on_error: OnError
    grace: float
    batch_size: int | None
    resize: Resize
    compiled: bool
    workers: int | None
    dry_run: bool
    allow_version_drift: bool
    log_json: bool
    overwrite: bool

    def run_options(self, launch: Launch | None) -> RunOptions:
        """How the work is to be done."""
        from labelstore.launch import own_cores
        from labelstore.producer.settings import RunOptions
        from labelstore.store.writer import Share

        return RunOptions(
            batch_size=self.batch_size,
            workers=self.workers or own_cores(launch),
            resize=self.resize,
            compiled=self.compiled,
            on_error=self.on_error,
            grace=self.grace,
            overwrite=self.overwrite,
            allow_version_drift=self.allow_version_drift,
            share=None if launch is None else Share(launch.rank, launch.world),
        )
