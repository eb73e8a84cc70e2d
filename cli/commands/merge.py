"""``labelstore merge``: the mean of several teachers' stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.output import counted

if TYPE_CHECKING:
    from labelstore.operations.merge import MergeReport

HELP = """Write the mean of several teachers' labels of the same views to one store.

\b
  labelstore merge a.zarr b.zarr -o ensemble.zarr
  labelstore merge a.zarr b.zarr c.zarr --weights 2,1,1 --top-k 5 -o ensemble.zarr
  labelstore merge a.zarr b.zarr --calibrate -o ferkd.zarr   # FerKD's rule, teacher by teacher

The stores must hold the same views: the same --seed, --scale, --ratio and --flip when they were
generated. Input sizes, --top-k and quantizers may differ. labelstore.ensemble gives the same labels
at read time, with every teacher's own; merging pays where several students are trained, since one
store is read instead of several. What cutting and quantizing the mean lost is measured over a
sample and told. An interrupted merge goes on where it stopped when the same command is given again.
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
    type=click.Choice(["strict", "intersection"]),
    default="strict",
    show_default=True,
    help="Whether all stores must have the same images, or the shared ones are taken.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Default: the most of the stores.")
@click.option(
    "--prior-size",
    type=click.IntRange(min=0),
    help="Classes in each image's list of likely classes. Default: the most of the stores.",
)
@options.quantizer_option
@click.option(
    "--top-p", type=float, metavar="MASS", help="Keep only as many classes as this mass needs."
)
@click.option(
    "--tail",
    type=click.Choice(["image", "uniform", "none"]),
    help="How residual masses are spread before they are averaged. Default: image where a store "
    "has lists, else uniform.",
)
@click.option("--block-images", type=click.IntRange(min=1), help="Images of a block.")
@click.option("--group-views", type=click.IntRange(min=1), help="Views of a group.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Apply FerKD's rule: views in (--low, --middle] get the smoothed ground truth. Discarded "
    "views keep the plain mean, for the reader to discard.",
)
@options.ferkd_options
@click.option(
    "--smoothing",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="FerKD: what the ground truth leaves the other classes.",
)
@click.option(
    "--ensemble",
    type=click.Choice(["all", "any", "mean"]),
    default="all",
    show_default=True,
    help="FerKD: calibrate each teacher's label and discard what all, or any, of them discard; or "
    "calibrate the mean.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
def command(**given: Any) -> None:
    """Merge stores."""
    import labelstore
    from labelstore.operations.merge import merge

    rule = None
    if given["calibrate"]:
        rule = options.ferkd_from(given, given["smoothing"], given["ensemble"])
    stores = [labelstore.open(path) for path in given["stores"]]
    quiet = given["quiet"] or given["json"]
    first = stores[0]
    with output.progress(first.num_images, first.num_views, quiet=quiet, brief=True) as progress:
        report = merge(
            stores,
            given["output"],
            weights=given["weights"],
            ferkd=rule,
            tail=given["tail"],
            images=given["images"],
            k=given["top_k"],
            quantizer=given["quantizer"],
            prior_size=given["prior_size"],
            top_p=given["top_p"],
            block_images=given["block_images"],
            group_views=given["group_views"],
            overwrite=given["overwrite"],
            tell=progress.update,
        )
    if given["json"]:
        output.emit_json(report.to_json())
    elif not given["quiet"]:
        _tell(report)


def _tell(report: MergeReport) -> None:
    crops = report.num_images * report.num_views
    output.note(
        f"{report.path}: {counted(report.num_images, 'image')} x "
        f"{counted(report.num_views, 'view')} of "
        f"{counted(len(report.stores), 'teacher')}, "
        f"{report.bytes:,} bytes ({report.bytes / crops:.2f} a crop)"
    )
    found = report.distances
    if found is not None:
        output.note(
            f"against the unquantized mean, {counted(found.labels, 'label')}: "
            f"KL {found.kl_nats:.4f} nats, "
            f"total variation {found.total_variation:.4f}, largest class the same in "
            f"{found.top1_kept:.2%}"
        )
    if report.actions is not None:
        shares = ", ".join(f"{share:.2%} {name}" for name, share in report.actions.items())
        output.note(f"FerKD: {shares}")
    if report.same_decision is not None:
        output.note(
            f"the same rule on the new store discards the same views in {report.same_decision:.2%}"
        )
