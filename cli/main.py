"""The command group: which commands there are, and the one place where errors become messages."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import click

from labelstore import __version__
from labelstore.errors import LabelStoreError

from .options import JSON_META

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COMMANDS", "LazyGroup", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "evaluate": (".evaluate", "Measure a teacher's accuracy on plain central crops."),
    "generate": (".generate", "Run a teacher over the views of every image."),
    "inspect": (".inspect", "Show what a store holds: statistics, plot, extremes, bytes."),
    "verify": (".verify", "Check that a store is whole and right."),
    "repair": (".repair", "Make damaged blocks anew."),
    "plan": (".plan", "Show what settings cost and keep, before GPU time."),
    "schedule": (".schedule", "Try out a schedule without training: what is left and read."),
    "pull": (".pull", "Copy a store here, all of it or a part."),
    "merge": (".merge", "Write the mean of several teachers' stores."),
    "recode": (".recode", "Write a store anew: backend, size, prior list."),
    "materialize": (".materialize", "Make a decoded copy for reading at random."),
    "demo": (".demo", "Try it all on twenty photos: two teachers, one student."),
}
"""Name of each command -> the module of its ``command``, and its line in ``--help``."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal, as shells report it."""

HELP = """Soft labels of image classifiers: made once, read at the speed of training.

\b
1. Run a teacher over random crops (views) of every photo, once. An interrupted run
   goes on where it stopped when the same command is given again.
     labelstore generate photos --teacher timm:resnet50 --views 200 -o teacher.zarr

\b
2. See what is in the store: how confident the teacher is, how often it is right, what
   FerKD would discard or calibrate, and what a crop costs on disk.
     labelstore inspect teacher.zarr --plot confidence.png

\b
3. Train any number of students from it, in any loop (labelstore.torch has a data set,
   a sampler of views and a loss; without torch, labelstore.open reads NumPy arrays).
     loss = labelstore.torch.soft_cross_entropy(student(images), target)
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run, so that ``--help`` starts at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0], package=__package__)
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors that are raised on purpose become a line and an exit code."""
        try:
            return super().invoke(ctx)
        except LabelStoreError as error:
            click.echo(f"Error: {error}", err=True)
            if ctx.meta.get(JSON_META):
                document = {"error": {"kind": error.kind, "message": str(error)}}
                click.echo(json.dumps(document, ensure_ascii=False))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            going_on = ""
            if ctx.invoked_subcommand in ("generate", "merge", "pull", "recode"):
                going_on = ": what was committed is kept, and the same command goes on from there"
            click.echo(f"Interrupted{going_on}.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    "labelstore", cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="labelstore")
def main() -> None:
    """Nothing is done before a command is run."""
