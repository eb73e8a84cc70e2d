"""The command group: which commands there are, and the one place where errors become messages."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import click

from labelstore import __version__
from labelstore.errors import LabelStoreError, UsageError, did_you_mean
from labelstore.producer.stopping import Terminated, obeying_sigterm

from . import output
from .options import JSON_META, flags_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["COMMANDS", "LazyGroup", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "check": (".commands.inspection.check", "Look at every photo before any GPU time."),
    "evaluate": (".commands.evaluate", "Measure a teacher's accuracy on plain central crops."),
    "generate": (".commands.generate", "Run a teacher over the views of every image."),
    "inspect": (".commands.inspection.inspect", "What the labels say, in numbers and pictures."),
    "show": (".commands.inspection.show", "One image: its crops and their labels, drawn, too."),
    "classes": (".commands.inspection.classes", "Numbers and names of classes, and their images."),
    "compare": (
        ".commands.inspection.compare",
        "Where two stores of the same images agree, and where not.",
    ),
    "verify": (".commands.verify", "Check that a store is whole and right."),
    "doctor": (".commands.inspection.doctor", "Find where a store and its photos came apart."),
    "repair": (".commands.repair", "Make damaged blocks anew."),
    "plan": (".commands.plan", "Show what settings cost and keep, before GPU time."),
    "schedule": (
        ".commands.schedule",
        "Try out a schedule without training: what is left and read.",
    ),
    "copy": (".commands.lifecycle.copy", "Copy a store between folders and buckets."),
    "pull": (".commands.pull", "Copy a store here, all of it or a part."),
    "subset": (
        ".commands.lifecycle.subset",
        "Write some images, and some views of each, to a store.",
    ),
    "prune": (
        ".commands.lifecycle.prune",
        "Take images, or views of each, out of a store for good.",
    ),
    "gc": (".commands.lifecycle.gc", "Remove what interrupted runs left behind."),
    "merge": (".commands.merge", "Write the mean of several teachers' stores, or join parts."),
    "recode": (".commands.recode", "Write a store anew: backend, size, prior list."),
    "convert": (".commands.convert", "Make a store of another project's label files."),
    "card": (".commands.lifecycle.card", "Write the data-set card of a store."),
    "publish": (
        ".commands.lifecycle.publish",
        "Put a store on the hub, or into a bucket, with a card.",
    ),
    "export": (
        ".commands.lifecycle.export",
        "Write labels as files of FKD, WebDataset, NumPy or the hub.",
    ),
    "materialize": (".commands.materialize", "Make a decoded copy for reading at random."),
    "demo": (".commands.demo", "Try it all on twenty photos: two teachers, one student."),
}
"""Name of each command -> the module of its ``command``, and its line in ``--help``."""

OPTION_OF = {
    "k": "top_k",
    "num_views": "views",
    "teacher": "spec",
    "num_classes": "classes",
    "boxes": "without_boxes",
}
"""Arguments of the library that commands have under another name."""

GO_ON = ("convert", "copy", "generate", "merge", "prune", "publish", "pull", "recode", "subset")
"""Commands that go on where they stopped when they are given again."""

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM: 128 and the signal's number, as shells report it."""

HELP = """Soft labels of image classifiers: made once, read at the speed of training.

\b
1. Run a teacher over random crops (views) of every photo, once. An interrupted run
   goes on where it stopped when the same command is given again.
     labelstore generate photos --teacher timm:resnet50 --views 200 -o teacher.zarr

\b
2. See what the labels say: how confident the teacher is, how often it is right, what
   FerKD would discard or calibrate, which photos may be in the wrong folder.
     labelstore inspect teacher.zarr --report report.html --photos photos

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; of a name that is none, tell which commands look like it."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            hint = did_you_mean(name, COMMANDS)
            raise click.UsageError(
                f"there is no command {name!r}{f': {hint}' if hint else '.'}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse; what cannot be parsed becomes a message."""
        as_json = "--json" in args
        with _told_as_json(as_json):
            context = super().make_context(info_name, args, parent, **extra)
        # An error in parsing the command's own options comes before any of them is known.
        context.meta[JSON_META] = as_json
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; errors that are raised on purpose become a line and an exit code."""
        try:
            with (
                _told_as_json(ctx.meta[JSON_META]),
                output.printed_warnings(),
                obeying_sigterm(),
            ):
                return super().invoke(ctx)
        except LabelStoreError as error:
            flags = self._flags(ctx, error)
            message = str(error)
            unsaid = [flag for flag in flags if flag not in message]
            if unsaid:
                options = "Option" if len(unsaid) == 1 else "Options"
                message += f" {options}: {', '.join(unsaid)}."
            output.note(f"Error: {message}")
            if ctx.meta[JSON_META]:
                more = error.fields() | ({"options": flags} if flags else {})
                click.echo(_error_json(error.kind, message, more))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            going_on = ""
            if ctx.invoked_subcommand in GO_ON:
                going_on = ": what was committed is kept, and the same command goes on from there"
            is_terminated = isinstance(error, Terminated)
            click.echo(f"{'Terminated' if is_terminated else 'Interrupted'}{going_on}.", err=True)
            ctx.exit(TERMINATED if is_terminated else INTERRUPTED)

    def _flags(self, ctx: click.Context, error: LabelStoreError) -> list[str]:
        """The options of the command that is run which set the arguments an error speaks of."""
        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        if command is None:
            return []
        flags = flags_of(command)
        names = [OPTION_OF.get(name, name) for name in error.arguments]
        return [flags[name] for name in names if name in flags]


@contextlib.contextmanager
def _told_as_json(as_json: bool) -> Iterator[None]:
    """What click refuses is printed by click, made printable, and as JSON where that is wanted."""
    try:
        yield
    except click.ClickException as error:
        if as_json:
            click.echo(_error_json(UsageError.kind, error.format_message()))
        error.message = output.printable(error.message)  # type: ignore[misc]
        raise


def _error_json(kind: str, message: str, more: Mapping[str, Any] | None = None) -> str:
    """As schemas/error.schema.json has it."""
    return output.text_of_json({"error": {"kind": kind, "message": message, **(more or {})}})


@click.group(
    "labelstore", cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="labelstore")
def main() -> None:
    """Nothing is done before a command is run."""
