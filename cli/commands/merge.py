"""``labelstore merge``: the mean of several teachers' stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from .. import choices, options, output
from ..ferkd_options import FerKDOptions, ferkd_options
from ..text import counted, difference, extent, share

if TYPE_CHECKING:
    from labelstore.labels.actions import Combine
    from labelstore.labels.ferkd import Calibrate
    from labelstore.labels.top_k import Tail
    from labelstore.operations.merge import MergeReport
    from labelstore.store.ensembles import Images

HELP = """Write the mean of several teachers' labels of the same views to one store.

\b
  labelstore merge a.zarr b.zarr -o ensemble.zarr
  labelstore merge a.zarr b.zarr c.zarr --weights 2,1,1 \\
    --top-k 5 -o ensemble.zarr
  # FerKD's rule, teacher by teacher
  labelstore merge a.zarr b.zarr --calibrate -o ferkd.zarr
  # with thresholds that fit each teacher
  labelstore merge a.zarr b.zarr --calibrate \\
    --thresholds fit -o fitted.zarr

With --parts the stores are not averaged: they hold different images (or blocks) that one teacher
labelled apart, and become one store, every label as it is.

\b
  labelstore merge first_half.zarr second_half.zarr --parts -o teacher.zarr

To be averaged, the stores must hold the same views: the same --seed, --scale, --ratio and --flip
when they were generated. Input sizes, --top-k and quantizers may differ. labelstore.ensemble gives
the same labels at read time, with every teacher's own; merging pays where several students are
trained, since one store is read instead of several. What cutting and quantizing the mean lost is
measured over a sample and told. An interrupted merge goes on where it stopped when the same command
is given again.
"""


def _weights(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> list[float] | None:
    if value is None:
        return None
    try:
        return [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no list of numbers: give one for each store, as 2,1,1."
        ) from None


@dataclass(frozen=True, kw_only=True)
class MergeOptions(options.ResultOptions):
    """The options of ``labelstore merge``."""

    stores: tuple[str, ...]
    output: str
    weights: list[float] | None
    images: Images
    parts: bool
    allow_version_drift: bool
    any_order: bool
    tail: Tail | None
    calibrate: bool
    ferkd: FerKDOptions
    smoothing: float
    calibrate_by: Calibrate
    alpha: float
    ensemble: Combine
    stored: options.StoreSettingsOptions
    layout: choices.Layout | None
    workers: int | None
    overwrite: bool


@click.command(help=HELP, short_help="Write the mean of several teachers' stores.")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@options.output_option
@click.option(
    "--weights",
    callback=_weights,
    metavar="W,W,...",
    help="A non-negative number for each store, as 2,1,1. Default: equal.",
)
@click.option(
    "--images",
    type=click.Choice(choices.IMAGES),
    default=choices.IMAGES[0],
    show_default=True,
    help="Whether all stores must have the same images, or the shared ones are taken.",
)
@click.option(
    "--parts",
    is_flag=True,
    help="Join stores of different images, or unfinished ones with different blocks, of one "
    "teacher. Of the other options only --overwrite, --allow-version-drift and --any-order go with "
    "it.",
)
@click.option(
    "--allow-version-drift",
    is_flag=True,
    help="With --parts: join parts whose pixels were made by other library versions.",
)
@click.option(
    "--any-order",
    is_flag=True,
    help="With --parts: images of whole blocks first, which is much faster where a part's last "
    "block is not full.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Default: the most of the stores.")
@click.option(
    "--prior-size",
    type=click.IntRange(min=0),
    help="Classes in each image's list of likely classes. Default: the most of the stores; none of "
    "labels of other types than top-k with a class for each store.",
)
@options.quantizer_option
@options.top_p_option
@click.option(
    "--tail",
    type=click.Choice(choices.TAILS),
    help="How residual masses are spread before they are averaged. Default: image where a store "
    "has lists, else uniform.",
)
@options.block_images_option
@options.group_views_option
@options.layout_option("as they lie in the first store, where that is in Parquet in chunks")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Apply FerKD's rule: views in (--low, --middle] get the smoothed ground truth. Discarded "
    "views keep the plain mean, for the reader to discard.",
)
@ferkd_options
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1),
    default=choices.SMOOTHING,
    show_default=True,
    help="FerKD: what the ground truth leaves the other classes.",
)
@click.option(
    "--calibrate-by",
    type=click.Choice(choices.CALIBRATES),
    default=choices.CALIBRATES[0],
    show_default=True,
    help="FerKD: replace an uncertain label by the smoothed ground truth, or scale its other "
    "classes down until the ground truth leads (LoCa).",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=choices.ALPHA,
    show_default=True,
    help="LoCa: how far they are scaled down; at 1 the largest has as much as the ground truth.",
)
@click.option(
    "--ensemble",
    type=click.Choice(choices.COMBINES),
    default=choices.COMBINES[0],
    show_default=True,
    help="FerKD: calibrate each teacher's label and discard what all, or any, of them discard; or "
    "calibrate the mean.",
)
@options.block_workers_option
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(MergeOptions, ferkd=FerKDOptions, stored=options.StoreSettingsOptions)
def command(request: MergeOptions) -> None:
    """Merge stores."""
    request.ferkd.check()
    if request.parts:
        _join(request)
        return
    for name in ("allow_version_drift", "any_order"):
        if getattr(request, name):
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --parts: leave it out.")
    import labelstore
    from labelstore.operations.merge import merge

    stores = [labelstore.open(path) for path in request.stores]
    rule = None
    if request.calibrate:
        rule = request.ferkd.rules(
            labelstore.ensemble(stores, images=request.images) if request.ferkd.fits else stores[0],
            quiet=request.quiet,
            smoothing=request.smoothing,
            calibrate=request.calibrate_by,
            alpha=request.alpha,
            ensemble=request.ensemble,
        )
    first = stores[0]
    with output.progress(
        first.num_images, first.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = merge(
            stores,
            request.output,
            weights=request.weights,
            ferkd=rule,
            tail=request.tail,
            images=request.images,
            **request.stored.settings().chosen(),
            layout=request.layout,
            overwrite=request.overwrite,
            workers=request.workers,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        _tell(report)


def _join(request: MergeOptions) -> None:
    """Join parts."""
    set_apart = {
        *("stores", "output", "parts", "allow_version_drift", "any_order"),
        *("overwrite", "json", "quiet"),
    }
    context = click.get_current_context()
    flags = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in set_apart
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if flags:
        raise click.UsageError(
            f"{' and '.join(flags)} and --parts were given, and parts are joined as they are: "
            "leave one or the other out, or recode what is joined."
        )
    import labelstore
    from labelstore.operations.lifecycle.parts import join_parts

    stores = [labelstore.open(path) for path in request.stores]
    images = sum(store.num_images for store in stores)
    views = stores[0].num_views
    with output.progress(images, views, quiet=request.silent, brief=True) as progress:
        report = join_parts(
            stores,
            request.output,
            allow_version_drift=request.allow_version_drift,
            any_order=request.any_order,
            overwrite=request.overwrite,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        output.note(
            f"{extent(report)} of {counted(len(report.stores), 'part')}, "
            f"{report.bytes:,} bytes in {report.seconds:,.1f} s"
        )
    if report.blocks_missing:
        output.note(
            f"{counted(report.blocks_missing, 'block')} stood in no part: finish the store with "
            "the command that made the parts."
        )
        context.exit(1)


def _tell(report: MergeReport) -> None:
    crops = report.num_images * report.num_views
    output.note(
        f"{extent(report)} of {counted(len(report.stores), 'teacher')}, "
        f"{report.bytes:,} bytes ({report.bytes / crops:.2f} a crop)"
    )
    distances = report.distances
    if distances is not None:
        output.note(
            f"against the unquantized mean, {counted(distances.labels, 'label')}: "
            f"{difference(distances)}"
        )
    if report.actions is not None:
        shares = ", ".join(f"{share(part)} {name}" for name, part in report.actions.items())
        output.note(f"FerKD: {shares}")
    if report.same_decision is not None:
        output.note(
            f"the same rule on the new store discards the same views in "
            f"{share(report.same_decision)}"
        )
