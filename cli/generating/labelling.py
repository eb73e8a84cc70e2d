"""``labelstore generate``: labels of photos, by one teacher or several."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from .. import output
from ..reports.forecast import check_room, print_forecast
from ..reports.generate import announce
from .fitted_temperature import fitted, from_stores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from labelstore.images.sources.choose import ImageSource
    from labelstore.launch import Launch
    from labelstore.producer.engines.protocol import Engine
    from labelstore.producer.engines.ray_engine import RayEngine
    from labelstore.producer.generation import Report
    from labelstore.producer.settings import Output, RunOptions
    from labelstore.store.store import Store
    from labelstore.teachers.info import TeacherInfo
    from labelstore.teachers.teacher import Teacher
    from labelstore.views.law import ViewLaw

    from ..options import SourceOptions
    from ..teacher_options import TeacherOptions
    from .options import GenerateOptions

__all__ = ["label"]


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
    keys: tuple[str, ...] | None
    """Those of the source, where they are in another order than those of what it was opened from.
    """


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
    source = opened = request.photos.open(request.source)
    for path in request.output:
        check_outside(source, path)
    if not request.overwrite:
        source = _as_stored(source, request.output)
    if request.views_from:
        _check_photos(source, request.views_from)
        source = _partners_first(source, request.views_from)
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
    keys = source.keys if source is not opened else None
    job = _Job(source, views, teachers, pending, class_map, options, launch, keys)
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
                request.labels.label_settings, job.views.count, job.views.law, teacher.temperature
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


def _partners_first(source: ImageSource, path: str) -> ImageSource:
    """A source with those photos first that the views of a store are mixed with, as there: of new
    photos, or where it has grown, others may stand before them."""
    import labelstore
    from labelstore.images.sources.ordered import with_first
    from labelstore.store.mixed_views import mixing_of

    store: Store = labelstore.open(path)
    mixing = mixing_of(store.law)
    return source if mixing is None else with_first(source, store.keys[: mixing.partners])


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
        functools.partial(_load, request.photos, request.source, job.teachers, job.keys),
        actors=request.actors,
        device=request.teachers.device,
        options=job.options,
    )


def _load(
    photos: SourceOptions,
    path: str,
    teachers: list[TeacherOptions],
    keys: tuple[str, ...] | None,
) -> tuple[ImageSource, list[Teacher]]:
    """The source, in the order of these keys, and the teachers, on whatever machine this runs."""
    from labelstore.images.sources.choose import in_order
    from labelstore.images.sources.ordered import with_first

    source = photos.open(path)
    if keys is not None:
        source = with_first(in_order(source, keys), keys)
    return source, [teacher.load() for teacher in teachers]


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
        settings = request.labels.label_settings(
            job.views.count, job.views.law, options.temperature, teacher.num_classes
        )
        outputs.append(Output(targets, path, settings))
    return outputs


def _forecast(request: GenerateOptions, job: _Job, teacher: Teacher, planned: Output) -> None:
    from labelstore.operations.forecast import forecast

    estimate = forecast(job.source, teacher, planned, job.options)
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
