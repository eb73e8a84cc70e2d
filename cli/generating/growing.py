"""What ``labelstore generate --grow`` asks of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .. import output
from ..reports.growth import announce_growth, growth_document, print_growth_forecast

if TYPE_CHECKING:
    from labelstore.format.manifest import Manifest
    from labelstore.launch import Launch
    from labelstore.producer.generation import Report
    from labelstore.producer.growth.growth import Growth
    from labelstore.producer.settings import LabelSettings, RunOptions
    from labelstore.teachers.teacher import Teacher

    from .options import GenerateOptions

__all__ = ["grow"]

_NEVER = ("fidelity", "views_from")
"""Options that name several settings at once: a grown store has the old one's."""


def grow(request: GenerateOptions, launch: Launch | None) -> list[Report]:
    """Do what was asked for; a report of the new store, none of a dry run."""
    import labelstore
    from labelstore.errors import UsageError
    from labelstore.images.ground_truth.class_map import read_class_map
    from labelstore.images.sources.choose import check_outside
    from labelstore.launch import take_gpu
    from labelstore.producer.growth.growth import Growth
    from labelstore.producer.growth.known_photos import SAMPLED

    teachers = request.teachers.each()
    request.teachers.check_count("output", request.output)
    if len(teachers) > 1:
        raise UsageError(
            f"--grow was given for {len(teachers)} teachers, whose stores have labels of their own "
            "to take over: let them grow one by one, in a run for each."
        )
    if request.engine == "ray":
        raise UsageError(
            "--grow and --engine ray were both given, and Ray's actors label blocks from the "
            "beginning: leave --engine out; processes of torchrun or srun may share the work."
        )
    store = labelstore.open(str(request.grow))
    options = request.run_options(launch).as_made(store.manifest)
    _check_said(request, options, store.manifest, str(request.grow))
    class_map = read_class_map(request.class_map) if request.class_map else None
    source, (path,) = request.photos.open(request.source), request.output
    check_outside(source, path)
    first = launch is None or launch.rank == 0
    quiet = request.quiet or not first
    # What is labelled anew is counted: then all have to be compared.
    sampled = request.dry_run and not request.relabel_changed
    total = min(store.num_images, SAMPLED) if sampled else store.num_images
    with output.progress(total, None, quiet=quiet or request.json, brief=True) as progress:
        growth = Growth.of(
            store,
            source,
            path,
            request.views,
            relabel_changed=request.relabel_changed,
            sampled=sampled,
            workers=options.workers,
            progress=progress,
        )
    if not quiet and not (request.dry_run and request.json):
        announce_growth(growth.plan)
        if sampled and growth.compared == SAMPLED:
            output.note(
                f"{SAMPLED} photos were compared with what was labelled; a run compares all"
            )
    if launch is not None and request.teachers.device != "cpu":
        take_gpu(launch)
    network = teachers[0].load()
    if request.dry_run:
        if first:
            _forecast(request, growth, network, options)
        return []
    return _grown(request, growth, network, options, class_map, quiet)


def _grown(
    request: GenerateOptions,
    growth: Growth,
    network: Teacher,
    options: RunOptions,
    class_map: Any,
    quiet: bool,
) -> list[Report]:
    """Label what is new, with progress."""
    from labelstore.images.ground_truth.targets import resolve_targets
    from labelstore.producer.engines.local import LocalEngine
    from labelstore.producer.generation import generate_together
    from labelstore.producer.settings import Output
    from labelstore.teachers.class_names import names_of

    plan = growth.plan
    targets = resolve_targets(
        growth.photos,
        num_classes=network.num_classes,
        class_names=network.class_names,
        class_map=class_map,
        targets=request.targets,
        called=names_of(network.info),
    )
    planned = Output(growth.targets(targets), request.output[0], _settings(growth), growth=growth)
    with (
        LocalEngine([network], options) as engine,
        output.progress(
            total_images=len(plan.keys),
            views_per_image=plan.views / len(plan.keys),
            quiet=quiet,
            as_json=request.log_json,
            device=network.device,
        ) as progress,
    ):
        return generate_together(
            growth.source, [planned], engine, options=options, progress=progress
        )


def _settings(growth: Growth) -> LabelSettings:
    from labelstore.producer.settings import LabelSettings

    return LabelSettings.of_manifest(growth.store.manifest, growth.plan.num_views)


def _check_said(
    request: GenerateOptions, options: RunOptions, manifest: Manifest, path: str
) -> None:
    """Refuse settings that are said and are others than those of the store that grows."""
    from labelstore.errors import UsageError
    from labelstore.views.law import ViewLaw

    context = click.get_current_context()
    law = manifest.law
    stored: dict[str, Any] = {
        "top_k": manifest.k,
        "quantizer": manifest.quantizer,
        "prior_size": manifest.prior_size,
        "top_p": manifest.top_p,
        "label_type": manifest.label_type,
        "block_images": manifest.block_images,
        "group_views": manifest.group_views,
        "layout": manifest.label_layout,
        "temperature": (manifest.temperature,),
        "resize": options.resize,
        "compiled": options.compiled,
    }
    if isinstance(law, ViewLaw):
        stored |= {"seed": law.seed, "scale": law.scale, "ratio": law.ratio, "flip": law.flip}
        stored["augment"] = tuple(map(str, law.stages))
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            continue
        flag = max(parameter.opts, key=len)
        if name in _NEVER:
            raise UsageError(
                f"{flag} and --grow were both given: leave {flag} out, a grown store has the "
                f"settings of {path}."
            )
        value = context.params[name]
        if name in stored and value != stored[name]:
            raise UsageError(
                f"{flag} is {_shown(value)}, {path} was made with {_shown(stored[name])}, and a "
                "grown store has the same: leave it out."
            )


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _forecast(
    request: GenerateOptions, growth: Growth, network: Teacher, options: RunOptions
) -> None:
    """Tell what growing would take; a sample of the photos is labelled for it."""
    import numpy as np

    from labelstore.operations.forecast import forecast
    from labelstore.producer.settings import Output

    # Bytes are reckoned by the old store's: these labels of all photos are for the pace.
    unknown = np.full(len(growth.photos), -1, dtype=np.int32)
    planned = Output(unknown, request.output[0], _settings(growth))
    estimate = forecast(growth.photos, network, planned, options)
    document = growth_document(growth, estimate)
    if request.json:
        output.emit_json(document)
    else:
        print_growth_forecast(document)
