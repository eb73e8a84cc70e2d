"""``labelstore generate``: run a teacher over the views of every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from pathlib import Path

    from labelstore.generate import Report

HELP = """Run a teacher once over many random crops of every image and store its top-k soft labels.

SOURCE is a folder of images: one folder a class, or flat (then give --targets none).

\b
  labelstore generate photos --teacher timm:vit_base_patch16_224 --views 200 -o vit.zarr
  labelstore generate photos --teacher timm:resnet50 --checkpoint my.safetensors \\
      --views 200 --seed 1 --batch-size 512 --precision bf16 -o resnet.zarr

Which crop is view number v of an image depends on --seed, --scale, --ratio, --flip and the image's
path alone: two teachers' stores that were made with the same four line up, and
labelstore.ensemble averages them. The same command again goes on where it stopped; a store that was
made with other settings is refused by naming what differs.
"""


@click.command(help=HELP, short_help="Run a teacher over the views of every image.")
@click.argument("source", type=click.Path(path_type=str))
@options.teacher_options()
@click.option("--views", type=click.IntRange(min=1), required=True, help="Views of each image.")
@click.option(
    "--fidelity",
    type=click.Choice(["small", "balanced", "fast"]),
    default="balanced",
    show_default=True,
    help="How labels are stored. small: one class a view; balanced: as many as 95 % of the mass "
    "needs, at most four; both with a list of each image's likely classes. fast: five plain "
    "classes, no list. The four options below change single settings; "
    "labelstore.generate.FIDELITIES has them.",
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
@options.output_option
@click.option(
    "--label-type",
    type=click.Choice(["top-k", "hard", "smoothing"]),
    default="top-k",
    show_default=True,
    help="What labels are recovered to: their classes with a tail, the largest class, or the "
    "largest class with its probability and the rest spread evenly.",
)
@options.law_options
@click.option(
    "--targets",
    type=click.Choice(["folders", "none"]),
    default="folders",
    show_default=True,
    help="Ground truth from the class folders' names, or unknown.",
)
@click.option(
    "--class-map",
    metavar="FILE",
    help="JSON object or two-column CSV: folder name to class id of the teacher.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do about an image that cannot be decoded.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Views in one forward. Default: 16 on a CPU, 256 on CUDA, 64 on MPS.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Threads that decode and cut. Default: the number of cores.",
)
@click.option(
    "--block-images",
    type=click.IntRange(min=1),
    help="Images of a block, the unit that is committed and resumed. Default: about a 64th of the "
    "images, 16 to 1024.",
)
@click.option(
    "--group-views",
    type=click.IntRange(min=1),
    help="Views of a group, the unit that a training epoch reads. Default: 4, in Parquet 16.",
)
@click.option(
    "--allow-version-drift",
    is_flag=True,
    help="Go on with a store that other library versions began.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
def command(**given: Any) -> None:
    """Parse, and hand over to ``labelstore.generate``."""
    from pathlib import Path

    law = options.law_from(given)
    path = Path(given["output"])
    report = _run(given, law, path)
    if given["json"]:
        output.emit_json(report.to_json())
    elif not given["quiet"]:
        _tell(report)


def _run(given: dict[str, Any], law: Any, path: Path) -> Report:
    import os

    from labelstore.generate import Recipe, generate
    from labelstore.images import FolderSource, read_class_map, resolve_targets

    source = FolderSource(given["source"])
    class_map = read_class_map(given["class_map"]) if given["class_map"] else None
    teacher = options.teacher_from(given)
    targets = resolve_targets(
        source,
        num_classes=teacher.num_classes,
        class_names=teacher.class_names,
        class_map=class_map,
        targets=given["targets"],
    )
    recipe = Recipe(
        num_views=given["views"],
        law=law,
        temperature=given["temperature"],
        label_type=given["label_type"],
        block_images=given["block_images"],
        group_views=given["group_views"],
        **_fidelity(given),
    )
    if not given["quiet"]:
        ignored = f", {source.ignored} other files passed over" if source.ignored else ""
        output.note(
            f"{len(source)} images{ignored}; {recipe.num_views} views each; top {recipe.k} of "
            f"{teacher.num_classes} classes; {teacher.spec} on {teacher.device}"
        )
    with output.progress(
        total_images=len(source), views_per_image=recipe.num_views, quiet=given["quiet"]
    ) as progress:
        return generate(
            source,
            targets,
            teacher,
            path,
            recipe,
            batch_size=given["batch_size"],
            workers=given["workers"] or os.cpu_count() or 1,
            on_error=given["on_error"],
            overwrite=given["overwrite"],
            allow_version_drift=given["allow_version_drift"],
            progress=progress,
        )


def _fidelity(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a fidelity, with those that were given in their stead."""
    from labelstore.generate import FIDELITIES

    settings = dict(FIDELITIES[given["fidelity"]])
    if given["label_type"] != "top-k":
        # One class with an even tail, or none, is all that these labels are.
        settings |= {"k": 1, "prior_size": 0}
    if given["top_k"] is not None or settings["k"] == 1:
        # A fidelity's mass goes with its own number of classes.
        settings["top_p"] = None
    chosen = {
        "k": "top_k",
        "prior_size": "prior_size",
        "quantizer": "quantizer",
        "top_p": "top_p",
    }
    for name, option in chosen.items():
        if given[option] is not None:
            settings[name] = given[option]
    return settings


def _tell(report: Report) -> None:
    if report.blocks_made:
        speed = f", {report.views_per_second:,.0f} a second" if report.views_per_second else ""
        output.note(
            f"{report.path}: {report.views_made:,} views labelled in {report.seconds:,.0f} s{speed}"
        )
    else:
        output.note(f"{report.path} is finished already: nothing was done")
    if report.unreadable:
        shown = ", ".join(report.unreadable[:20])
        more = f" and {len(report.unreadable) - 20} more" if len(report.unreadable) > 20 else ""
        output.note(f"{len(report.unreadable)} images could not be decoded: {shown}{more}")
    output.note(f"next: labelstore inspect {report.path}")
