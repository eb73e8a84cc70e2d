"""``labelstore generate``: run a teacher over the views of every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import options, output

if TYPE_CHECKING:
    from pathlib import Path

    from labelstore.generate import Report

HELP = """Run a teacher once over many random crops of every image and store its top-k soft labels.

SOURCE is a folder of images: one folder a class, or flat (then give --targets none); or WebDataset
shards (.tar), or Parquet files in Hugging Face's layout (a column image, by choice a column label),
one file or a folder of them.

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
@click.option("--views", type=click.IntRange(min=1), help="Views of each image.")
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
    "--views-from",
    metavar="STORE",
    type=click.Path(),
    help="Label the very views of this store with another teacher: its --seed, --scale, --ratio "
    "and --flip, and its number of views unless --views is less.",
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
@options.overwrite_option
@options.json_option
@options.quiet_option
def command(**given: Any) -> None:
    """Parse, and hand over to ``labelstore.generate``."""
    from pathlib import Path

    if given["views_from"]:
        law = _views_of(given, click.get_current_context())
    elif given["views"] is None:
        raise click.UsageError("--views is missing: say how many views of each image to label.")
    else:
        law = options.law_from(given)
    path = Path(given["output"])
    report = _run(given, law, path)
    if report is None:
        return
    if given["json"]:
        output.emit_json(report.to_json())
    elif not given["quiet"]:
        _tell(report)


def _views_of(given: dict[str, Any], context: click.Context) -> Any:
    """The view law of ``--views-from``; it also sets ``views`` where that is not given."""
    import labelstore
    from labelstore.errors import MismatchError, UsageError
    from labelstore.views import ViewLaw

    store = labelstore.open(given["views_from"])
    if not isinstance(store.law, ViewLaw):
        raise MismatchError(
            f"{store.path} has no view law that another teacher's views could follow: give "
            "--seed, --scale, --ratio and --flip."
        )
    for name in ("seed", "scale", "ratio", "flip"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(
                f"--{name} and --views-from were both given: leave --{name} out, it comes from "
                "the store."
            )
    if given["views"] is None:
        given["views"] = store.num_views
    if given["views"] > store.num_views:
        raise UsageError(
            f"--views is {given['views']} and {store.path} has {store.num_views} views of each "
            "image: give at most that, or leave --views out."
        )
    return store.law


def _run(given: dict[str, Any], law: Any, path: Path) -> Report | None:
    import os

    from labelstore.generate import Recipe, generate
    from labelstore.images import read_class_map, resolve_targets
    from labelstore.sources import open_source

    source = open_source(given["source"])
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
    workers = given["workers"] or os.cpu_count() or 1
    if given["dry_run"]:
        _dry_run(given, source, teacher, path, recipe, workers)
        return None
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
            workers=workers,
            on_error=given["on_error"],
            overwrite=given["overwrite"],
            allow_version_drift=given["allow_version_drift"],
            progress=progress,
        )


def _dry_run(
    given: dict[str, Any], source: Any, teacher: Any, path: Path, recipe: Any, workers: int
) -> None:
    from labelstore.forecast import forecast
    from labelstore.generate import BATCH_SIZES

    found = forecast(
        source,
        teacher,
        path,
        recipe,
        batch_size=given["batch_size"] or BATCH_SIZES[teacher.device],
        workers=workers,
    )
    if given["json"]:
        output.emit_json(found.to_json())
    else:
        shares = ", ".join(f"{share:.1%} {name}" for name, share in found.ferkd.items())
        output.note(
            f"{found.images:,} images x {found.views:,} views = {found.crops:,} crops; "
            f"{teacher.spec} on {teacher.device}; measured on {found.sample_images} images x "
            f"{found.sample_views} views, nothing was written"
        )
        output.note(
            f"bytes: {_size(found.bytes)} ({found.bytes_per_crop:.2f} a crop); free: "
            f"{_size(found.free_bytes)}"
        )
        output.note(
            f"time: {_duration(found.seconds)} ({_duration(found.seconds_forward)} for the "
            f"teacher, {_duration(found.seconds_pixels)} for decoding and cutting on {workers} "
            f"workers; the bottleneck: {found.bottleneck})"
        )
        output.note(f"KL(teacher || stored): {found.kl_nats:.4f} nats")
        output.note(f"FerKD would have {shares}")
    if not found.fits:
        from labelstore.errors import StoreError

        raise StoreError(
            f"{path} would take about {_size(found.bytes)} and {_size(found.free_bytes)} are free: "
            "make room, or choose --fidelity small or fewer --views."
        )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


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
