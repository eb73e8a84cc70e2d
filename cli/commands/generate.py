"""``labelstore generate``: run a teacher over the views of every image."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import click

from labelstore.cli import options, output
from labelstore.cli.output import counted
from labelstore.cli.reports.forecast import dry_run
from labelstore.errors import install_from_checkout

if TYPE_CHECKING:
    from labelstore.format.manifest import StoreSettings
    from labelstore.images.sources.choose import ImageSource
    from labelstore.launch import Launch
    from labelstore.producer.engines.ray_engine import RayEngine
    from labelstore.producer.generation import Report
    from labelstore.producer.settings import LabelSettings, RunOptions

_SHOWN = 6

SKIPPED = 3
"""Exit code of a run that finished its store and left images out of it."""

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
  labelstore generate photos --teacher timm:vit_base_patch16_224 --views 200 -o vit.zarr
  labelstore generate photos --teacher timm:resnet50 --checkpoint my.safetensors \\
      --views 200 --seed 1 --batch-size 512 --precision bf16 -o resnet.zarr

Which crop is view number v of an image depends on --seed, --scale, --ratio, --flip and the image's
path alone: two teachers' stores that were made with the same four line up, and
labelstore.ensemble averages them. Several teachers in one pass decode each photo once:

\b
  labelstore generate photos --teacher timm:resnet50 --teacher timm:vit_base_patch16_224 \\
      --views 200 -o resnet.zarr -o vit.zarr

Several GPUs or machines that see the same folder make one store together, each process claiming
blocks; processes may die or join at any time:

\b
  torchrun --nproc-per-node 8 -m labelstore generate photos --teacher ... -o vit.zarr
  srun --ntasks-per-node 8 labelstore generate photos --teacher ... -o vit.zarr

The same command again goes on where it stopped; a store that was
made with other settings is refused by naming what differs.

With --on-error skip, an image that was read whole and cannot be decoded is left out; one that
cannot be read (a server that is gone, no rights, no memory) stops the run, for it may be right.

\b
Exit codes:
  0  the store is complete and every image has its labels
  1  stopped, or blocks are missing: the same command goes on
  2  the request is wrong
  3  complete, but images that cannot be decoded were left out (--on-error skip); each is named
     with its reason, and labelstore repair --skipped labels it once it is mended
"""


@click.command(help=HELP, short_help="Run a teacher over the views of every image.")
@click.argument("source", type=click.Path(path_type=str))
@options.teachers_options
@click.option("--views", type=click.IntRange(min=1), help="Views of each image.")
@click.option(
    "--fidelity",
    type=click.Choice(["small", "balanced", "fast"]),
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
    type=click.Choice(["top-k", "hard", "smoothing"]),
    default="top-k",
    show_default=True,
    help="What labels are recovered to: their classes with a tail, the largest class, or the "
    "largest class with its probability and the rest spread evenly.",
)
@options.law_options
@options.source_options
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
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
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
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
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
    type=click.Choice(["workers", "device"]),
    default="workers",
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
@click.option(
    "--log-json",
    is_flag=True,
    help="Progress as a JSON object a line, on stderr, every ten seconds.",
)
@options.overwrite_option
@options.json_option
@options.quiet_option
@click.pass_context
def command(context: click.Context, **given: Any) -> None:
    """Parse, and hand over to ``labelstore.producer.generation``."""
    if given["views_from"]:
        law = _views_of(given, context)
    elif given["views"] is None:
        raise click.UsageError("--views is missing: say how many views of each image to label.")
    else:
        law = options.law_from(given)
    launch = _launch()
    reports = _run(given, law, launch)
    if launch is None or launch.rank == 0:
        if given["json"] and reports:
            documents = [report.to_json() for report in reports]
            output.emit_json(documents if len(given["spec"]) > 1 else documents[0])
        elif not given["quiet"]:
            for report in reports:
                _tell(report)
    missing = [report for report in reports if report.blocks_missing]
    for report in missing:
        output.note(_missing(report, launch))
    if missing:
        context.exit(1)
    if any(report.unreadable for report in reports):
        context.exit(SKIPPED)


def _views_of(given: dict[str, Any], context: click.Context) -> Any:
    """The view law of ``--views-from``; it also sets ``views`` where that is not given."""
    import labelstore
    from labelstore.errors import MismatchError, UsageError
    from labelstore.views.law import ViewLaw

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


