"""A hook of mkdocs: what the site has beside the pages of docs/.

Files outside docs/ that pages link to (``../schemas/SPEC.md``): the site has them at the same path
below its root, and the links are changed to lead there. And the help of each command, as the
command prints it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from mkdocs.structure.files import File

from labelstore.cli.main import main

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "benchmarks/results/*.md",
    "benchmarks/results/*.png",
    "examples/*.py",
    "schemas/SPEC.md",
)
"""What is taken into the site, as patterns below the repository's root."""

HELP_MARK = "<!-- help of each command -->"
WIDTH = 100
"""Columns of the commands' help."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the commands' help in, and lead links that leave docs/ to where the site has these files.

    Files from outside stay as they are.
    """
    if page.file.src_uri.startswith(("benchmarks/", "schemas/")):
        return markdown
    up = "../" * page.file.src_uri.count("/")
    folders = "|".join(sorted({pattern.split("/")[0] for pattern in OUTSIDE}))
    markdown = re.sub(rf"\]\({re.escape(up)}\.\./({folders})/", rf"]({up}\1/", markdown)
    return markdown.replace(HELP_MARK, commands_help()) if HELP_MARK in markdown else markdown


def commands_help() -> str:
    """A section for each command with what its ``--help`` prints."""
    with main.make_context("labelstore", ["demo"], max_content_width=WIDTH) as top:
        return "\n\n".join(
            f"## {name}\n\n```text\n{help_of(name, top)}\n```" for name in main.list_commands(top)
        )


def help_of(name: str, top: click.Context) -> str:
    """What ``labelstore NAME --help`` prints, on a page of ``WIDTH`` columns."""
    command = main.get_command(top, name)
    context = click.Context(
        command, parent=top, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
    )
    return command.get_help(context)
