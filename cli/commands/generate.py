"""``labelstore generate``: run a teacher over the views of every image."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import click

from labelstore.errors import install_from_checkout

from .. import choices, options, output
from ..generating.growing import grow
from ..generating.labelling import label
from ..generating.options import GenerateOptions, LabelOptions
from ..reports.generate import SKIPPED, missing_blocks, print_report
from ..teacher_options import TeachersOptions, teachers_options

if TYPE_CHECKING:
    from labelstore.launch import Launch

HELP = """Run a teacher once over many random crops of every image and store its top-k soft labels.

SOURCE is a folder of images: one folder a class, or flat (then give --targets none); or WebDataset
shards (.tar, not compressed), or Parquet files in Hugging Face's layout (a column image, by choice
a column label): one file, a folder of them or the snapshot of a hub's repository, a glob
('data/train-*.parquet') or a brace list ('train-{000..127}.tar'), in quotes; or the URL (s3://,
gs://) of any of these.

Images are read by Pillow, whatever their files are called: JPEG, PNG, WebP, TIFF, BMP, PPM, GIF
(the first frame), JPEG 2000, and AVIF and HEIC where this Pillow has them (HEIC: pip install
pillow-heif); in folders, files ending in .jpg .jpeg .png .webp .tif .tiff .bmp .ppm .pgm .gif .avif
.heic .heif. Files that are passed over are named.

\b
  labelstore generate photos --teacher timm:vit_base_patch16_224 \\
      --views 200 -o vit.zarr
  labelstore generate photos --teacher timm:resnet50 \\
      --checkpoint my.safetensors --views 200 --seed 1 \\
      --batch-size 512 --precision bf16 -o resnet.zarr

Which crop is view number v of an image depends on --seed, --scale, --ratio, --flip and the image's
path alone: two teachers' stores that were made with the same four line up, and
labelstore.ensemble averages them. Several teachers in one pass decode each photo once:

\b
  labelstore generate photos --teacher timm:resnet50 \\
      --teacher timm:vit_base_patch16_224 --views 200 \\
      -o resnet.zarr -o vit.zarr

Several GPUs or machines that see the same folder make one store together, each process claiming
blocks; processes may die or join at any time:

\b
  torchrun --nproc-per-node 8 -m labelstore \\
      generate photos --teacher ... -o vit.zarr
  srun --ntasks-per-node 8 \\
      labelstore generate photos --teacher ... -o vit.zarr

More views, or new photos, of a store that is finished:

\b
  labelstore generate photos --teacher ... --views 400 \\
      --grow vit.zarr -o vit400.zarr

The same command again goes on where it stopped; a store that was
made with other settings is refused by naming what differs.

Before a long run, labelstore check SOURCE decodes every image once, without a teacher, and names
all that would stop the run.

With --on-error skip, an image that was read whole and cannot be decoded is left out; one that
cannot be read (a server that is gone, no rights, no memory) stops the run, for it may be right.

\b
Exit codes:
  0  the store is complete and every image has its labels
  1  stopped, or blocks are missing: the same command goes on
  2  the request is wrong
  3  complete, but images that cannot be decoded were left out
     (--on-error skip); each is named with its reason, and
     labelstore repair --skipped labels it once it is mended
"""


@click.command(help=HELP, short_help="Run a teacher over the views of every image.")
@click.argument("source", type=click.Path(path_type=str))
@teachers_options
@click.option("--views", type=click.IntRange(min=1), help="Views of each image.")
@click.option(
    "--fidelity",
    type=click.Choice(choices.FIDELITIES),
    default="balanced",
    show_default=True,
    help="How labels are stored. small: one class a view; balanced: as many as 95 % of the mass "
    "needs, at most four; both with a list of each image's likely classes. fast: five plain "
    "classes, no list. The four options below change single settings; "
    "labelstore.producer.settings.FIDELITIES has them.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Classes stored of each label; all of them, unless --top-p is given too.",
)
@click.option(
    "--prior-size",
    type=click.IntRange(min=0),
    help="Classes in each image's list of likely classes, by which the tail is spread; 0: no list.",
)
@options.quantizer_option
@click.option(
    "--top-p",
    type=float,
    metavar="MASS",
    help="Store only as many of the --top-k classes as this probability mass needs.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    multiple=True,
    metavar="STORE",
    type=click.Path(),
    help="Where the new store goes: a folder or a URL such as s3://bucket/name.zarr; *.parquet is "
    "made of Parquet files, else Zarr. One for each --teacher.",
)
@click.option(
    "--label-type",
    type=click.Choice(choices.LABEL_TYPES),
    default=choices.LABEL_TYPES[0],
    show_default=True,
    help="What labels are recovered to: their classes with a tail, the largest class, or the "
    "largest class with its probability and the rest spread evenly.",
)
@options.law_options
@options.source_options
@click.option(
    "--targets",
    type=click.Choice(choices.TARGETS),
    default=choices.TARGETS[0],
    show_default=True,
    help="Ground truth from the class folders' names, or unknown.",
)
@click.option(
    "--class-map",
    metavar="FILE",
    help="JSON object or two-column CSV: folder name to the teacher's class, by number, name or "
    "WordNet id (labelstore classes lists them).",
)
@click.option(
    "--engine",
    type=click.Choice(choices.ENGINES),
    default=choices.ENGINES[0],
    show_default=True,
    help="ray: blocks are tasks on a Ray cluster's GPUs (RAY_ADDRESS, or this machine); needs "
    f"{install_from_checkout('ray')}. Stores of either engine are gone on with by the other.",
)
@click.option(
    "--actors",
    type=click.IntRange(min=1),
    help="With --engine ray: how many teachers run at once. Default: one a GPU of the cluster, "
    "also of nodes that join later.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=choices.GRACE,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM (as Slurm and Kubernetes send it before they kill): how long the block in "
    "work may still take; where it takes longer it is given up.",
)
@click.option(
    "--on-error",
    type=click.Choice(choices.ON_ERROR),
    default=choices.ON_ERROR[0],
    show_default=True,
    help="What to do about an image that cannot be decoded, or that a teacher has no finite logits "
    "for: stop, or leave it out (exit code 3).",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Views in one forward. Default: 16 on a CPU, 64 on MPS, on CUDA as many as fit, to 512.",
)
@click.option(
    "--resize",
    type=click.Choice(choices.RESIZES),
    default=choices.RESIZES[0],
    show_default=True,
    help="Where crops are resized: by Pillow in the workers, or on the teacher's device, to the "
    "same pixels (checked before the run): for GPUs that a few cores cannot keep busy.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Run the teacher through torch.compile; its last bits may differ, the manifest says so.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that decode and cut. Default: the number of cores, shared by the processes of "
    "the machine.",
)
@click.option(
    "--block-images",
    type=click.IntRange(min=1),
    help="Images of a block, the unit that is committed and resumed. Default: as many as "
    "have 2,048 views on a CPU, 131,072 on a GPU, at most 1024; more where blocks were very many.",
)
@click.option(
    "--group-views",
    type=click.IntRange(min=1),
    help="Views of a group, the unit that a training epoch reads. Default: as many as "
    "make 4,096 labels with a block's images, 4 or more, in Parquet 16 or more.",
)
@options.layout_option(options.LIKE_BEGUN)
@click.option(
    "--views-from",
    metavar="STORE",
    type=click.Path(),
    help="Label the very views of this store with another teacher: its --seed, --scale, --ratio "
    "and --flip, and its number of views unless --views is less.",
)
@click.option(
    "--grow",
    metavar="STORE",
    type=click.Path(),
    help="Take over all labels of this finished store, to the bit, and add to them: its images get "
    "as many views as --views says, and new photos of SOURCE are labelled. All settings are its. "
    "The store stays as it is; the new one goes to --output.",
)
@click.option(
    "--relabel-changed",
    is_flag=True,
    help="With --grow: label photos anew that are other files than were labelled. Without it they "
    "are named, and nothing is done.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Label a sample, tell what the whole would take in bytes and time and what FerKD would "
    "do, and write nothing. Exit code 1 where the disk has no room for it.",
)
@click.option(
    "--allow-version-drift",
    is_flag=True,
    help="Go on with a store that other library versions began.",
)
@click.option(
    "--log-json",
    is_flag=True,
    help="Progress as a JSON object a line, on stderr, every ten seconds.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(
    GenerateOptions,
    teachers=TeachersOptions,
    labels=LabelOptions,
    views_law=options.LawOptions,
    photos=options.SourceOptions,
)
def command(request: GenerateOptions) -> None:
    """Parse, and hand over to ``labelstore.producer.generation``."""
    launch = _how_launched()
    if request.relabel_changed and request.grow is None:
        raise click.UsageError("--relabel-changed goes with --grow STORE: give the store, too.")
    reports = label(request, launch) if request.grow is None else grow(request, launch)
    if launch is None or launch.rank == 0:
        if request.json and reports:
            documents = [report.to_json() for report in reports]
            output.emit_json(documents if len(request.teachers.spec) > 1 else documents[0])
        elif not request.quiet:
            for report in reports:
                print_report(report)
    incomplete = [report for report in reports if report.blocks_missing]
    for report in incomplete:
        output.note(missing_blocks(report, launch))
    context = click.get_current_context()
    if incomplete:
        context.exit(1)
    if any(report.unreadable for report in reports):
        context.exit(SKIPPED)


def _how_launched() -> Launch | None:
    """How this process was launched; what is odd about it is told."""
    from labelstore.launch import launched

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launch = launched()
    for warning in caught:
        output.note(f"Warning: {warning.message}")
    return launch