def _check_photos(source: Any, path: str) -> None:
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


def _launch() -> Launch | None:
    """How this process was launched; what is odd about it is told."""
    import warnings

    from labelstore.launch import launched

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        launch = launched()
    for warning in told:
        output.note(f"Warning: {warning.message}")
    return launch


def _run(given: dict[str, Any], law: Any, launch: Launch | None) -> list[Report]:
    """Do what was asked for; a report for each store, none of a dry run."""
    from labelstore.errors import UsageError
    from labelstore.images.ground_truth import class_pairs, read_class_map, resolve_targets
    from labelstore.images.sources.choose import check_outside
    from labelstore.launch import own_cores, take_gpu
    from labelstore.producer.engines.local import LocalEngine
    from labelstore.producer.generation import generate_together
    from labelstore.producer.precheck import check_request
    from labelstore.producer.settings import Output, RunOptions
    from labelstore.store.writer import Share
    from labelstore.teachers.load import facts_of

    each = options.teachers_from(given)
    source = options.source_from(given, given["source"])
    for path in given["output"]:
        check_outside(source, path)
    if not given["overwrite"] and given["engine"] == "local":
        source = _as_stored(source, given["output"])
    if given["views_from"]:
        _check_photos(source, given["views_from"])
    class_map = read_class_map(given["class_map"]) if given["class_map"] else None
    if launch is not None and given["device"] != "cpu":
        take_gpu(launch)
    workers = given["workers"] or own_cores(launch)
    if given["engine"] == "ray" and launch is not None:
        raise UsageError(
            "--engine ray runs once, on one machine of the cluster: leave out torchrun or srun."
        )
    share = None if launch is None else Share(launch.rank, launch.world)
    run_options = RunOptions(
        batch_size=given["batch_size"],
        workers=workers,
        resize=given["resize"],
        compiled=given["compiled"],
        on_error=given["on_error"],
        overwrite=given["overwrite"],
        allow_version_drift=given["allow_version_drift"],
        share=share,
    )
    if not given["dry_run"]:
        for one in each:
            # A network may take minutes; what is wrong already is said before.
            check_request(
                source,
                one["output"],
                functools.partial(_label_settings, given, law, one),
                facts_of(one["spec"], one["checkpoint"], one["precision"]),
                run_options,
            )
    engine = _ray_engine(given, each, run_options) if given["engine"] == "ray" else None
    networks = [] if engine else [options.teacher_from(one) for one in each]
    teachers = engine.teachers if engine else [network.info for network in networks]
    outputs = []
    for one, teacher in zip(each, teachers, strict=True):
        targets = resolve_targets(
            source,
            num_classes=teacher.num_classes,
            class_names=teacher.class_names,
            class_map=class_map,
            targets=given["targets"],
        )
        settings = _label_settings(given, law, one, teacher.num_classes)
        outputs.append(Output(targets, one["output"], settings))
    first = launch is None or launch.rank == 0
    if given["dry_run"]:
        if len(outputs) > 1:
            raise UsageError("--dry-run was given for several teachers: try them one by one.")
        if first:
            dry_run(given, source, networks[0], outputs[0], workers)
        return []
    quiet = given["quiet"] or not first
    settings, teacher = outputs[0].settings, teachers[0]
    if not quiet and not given["log_json"]:
        for planned in outputs:
            if pairs := class_pairs(source, planned.targets):
                output.note(_pairs(pairs))
        names = " and ".join(info.spec for info in teachers)
        if source.passed_over.count:
            output.note(str(source.passed_over))
        # A fidelity keeps at most as many as there are.
        all_of_them = " (all there are)" if settings.store.k == teacher.num_classes else ""
        together = "" if launch is None else f"; one of {launch.world} processes"
        output.note(
            f"{counted(len(source), 'image')}; {counted(settings.num_views, 'view')} each; "
            f"top {settings.store.k} of {counted(teacher.num_classes, 'class')}{all_of_them}; "
            f"{names} on {teacher.device}{together}"
        )
    with (
        engine or LocalEngine(networks, run_options) as running,
        output.progress(
            total_images=len(source),
            views_per_image=settings.num_views,
            quiet=quiet,
            as_json=given["log_json"],
            device=teacher.device,
        ) as progress,
    ):
        reports = generate_together(
            source,
            outputs,
            running,
            options=run_options,
            progress=progress,
        )
    if not first and not given["quiet"]:
        # What the others' teachers did is in no other report.
        for report in reports:
            for note in report.notes:
                output.note(note)
    return reports


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


