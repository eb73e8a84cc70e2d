"""Pages for a browser: one file each, which holds its data, its scripts and its pictures.

A page is put together of the files in ``templates/``:

- ``skeleton.html``: the document, with places for what follows;
- ``page.css``, ``page.js``: what all pages share: colours, light and dark, and the global ``page``
  of helpers that make elements, charts and tables (its head says which);
- ``NAME.js`` and, where there is one, ``NAME.css``: one kind of page, a function of ``page.data``;
- ``vendor/``: D3 and Observable Plot, as their authors publish them, with their licences.

No request leaves a page: its content security policy allows its own scripts, by their digests, and
pictures that lie in it, and nothing else. What came from a store is data: it stands in the page as
JSON that no HTML parser ends early, and ``page.js`` turns it into text, never into markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError
from labelstore.storage import local_files

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_replaceable", "render", "write"]

GENERATOR = '<meta name="generator" content="labelstore">'
"""What a page of ours says near its start."""

_HEAD_BYTES = 2048
"""Where ``GENERATOR`` is looked for."""

_VENDOR = (("d3.min.js", "d3.LICENSE"), ("plot.umd.min.js", "plot.LICENSE"))

_PLACE = re.compile(r"\{\{(\w+)\}\}")

_IN_SCRIPT = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
"""In JSON these stand in strings alone. Without them no text ends the element that holds it
(``</script>``), or has the parser look for another end (``<!--``)."""


def render(template: str, title: str, data: dict[str, Any]) -> str:
    """A page as HTML.

    Args:
        template: the kind of page: ``NAME`` of ``templates/NAME.js``.
        title: what a browser calls it; any text.
        data: what its script finds as ``page.data``: whatever JSON has. NaN and infinity it has
            not: give None.

    Returns:
        the document, to be written as UTF-8.

    Raises:
        ValueError: NaN or infinity among the data.
    """
    style = _template("page.css") + _optional(f"{template}.css")
    scripts = [*_vendored(), _template("page.js"), _template(f"{template}.js")]
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    parts = {
        "title": html.escape(_printable(title)),
        "generator": GENERATOR,
        "policy": (
            f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    return _PLACE.sub(lambda place: parts[place[1]], _template("skeleton.html"))


def check_replaceable(path: Path, overwrite: bool = False) -> None:
    """Refuse to replace what is not a page of labelstore's.

    Raises:
        UsageError: there is such a file and ``overwrite`` is not set; or a folder has the name, or
            the folder that it is to lie in does not exist.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, expected the name of a file: name one in it.")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist: make it first.")
    if overwrite or not path.exists():
        return
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(
            f"{path} is there and cannot be read ({error.strerror}): name another file."
        ) from error
    if GENERATOR.encode() not in start:
        raise UsageError(
            f"{path} is there and is no page of labelstore's: name another file, or replace it "
            "with --overwrite."
        )


def write(path: Path, document: str, overwrite: bool = False) -> None:
    """Write a page: whole under its name, or not at all; an older page of ours is replaced.

    Raises:
        UsageError: as ``check_replaceable``. StoreError: the system refuses.
    """
    check_replaceable(path, overwrite)
    local_files.write_whole(path, document.encode())


def _printable(text: str) -> str:
    """Text on one line, without what turns the direction of writing; ``page.js`` does likewise."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in text
    )


@functools.cache
def _template(name: str) -> str:
    place = resources.files("labelstore.pictures").joinpath("templates", *name.split("/"))
    return place.read_text(encoding="utf-8")


def _optional(name: str) -> str:
    try:
        return _template(name)
    except FileNotFoundError:
        return ""


@functools.cache
def _vendored() -> tuple[str, ...]:
    """The scripts of others, each below its licence, as the licences ask."""
    return tuple(
        f"/*\n{_template(f'vendor/{licence}')}*/\n{_template(f'vendor/{script}')}"
        for script, licence in _VENDOR
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
