"""``labelstore export``: labels as files of other projects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ... import choices, options, output
from ...ferkd_options import FerKDOptions, ferkd_options
from ...text import counted, extent, size
from .subset import PartOptions, part_options

if TYPE_CHECKING:
    from labelstore.operations.lifecycle.export import ExportReport
    from labelstore.peers.exports.part import ExportFormat
    from labelstore.store.store import Store

HELP = """Write the labels of a finished store as files that training code of other projects reads.

\b
  # FKD's loader: softlabel_path is the new folder
  labelstore export teacher.zarr --to fkd -o fkd --photos imagenet/train
  # tar shards, a sample a photo; with --photos the photos, too
  labelstore export teacher.zarr --to webdataset -o shards --photos photos
  # arrays for numpy.load
  labelstore export teacher.zarr --to npz -o labels.npz --images 'n01440764/*'
  # Parquet with a card, for datasets.load_dataset and the Hugging Face hub
  labelstore export teacher.zarr --to hf -o data-set

Probabilities and boxes are the store's, to the last bit and pixel. FKD's files hold 5 or 10
classes: where the store has fewer, those follow that its recovery thinks likeliest. Photos that
EXIF turns get no file for FKD, whose loader would cut other crops; --photos finds them.

What is written gets its name when it is whole; a run that is interrupted begins anew.
"""


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """What is made of labels; what belongs to one format is None where it was not given."""

    to: choices.ExportName
    photos: str | None
    label_type: str | None
    folder: str | None
    arrays: str | None
    shard_mb: int | None
    license_id: str | None

    def check(self) -> None:
        """Refuse options of other formats, before a store is read."""
        for name, flag, owners in (
            ("photos", "--photos", ("fkd", "webdataset")),
            ("label_type", "--label-type", ("fkd",)),
            ("folder", "--folder", ("fkd",)),
            ("arrays", "--arrays", ("fkd",)),
            ("shard_mb", "--shard-mb", ("webdataset", "hf")),
            ("license_id", "--license", ("hf",)),
        ):
            if getattr(self, name) is not None and self.to not in owners:
                raise click.UsageError(
                    f"{flag} was given and the format is {self.to}: it is for {', '.join(owners)} "
                    "alone."
                )

    def format(self, store: Store, source: options.SourceOptions) -> ExportFormat:
        """The format of a store's export."""
        settings: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("label_type", "folder", "arrays")
            if getattr(self, name) is not None
        }
        if self.photos is not None:
            settings["photos"] = source.open(self.photos)
        if self.shard_mb is not None:
            settings["shard_bytes"] = self.shard_mb * 10**6
        if self.to == "fkd":
            from labelstore.peers.exports.fkd import Fkd

            return Fkd(**settings)
        if self.to == "webdataset":
            from labelstore.peers.exports.webdataset import WebDataset

            return WebDataset(**settings)
        if self.to == "npz":
            from labelstore.peers.exports.npz import Npz

            return Npz()
        from labelstore.peers.exports.hugging_face import HuggingFace
        from labelstore.teachers.class_names import human_names

        return HuggingFace(human_names(store.manifest), **settings)


_FORMAT = (
    click.option(
        "--to",
        required=True,
        type=click.Choice(choices.EXPORTS),
        help="Whose files: FKD's, WebDataset's, NumPy's, or Hugging Face's.",
    ),
    click.option(
        "--photos",
        metavar="PHOTOS",
        type=click.Path(),
        help="fkd: the photos, for sizes that the store lacks, and to find those that EXIF turns. "
        "webdataset: photos that go into the shards.",
    ),
    click.option(
        "--label-type",
        type=click.Choice(choices.FKD_LABELS),
        help="fkd: what its files hold. Default: ten classes where the store has as many, else "
        "five.",
    ),
    click.option(
        "--folder",
        metavar="NAME",
        help="fkd: the name of the folder of photos that it trains from, which is a part of where "
        f"it looks for labels. [default: {choices.FKD_FOLDER}]",
    ),
    click.option(
        "--arrays",
        type=click.Choice(choices.FKD_ARRAYS),
        help="fkd: tensors, which its loader opens with any torch; or NumPy's arrays as its own "
        f"script saves them, up to torch 2.5. [default: {choices.FKD_ARRAYS[0]}]",
    ),
    click.option(
        "--shard-mb",
        type=click.IntRange(min=1),
        metavar="MB",
        help=f"webdataset, hf: megabytes of a shard, about. [default: {choices.SHARD_MB}]",
    ),
    click.option(
        "--license",
        "license_id",
        metavar="ID",
        help="hf: licence of the labels, as the hub calls it. Default: a field of the card to "
        "fill.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(options.ResultOptions):
    """The options of ``labelstore export``."""

    store: str
    output: str
    format: FormatOptions
    source: options.SourceOptions
    part: PartOptions
    ferkd: FerKDOptions
    overwrite: bool


@click.command(help=HELP, short_help="Write labels as files of other projects.")
@options.store_argument
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=click.Path(),
    help="The new folder; of npz the new file.",
)
@options.added(_FORMAT)
@options.source_options
@part_options
@ferkd_options
@click.option("--overwrite", is_flag=True, help="Replace an export of the format that is there.")
@options.json_option
@options.quiet_option
@options.collected(
    ExportOptions,
    format=FormatOptions,
    source=options.SourceOptions,
    part=PartOptions,
    ferkd=FerKDOptions,
)
def command(request: ExportOptions) -> None:
    """Export a store."""
    request.format.check()
    request.part.check()
    request.ferkd.check()
    import labelstore
    from labelstore.operations.lifecycle.export import export
    from labelstore.operations.lifecycle.subset import Part, rows_of

    store = labelstore.open(request.store)
    store.require_complete()
    chosen = request.part.arguments(store, request.ferkd, quiet=request.silent)
    views = chosen.pop("views")
    part = Part.of(store, rows_of(store, **chosen), views)
    to = request.format.format(store, request.source)
    with output.progress(
        len(part.rows), part.selection.num_views, quiet=request.silent, brief=True
    ) as progress:
        report = export(
            part,
            request.output,
            to,
            license_id=request.format.license_id,
            overwrite=request.overwrite,
            tell=progress.update,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        _tell(report)


def _tell(report: ExportReport) -> None:
    output.note(
        f"{extent(report)} for {report.format}, {counted(report.files, 'file')}, "
        f"{size(report.bytes)} in {report.seconds:,.1f} s"
    )
    for reason, count in report.left_out.items():
        output.note(f"{counted(count, 'image')} left out: {reason}")
    if report.removed_files:
        output.note(
            f"removed {counted(report.removed_files, 'file')} that a killed export had left"
        )
