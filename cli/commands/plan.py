"""``labelstore plan``: what settings would cost and keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import choices, options, output
from ..teacher_options import TeacherOptions, teacher_options
from ..text import counted, share

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from labelstore.operations.plan import Row, Setting
    from labelstore.producer.manifests import StoreSizes

    Float32Array = npt.NDArray[np.float32]

HELP = f"""Show, for a sample of real labels, what each way to store them costs and keeps.

SOURCE is a folder of photos, with the --teacher that would label them (its full distributions are
the truth), or a finished store (what it holds is the truth). Nothing is written.

\b
  labelstore plan photos --teacher timm:resnet50 --views 500
  labelstore plan teacher.zarr
  labelstore plan teacher.zarr --layout units
  labelstore plan photos --teacher timm:resnet50 --views 200 \\
    --setting 7:ratio32:64

How to read it: B/crop is bytes on disk for each crop; times photos, times views, it is the size of
the store (3.7 of 1.28 million photos x 500 views: 2.4 GB). KL is how far the labels that are read
are from the teacher's, in nats, 0 is exact; TV the share of the probability that lies elsewhere;
top-1 the share of crops whose largest class is kept; confidence the largest error of the stored
largest probability, by which FerKD decides; speed what one thread reads, verifies and decodes.

What to do with it: the rows small, balanced and fast are generate --fidelity NAME. If balanced fits
the disk, take it. The others are generate --top-k K --quantizer QUANTIZER --prior-size LIST, and
--top-p where the row names a mass. The list of an image's likely classes is what makes few classes
enough. A store can be made smaller later (recode), never more exact.