def _pairs(pairs: dict[str, int]) -> str:
    """Which class each folder or label was taken for, the first few."""
    shown = ", ".join(f"{name!r} -> {number}" for name, number in list(pairs.items())[:_SHOWN])
    more = f", ... ({len(pairs)} in all)" if len(pairs) > _SHOWN else ""
    return f"classes: {shown}{more}"


def _load(given: dict[str, Any], each: list[dict[str, Any]]) -> Any:
    """The source and the teachers, on whatever machine this runs."""
    source = options.source_from(given, given["source"])
    return source, [options.teacher_from(one) for one in each]


def _ray_engine(
    given: dict[str, Any], each: list[dict[str, Any]], run_options: RunOptions
) -> RayEngine:
    from labelstore.errors import UsageError
    from labelstore.producer.engines.ray_engine import RayEngine

    if given["dry_run"]:
        raise UsageError("--engine ray has no --dry-run: leave one of them out.")
    return RayEngine(
        functools.partial(_load, given, each),
        actors=given["actors"],
        device=given["device"],
        options=run_options,
    )


def _label_settings(
    given: dict[str, Any], law: Any, one: dict[str, Any], num_classes: int
) -> LabelSettings:
    """What labels a teacher of so many classes is to make."""
    from labelstore.producer.settings import LabelSettings

    return LabelSettings(
        num_views=given["views"],
        store=_store_settings(given, num_classes),
        law=law,
        temperature=one["temperature"],
        label_type=given["label_type"],
    )


def _store_settings(given: dict[str, Any], num_classes: int) -> StoreSettings:
    """The settings of a fidelity, with those that were given in their stead."""
    from dataclasses import replace

    from labelstore.producer.settings import FIDELITIES

    settings = FIDELITIES[given["fidelity"]]
    # A fidelity's classes are at most the teacher's.
    settings = replace(settings, k=min(settings.k or num_classes, num_classes))
    if given["label_type"] != "top-k":
        # One class with an even tail, or none, is all that these labels are.
        settings = replace(settings, k=1, prior_size=0)
    if given["top_k"] is not None or settings.k == 1:
        # A fidelity's mass goes with its own number of classes.
        settings = replace(settings, top_p=None)
    chosen = {
        "k": given["top_k"],
        **{
            name: given[name]
            for name in ("prior_size", "quantizer", "top_p", "block_images", "group_views")
        },
    }
    return replace(settings, **{n: value for n, value in chosen.items() if value is not None})


def _missing(report: Report, launch: Launch | None) -> str:
    """What is said of a store that is not complete."""
    lacking = f"Error: {report.path} is not complete: {report.blocks_missing} blocks are not there"
    if launch is None:
        return f"{lacking}; give the same command again to make them."
    return (
        f"{lacking}, and none of the {launch.world} processes of this launch that would make them "
        "is running: give the same command again, or unset RANK, WORLD_SIZE and SLURM_PROCID where "
        "this process was to work alone."
    )


def _tell(report: Report) -> None:
    if report.blocks_made:
        speed = f", {report.views_per_second:,.0f} a second" if report.views_per_second else ""
        waiting = ""
        if report.waiting_share is not None and report.waiting_share >= 0.05:
            waiting = f"; the teacher waited for pixels {report.waiting_share:.0%} of the time"
        output.note(
            f"{report.path}: {counted(report.views_made, 'view')} labelled in "
            f"{report.seconds:,.0f} s{speed}{waiting}"
        )
    elif not report.blocks_elsewhere and not report.blocks_missing:
        output.note(f"{report.path} is finished already: nothing was done")
    if report.blocks_elsewhere:
        output.note(f"made by other processes: {counted(report.blocks_elsewhere, 'block')}")
    for note in report.notes:
        output.note(note)
    for reason in report.unreadable.values():
        output.note(f"left out: {reason}")
    if report.unreadable:
        output.note(
            f"{len(report.unreadable)} of {counted(report.num_images, 'image')} have no labels "
            f"(exit code {SKIPPED}); once they are mended: labelstore repair --skipped"
        )
    output.note(f"next: labelstore inspect {report.path}")
