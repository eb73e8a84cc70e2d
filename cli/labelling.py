"""What ``labelstore generate`` asks of the library, made of its options."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from . import output
from .fitted_temperature import fitted, from_stores
from .options import ResultOptions
from .reports.forecast import check_room, print_forecast
from .reports.generate import announce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.manifest import StoreSettings
    from labelstore.images.sources.choose import ImageSource
    from labelstore.labels.top_k import LabelType
    from labelstore.launch import Launch
    from labelstore.producer.engines.protocol import Engine
    from labelstore.producer.engines.ray_engine import RayEngine
    from labelstore.producer.generation import Report
    from labelstore.producer.settings import LabelSettings, OnError, Output, Resize, RunOptions
    from labelstore.store.store import Store
    from labelstore.teachers.info import TeacherInfo
    from labelstore.teachers.teacher import Teacher
    from labelstore.views.law import ViewLaw

    from .choices import EngineName, Layout, Targets
    from .options import LawOptions, SourceOptions
    from .teacher_options import TeacherOptions, TeachersOptions

__all__ = ["GenerateOptions", "LabelOptions", "how_launched", "label", "targets_anew"]


@dataclass(frozen=True)
class LabelOptions:
    """What is kept of a teacher's output."""

    fidelity: str
    top_k: int | None
    prior_size: int | None
    quantizer: str | None
    top_p: float | None
    label_type: LabelType
    block_images: int | None
    group_views: int | None
    layout: Layout | None

    def settings(
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
        from labelstore.format.manifest import StoreSettings
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
        overrides = StoreSettings(
            self.top_k,
            self.quantizer,
            self.prior_size,
            self.top_p,
            self.block_images,
            self.group_views,
        )
        return replace(settings, **overrides.chosen())


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


@dataclass(frozen=True)
class _Views:
    """Which views are labelled."""

    count: int
    """Of each image."""
    law: ViewLaw


@dataclass(frozen=True)
class _Job:
    """What is to be labelled, checked as far as it can be without a network."""

    source: ImageSource
    views: _Views
    teachers: list[TeacherOptions]
    """One for each path in ``--output``."""
    pending: list[bool]
    """Whether each one's temperature is still to be fitted."""
    class_map: Mapping[str, int | str] | None
    options: RunOptions
    launch: Launch | None


def label(request: GenerateOptions, launch: Launch | None) -> list[Report]:
    """Do what was asked for; a report for each store, none of a dry run."""
    from labelstore.errors import UsageError
    from labelstore.producer.engines.local import LocalEngine

    job = _job(request, launch)
    if request.engine == "ray":
        with _ray_engine(request, job) as engine:
            return _labelled(request, job, engine)
    networks = [teacher.load() for teacher in job.teachers]
    if any(job.pending):
        planned = _outputs(request, job, [network.info for network in networks])
        workers = job.options.workers
        teachers = fitted(job.source, job.teachers, networks, planned, job.pending, workers)
        job = replace(job, teachers=teachers)
    if not request.dry_run:
        with LocalEngine(networks, job.options) as engine:
            return _labelled(request, job, engine)
    outputs = _outputs(request, job, [network.info for network in networks])
    if len(outputs) > 1:
        raise UsageError("--dry-run was given for several teachers: try them one by one.")
    if launch is None or launch.rank == 0:
        _forecast(request, job, networks[0], outputs[0])
    return []


def _job(request: GenerateOptions, launch: Launch | None) -> _Job:
    from labelstore.errors import UsageError
    from labelstore.images.ground_truth.class_map import read_class_map
    from labelstore.images.sources.choose import check_outside
    from labelstore.launch import take_gpu

    views = _views(request)
    teachers = request.teachers.each()
    request.teachers.check_count("output", request.output)
    source = request.photos.open(request.source)
    for path in request.output:
        check_outside(source, path)
    if not request.overwrite and request.engine == "local":
        source = _as_stored(source, request.output)
    if request.views_from:
        _check_photos(source, request.views_from)
    teachers, pending = from_stores(
        teachers, request.teachers.fits(), request.output, request.overwrite
    )
    if any(pending) and (launch is not None or request.engine == "ray"):
        raise UsageError(
            "--temperature fit runs in one process, and several were asked for: take the "
            "temperature that labelstore evaluate tells."
        )
    class_map = read_class_map(request.class_map) if request.class_map else None
    if launch is not None and request.teachers.device != "cpu":
        take_gpu(launch)
    if request.engine == "ray" and launch is not None:
        raise UsageError(
            "--engine ray runs once, on one machine of the cluster: leave out torchrun or srun."
        )
    options = request.run_options(launch)
    job = _Job(source, views, teachers, pending, class_map, options, launch)
    if not request.dry_run:
        _check_requests(request, job)
    return job


def _check_requests(request: GenerateOptions, job: _Job) -> None:
    """A network may take minutes; what is wrong already is said before."""
    from labelstore.producer.precheck import check_request
    from labelstore.teachers.load import facts_of

    for teacher, path in zip(job.teachers, request.output, strict=True):
        check_request(
            job.source,
            path,
            functools.partial(
                request.labels.settings, job.views.count, job.views.law, teacher.temperature
            ),
            facts_of(teacher.spec, teacher.checkpoint, teacher.precision),
            job.options,
        )


def _views(request: GenerateOptions) -> _Views:
    """The views of the store of ``--views-from``, or those of the options."""
    if request.views_from:
        return _views_of(request, request.views_from)
    if request.views is None:
        raise click.UsageError("--views is missing: say how many views of each image to label.")
    return _Views(request.views, request.views_law.law())


def _views_of(request: GenerateOptions, path: str) -> _Views:
    import labelstore
    from labelstore.errors import MismatchError, UsageError
    from labelstore.views.law import ViewLaw

    store: Store = labelstore.open(path)
    if not isinstance(store.law, ViewLaw):
        raise MismatchError(
            f"{store.path} has no view law that another teacher's views could follow: give "
            "--seed, --scale, --ratio and --flip."
        )
    context = click.get_current_context()
    for name in ("seed", "scale", "ratio", "flip", "augment"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name} and --views-from were both given: leave --{name} out, it comes from "
                "the store."
            )
    count = store.num_views if request.views is None else request.views
    if count > store.num_views:
        raise UsageError(
            f"--views is {count} and {store.path} has {store.num_views} views of each "
            "image: give at most that, or leave --views out."
        )
    return _Views(count, store.law)