Quantizers: {", ".join(choices.QUANTIZERS)}.
"""


def _settings(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> list[Setting]:
    """``K:QUANTIZER:LIST[:MASS]`` each."""
    from labelstore.format import codecs
    from labelstore.format.settings import StoreSettings
    from labelstore.operations.plan import Setting

    settings = []
    for value in values:
        parts = value.split(":")
        try:
            k, name, size = int(parts[0]), parts[1], int(parts[2])
            top_p = float(parts[3]) if len(parts) == 4 else None
            if len(parts) > 4 or k < 1 or size < 0 or not 0 < (top_p or 1) <= 1:
                raise ValueError(value)
        except (IndexError, ValueError):
            raise click.BadParameter(
                f"{value!r} is not K:QUANTIZER:LIST[:MASS]: write for example 7:ratio32:64, that "
                "is --top-k 7, --quantizer ratio32, --prior-size 64."
            ) from None
        codecs.get(name)
        settings.append(Setting("asked for", StoreSettings(k, name, size, top_p)))
    return settings


@dataclass(frozen=True, kw_only=True)
class PlanOptions(options.ResultOptions):
    """The options of ``labelstore plan``."""

    source: str
    views: int | None
    law: options.LawOptions
    settings: list[Setting]
    sample_images: int
    sample_views: int
    layout: choices.Layout | None
    teacher: TeacherOptions
    photo_options: options.SourceOptions


@click.command(help=HELP, short_help="Show what settings would cost and keep.")
@click.argument("source", type=click.Path())
@teacher_options(required=False)
@click.option(
    "--views",
    type=click.IntRange(min=1),
    help="Views an image that the store will have: they share the bytes of its list. Needed with "
    "--teacher; by default those of the store.",
)
@options.law_options
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="K:QUANTIZER:LIST[:MASS]",
    callback=_settings,
    help="Also try this one, as 7:ratio32:64 or 10:ratio32:64:0.99: --top-k, --quantizer, "
    "--prior-size, --top-p of generate. May be given several times.",
)
@click.option(
    "--sample-images",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images that are measured, spread evenly.",
)
@click.option(
    "--sample-views",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Views of each that are measured.",
)
@options.layout_option("as they lie in a store, else in chunks")
@options.source_options
@options.json_option
@options.quiet_option
@options.collected(
    PlanOptions, law=options.LawOptions, teacher=TeacherOptions, photo_options=options.SourceOptions
)
def command(request: PlanOptions) -> None:
    """Measure each setting."""
    from labelstore.operations.plan import SETTINGS, advice, measure

    truth, num_views, most, sizes = _sample(request)
    settings = [
        setting
        for setting in (*SETTINGS, *request.settings)
        if most is None or (setting.store.k or 0) <= most
    ]
    with output.progress(len(settings), 1, request.silent, brief=True) as progress:
        rows = []
        for setting in settings:
            rows.append(measure(truth, setting, num_views, sizes=sizes))
            progress.update(1, 1)
    sample = {"images": truth.shape[0], "views": truth.shape[1], "planned_views": num_views}
    if request.json:
        advised = {"advice": advice(rows)}
        output.emit_json({"sample": sample, "rows": [row.to_json() for row in rows], **advised})
    else:
        _show(rows, sample, sizes)
        for sentence in advice(rows):
            output.note(sentence)


def _sample(request: PlanOptions) -> tuple[Float32Array, int, int | None, StoreSizes]:
    """The true distributions, the planned number of views, the largest k that makes sense, and how
    the planned store is divided."""
    import labelstore
    from labelstore.errors import UsageError
    from labelstore.operations.plan import sample_of_store, sample_of_teacher
    from labelstore.producer.manifests import blocks_on, sizes_of
    from labelstore.producer.settings import LabelSettings
    from labelstore.storage.location import is_remote

    images, views = request.sample_images, request.sample_views
    if not request.teacher.spec:
        if not is_remote(request.source) and not any(
            (Path(request.source) / name).is_file() for name in STORE_FILES
        ):
            raise UsageError(
                f"{request.source} is no store: give a store, or --teacher for a folder of photos."
            )
        store = labelstore.open(request.source)
        truth = sample_of_store(store, images=images, views=views)
        settings = LabelSettings(request.views or store.num_views, layout=request.layout)
        manifest = store.manifest
        # Groups of Parquet are not those of the store that would be made of it.
        stored = manifest if manifest.encoding == "codes" else None
        sizes = sizes_of(PLANNED, settings, store.num_images, manifest.block_images, stored)
        return truth, settings.num_views, store.k, sizes

    if request.views is None:
        raise UsageError("--views is missing: say how many views the store will have.")
    source = request.photo_options.open(request.source)
    teacher = request.teacher.load()
    with output.progress(min(images, len(source)), views, request.silent) as progress:
        sample = sample_of_teacher(
            source,
            teacher,
            request.law.law(),
            temperature=request.teacher.temperature,
            images=images,
            views=views,
            batch_size=16,
            tell=progress.update,
        )
    settings = LabelSettings(request.views, layout=request.layout)
    block_images = blocks_on(teacher.device, len(source), request.views)
    sizes = sizes_of(PLANNED, settings, len(source), block_images)
    return sample.labels, request.views, None, sizes


STORE_FILES = ("zarr.json", "manifest.json")

PLANNED = "planned.zarr"
"""What the store might be called: in Zarr, as its sample is."""


def _show(rows: list[Row], sample: dict[str, int], sizes: StoreSizes) -> None:
    lines = []
    for row in rows:
        setting, distances = row.setting.store, row.distances
        lines.append(
            (
                row.setting.name,
                str(setting.k) + (f", mass {setting.top_p}" if setting.top_p else ""),
                setting.quantizer or "",
                str(setting.prior_size) if setting.prior_size else "none",
                f"{row.bytes_per_crop:.2f}",
                f"{distances.kl_nats:.4f}",
                f"{distances.total_variation:.4f}",
                share(distances.top1_kept),
                f"{row.confidence_error:.1g}",
                f"{row.crops_per_second / 1e6:.2f} M/s",
            )
        )
    columns = ("", "k", "quantizer", "list", "B/crop", "KL", "TV", "top-1", "confidence", "speed")
    # Only the first setting of a fidelity bears its name.
    shown = output.table(columns, lines, numeric=range(4, len(columns)), named_by=(0, 1))
    output.console().print(shown)
    output.note(
        f"measured on {counted(sample['images'], 'image')} x "
        f"{counted(sample['views'], 'view')}; bytes for "
        f"{counted(sample['planned_views'], 'view')} an image, in {_layout(sizes)}"
    )


def _layout(sizes: StoreSizes) -> str:
    """In which pieces labels lie."""
    if sizes.unit_images is None:
        images = min(sizes.block_images, sizes.num_images)
        return f"chunks of {counted(images, 'image')} x {counted(sizes.group_views, 'view')}"
    return (
        f"units of {counted(sizes.unit_images, 'image')} x {counted(sizes.group_views, 'view')}, "
        f"blocks of {counted(sizes.block_images, 'image')}"
    )
