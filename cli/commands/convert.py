"""``labelstore convert``: make a store of another project's label files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .. import choices, options, output
from ..text import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from labelstore.operations.convert import ConversionReport
    from labelstore.peers.peer_labels import PeerReader

HELP = """Make a store of another project's label files.

\b
  # FKD: a folder of .tar files, an image each
  labelstore convert FKD_soft_label/imagenet \\
      --from fkd --photos imagenet/train --classes 1000 -o fkd.zarr
  # TinyViT: a folder of logits_top100_epoch0, logits_top100_epoch1, ...
  labelstore convert logits_in22k --from tinyvit --classes 21841 -o tiny.zarr
  # SRe2L and LPLD: epoch_0, epoch_1, ...; the photos that were relabelled
  labelstore convert FKD_cutmix_fp16 --from sre2l --photos syn_data \\
      --temperature 20 -o sre2l.zarr
  # ml-dr: the folder reinforced_data of its archive
  labelstore convert reinforced_data --from ml-dr --photos imagenet/training \\
      -o ml-dr.zarr
  # ReLabel: a map a photo, read for as many crops as are wanted
  labelstore convert relabel_imagenet --from relabel \\
      --photos imagenet/train --classes 1000 --views 200 -o relabel.zarr
  # arrays of one's own: probs or logits, or indices and probs
  labelstore convert labels.npz --from npz -o own.zarr

No pickle is executed, whatever is in it. An interrupted run goes on where it stopped when the same
command is given again. What the files do not say is asked for, or stays unknown: the teacher's
name, the temperature, the number of classes; nothing is guessed.

Labels of k classes keep them all, at the default quantizer; --quantizer fp32 keeps every bit. Full
probabilities and logits are cut as generate does it. labelstore verify checks the store.
"""


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(options.ResultOptions):
    """The options of ``labelstore convert``."""

    files: str
    output: str
    peer: choices.Peer
    photos: str | None
    images: options.SourceOptions
    without_boxes: bool
    views: int | None
    views_law: options.LawOptions
    classes: int | None
    teacher_name: str | None
    temperature: float | None
    class_map: str | None
    targets: choices.Targets | None
    fidelity: str | None
    stored: options.StoreSettingsOptions
    layout: choices.Layout | None
    workers: int | None
    overwrite: bool


@click.command(help=HELP, short_help="Make a store of another project's label files.")
@click.argument("files", metavar="FILES", type=click.Path())
@options.output_option
@click.option(
    "--from",
    "peer",
    type=click.Choice(choices.PEERS),
    required=True,
    help="Whose files they are.",
)
@click.option(
    "--photos",
    metavar="SOURCE",
    help="The photos that were labelled: for their sizes, which boxes in shares of them need, and "
    "for their names, by which a student finds its labels.",
)
@options.source_options
@click.option(
    "--without-boxes",
    is_flag=True,
    help="Leave the crops out: no student can be shown them, and no photos are needed. Of FKD's "
    "files the checksums, types and shapes are checked all the same, and labels in full; the "
    "numbers of crops are not, so that wrong ones go unnoticed.",
)
@click.option(
    "--views",
    type=click.IntRange(min=1),
    help="Of ReLabel's maps, which have a label for any crop: views of each image.",
)
@options.law_options
@click.option("--classes", type=click.IntRange(min=1), help="How many the teacher has.")
@click.option("--teacher-name", metavar="TEXT", help="What made the labels, for the manifest.")
@click.option(
    "--temperature",
    type=float,
    help="Of the labels' softmax, where it is known; logits are divided by it. [default: unknown; "
    "of logits 1]",
)
@click.option(
    "--class-map",
    metavar="FILE",
    help="Ground truth: which class each class folder is, as for generate.",
)
@click.option(
    "--targets",
    type=click.Choice(choices.TARGETS),
    help="Ground truth from the class folders' names, or none. Default: as the files say.",
)
@click.option(
    "--fidelity",
    type=click.Choice(choices.FIDELITIES),
    help="How labels are stored, as for generate. Default: labels of k classes as they are, full "
    "ones as balanced.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Classes of each label, at most.")
@click.option(
    "--prior-size",
    type=click.IntRange(min=0),
    help="Classes in each image's list of likely classes; 0: no list.",
)
@options.quantizer_option
@options.top_p_option
@options.block_images_option
@options.group_views_option
@options.layout_option(options.LIKE_BEGUN)
@options.block_workers_option
@options.overwrite_option
@options.json_option
@options.quiet_option
@options.collected(
    ConvertOptions,
    images=options.SourceOptions,
    views_law=options.LawOptions,
    stored=options.StoreSettingsOptions,
)
def command(request: ConvertOptions) -> None:
    """Convert."""
    import contextlib

    from labelstore.operations.convert import ConversionSettings, convert
    from labelstore.peers.peer_labels import PeerOptions

    law = request.views_law.law()
    photos = None if request.photos is None else request.images.open(request.photos)
    with contextlib.ExitStack() as stack:

        def begin(reader: PeerReader) -> Callable[[int, int], None]:
            progress = output.progress(
                len(reader.keys), reader.num_views, quiet=request.silent, brief=True
            )
            return stack.enter_context(progress).update

        report = convert(
            request.files,
            request.output,
            format=request.peer,
            options=PeerOptions(
                request.classes, photos, not request.without_boxes, request.views, law
            ),
            settings=ConversionSettings(
                teacher_name=request.teacher_name,
                temperature=request.temperature,
                fidelity=request.fidelity,
                store=request.stored.settings(),
                layout=request.layout,
                targets=lambda reader: _ground_truth(reader, request),
            ),
            overwrite=request.overwrite,
            workers=request.workers,
            begin=begin,
        )
    if request.json:
        output.emit_json(report.to_json())
    elif not request.quiet:
        _tell(report)


def _ground_truth(reader: PeerReader, request: ConvertOptions) -> npt.NDArray[np.int32] | None:
    """The ground truth that is asked for; None: as the files say."""
    from ..ground_truth import targets_anew

    def of_folders(class_map: Mapping[str, int | str] | None) -> npt.NDArray[np.int32]:
        from labelstore.images.ground_truth.targets import targets_of_keys

        return targets_of_keys(
            request.photos or request.files,
            tuple(reader.keys),
            num_classes=reader.num_classes or 1,
            class_names=reader.class_names,
            class_map=class_map,
        )

    return targets_anew(request.targets, request.class_map, len(reader.keys), of_folders)


def _tell(report: ConversionReport) -> None:
    crops = report.num_images * report.num_views
    output.note(
        f"{report.path}: {report.num_images:,} images x {report.num_views} views, k = {report.k}, "
        f"in {duration(report.seconds)}"
    )
    output.note(
        f"{report.bytes_before:,} bytes -> {report.bytes_after:,} "
        f"({report.bytes_after / crops:.2f} a crop)"
    )
    if not report.replayable:
        output.note("views cannot be replayed: labels can be read, and no student be shown them")
    for note in report.notes:
        output.note(note)