def _check_photos(source: ImageSource, path: str) -> None:
    """Refuse to label the views of other photos than those of the store of ``--views-from``."""
    import labelstore
    from labelstore.errors import MismatchError
    from labelstore.producer.probe import other_photo

    key = other_photo(source, labelstore.open(path))
    if key is not None:
        raise MismatchError(
            f"{source.path} has another file {key!r} than {path} was made from: labels of other "
            "photos cannot be averaged with its; give the same files, or leave --views-from out."
        )


def _as_stored(source: ImageSource, outputs: tuple[str, ...]) -> ImageSource:
    """A source in the order of the images of a store that may be gone on with."""
    import labelstore
    from labelstore.errors import LabelStoreError
    from labelstore.images.sources.choose import in_order

    for path in outputs:
        # What is no store, or a broken one, the writer speaks of.
        with contextlib.suppress(LabelStoreError):
            return in_order(source, labelstore.open(path).keys)
    return source


def _ray_engine(request: GenerateOptions, job: _Job) -> RayEngine:
    from labelstore.errors import UsageError
    from labelstore.producer.engines.ray_engine import RayEngine

    if request.dry_run:
        raise UsageError("--engine ray has no --dry-run: leave one of them out.")
    return RayEngine(
        functools.partial(_load, request.photos, request.source, job.teachers),
        actors=request.actors,
        device=request.teachers.device,
        options=job.options,
    )


