"""``labelstore recode``: write a finished store anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import choices, options, output
from ..text import counted, difference

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from labelstore.operations.recode import RecodeReport
    from labelstore.store.store import Store

HELP = """Write a finished store anew: as Parquet or Zarr, smaller, or with another prior list.

\b
  # for SQL, every label the same, and back
  labelstore recode teacher.zarr -o teacher.parquet
  labelstore recode teacher.parquet -o again.zarr
  # fewer classes a view
  labelstore recode teacher.zarr --top-k 1 -o small.zarr
  # for reading at random from a store that is larger than memory
  labelstore recode teacher.zarr --layout units -o random.zarr
  # a list for a store without one
  labelstore recode converted.zarr --prior-size 64 -o new.zarr

\b
  # other ground truth, the same labels
  labelstore recode teacher.zarr --class-map classes.csv -o mended.zarr

What is not given stays as it is. With another --top-k or --prior-size each image's list of likely
classes is made anew from the stored labels. How far the new labels are from the old ones is
measured over a sample and told. labelstore plan STORE shows what the settings would give.
"""


@dataclass(frozen=True, kw_only=True)
class RecodeOptions(options.ResultOptions):
    """The options of ``labelstore recode``."""

    store: str
    output: str
    stored: options.StoreSettingsOptions
    layout: choices.Layout | None
    class_map: str | None
    targets: choices.Targets | None
    overwrite: bool


@click.command(help=HELP, short_help="Write a store anew: backend, size, prior list.")
@options.store_argument
@options.output_option
@click.option("--top-k", type=click.IntRange(min=1), help="Classes of each label, at most.")
@click.option(
    "--prior-size",
    type=click.IntRange(min=0),
    help="Classes in each image's list of likely classes; 0 drops the list.",
)
@options.quantizer_option
@options.top_p_option
@options.block_images_option
@options.group_views_option
@options.layout_option("as they lie in the store that is read, in Parquet as in chunks")
@click.option(
    "--class-map",
    metavar="FILE",
    help="Ground truth anew: which class each class folder is, as for generate.",
)
@click.option(
    "--targets",
    type=click.Choice(choices.TARGETS),
    help="Ground truth anew: from the class folders' names, or none. Default: as it is.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(RecodeOptions, stored=options.StoreSettingsOptions)
def command(request: RecodeOptions) -> None:
    """Recode a store."""
    import labelstore
    from labelstore.operations.recode import recode

    store = labelstore.open(request.store)
    targets = _ground_truth(store, request)
    with output.progress(
        store.num_images, store.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = recode(
            store,
            request.output,
            **request.stored.settings().chosen(),
            targets=targets,
            layout=request.layout,
            overwrite=request.overwrite,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        _tell(report)


def _ground_truth(store: Store, request: RecodeOptions) -> npt.NDArray[np.int32] | None:
    """The ground truth that is asked for; None to leave it."""
    from ..ground_truth import targets_anew

    def of_folders(class_map: Mapping[str, int | str] | None) -> npt.NDArray[np.int32]:
        from labelstore.images.ground_truth.targets import targets_of_keys
        from labelstore.teachers.class_names import names_of

        return targets_of_keys(
            store.path,
            store.keys,
            num_classes=store.num_classes,
            class_names=store.manifest.class_names,
            class_map=class_map,
            called=names_of(store.manifest),
        )

    return targets_anew(request.targets, request.class_map, store.num_images, of_folders)


def _tell(report: RecodeReport) -> None:
    crops = report.num_images * report.num_views
    output.note(
        f"{report.path}: {report.bytes_before:,} bytes -> {report.bytes_after:,} "
        f"({report.bytes_after / crops:.2f} a crop)"
    )
    if report.targets_changed:
        output.note(f"{counted(report.targets_changed, 'image')} with another ground truth")
    if report.distances is None:
        output.note("every label is the same")
        return
    distances = report.distances
    output.note(f"changed: {'; '.join(report.changed)}")
    output.note(
        f"new labels against the old, {distances.labels:,} of them: {difference(distances)}"
    )