def _load(
    photos: SourceOptions, source: str, teachers: list[TeacherOptions]
) -> tuple[ImageSource, list[Teacher]]:
    """The source and the teachers, on whatever machine this runs."""
    return photos.open(source), [teacher.load() for teacher in teachers]


def _outputs(request: GenerateOptions, job: _Job, teachers: Sequence[TeacherInfo]) -> list[Output]:
    """The stores to be made."""
    from labelstore.images.ground_truth.targets import resolve_targets
    from labelstore.producer.settings import Output
    from labelstore.teachers.class_names import names_of

    outputs = []
    for options, teacher, path in zip(job.teachers, teachers, request.output, strict=True):
        targets = resolve_targets(
            job.source,
            num_classes=teacher.num_classes,
            class_names=teacher.class_names,
            class_map=job.class_map,
            targets=request.targets,
            called=names_of(teacher),
        )
        settings = request.labels.settings(
            job.views.count, job.views.law, options.temperature, teacher.num_classes
        )
        outputs.append(Output(targets, path, settings))
    return outputs


def _forecast(request: GenerateOptions, job: _Job, teacher: Teacher, planned: Output) -> None:
    from labelstore.operations.forecast import forecast
    from labelstore.teachers.device_memory import BATCH_SIZES

    estimate = forecast(
        job.source,
        teacher,
        planned.path,
        planned.settings,
        batch_size=request.batch_size or BATCH_SIZES[teacher.device],
        workers=job.options.workers,
    )
    if request.json:
        output.emit_json(estimate.to_json())
    else:
        print_forecast(estimate, teacher, job.options.workers)
        for sentence in planned.settings.advice(teacher.num_classes):
            output.note(sentence)
    check_room(estimate, planned.path)


def _labelled(request: GenerateOptions, job: _Job, engine: Engine) -> list[Report]:
    """Label, with progress; of the processes of a launch the first one speaks."""
    from labelstore.producer.generation import generate_together

    outputs = _outputs(request, job, engine.teachers)
    first = job.launch is None or job.launch.rank == 0
    quiet = request.quiet or not first
    if not quiet and not request.log_json:
        announce(job.source, outputs, engine.teachers, job.launch)
    with output.progress(
        total_images=len(job.source),
        views_per_image=job.views.count,
        quiet=quiet,
        as_json=request.log_json,
        device=engine.teachers[0].device,
    ) as progress:
        reports = generate_together(
            job.source, outputs, engine, options=job.options, progress=progress
        )
    if not first and not request.quiet:
        # What the others' teachers did is in no other report.
        for report in reports:
            for note in report.notes:
                output.note(note)
    return reports


def how_launched() -> Launch | None:
    """How this process was launched; what is odd about it is told."""
    import warnings

    from labelstore.launch import launched

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launch = launched()
    for warning in caught:
        output.note(f"Warning: {warning.message}")
    return launch


def targets_anew(
    targets: Targets | None,
    class_map: str | None,
    count: int,
    of_keys: Callable[[Mapping[str, int | str] | None], npt.NDArray[np.int32]],
) -> npt.NDArray[np.int32] | None:
    """The ground truth that ``--targets`` and ``--class-map`` ask for; None where neither is given.

    Args:
        targets, class_map: the options.
        count: of images.
        of_keys: makes it of the class folders, by a class map or None.

    Raises:
        click.UsageError: a class map, and no ground truth.
    """
    if targets is None and class_map is None:
        return None
    import numpy as np

    from labelstore.images.ground_truth.class_map import read_class_map

    if targets == "none":
        if class_map is not None:
            raise click.UsageError(
                "--class-map and --targets none were given: leave out one of the two."
            )
        return np.full(count, -1, dtype=np.int32)
    return of_keys(read_class_map(class_map) if class_map else None)
