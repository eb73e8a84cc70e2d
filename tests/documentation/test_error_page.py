"""docs/how-to/errors.md: a section for each kind of error, and messages as the library has them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from labelstore import errors

ROOT = Path(__file__).parents[2]

PAGE = (ROOT / "docs" / "how-to" / "errors.md").read_text()

MESSAGE = re.compile(r"(?!labelstore |pip |srun |torchrun |--|-o |.*[=(])\S+ \S+ \S+")
"""A quotation of three words or more that is no command and no code."""

KINDS = {
    cls.kind: cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.LabelStoreError)
}
"""Each error class by its kind."""


def sections():
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_kind_has_a_section_with_its_class_and_exit_code():
    found = sections()
    assert set(found) == {*KINDS, "Warnings"}
    for kind, cls in KINDS.items():
        first = found[kind].strip().splitlines()[0]
        assert first.startswith(f"`{cls.__name__}`, exit code {cls.exit_code}"), kind
        assert len(found[kind]) > 100, f"the section {kind} tells nothing"
        for builtin in (ValueError, LookupError, ImportError):
            article = "an" if builtin is ImportError else "a"
            said = f"It is also {article} `{builtin.__name__}`." in found[kind]
            assert said == issubclass(cls, builtin), kind


def test_the_table_has_each_kind_once():
    rows = re.findall(r"^\| \[`([a-z-]+)`\]\(#([a-z-]+)\) \| .+ \| (\d) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(KINDS)
    assert {(kind, anchor, int(code)) for kind, anchor, code in rows} == {
        (kind, kind, cls.exit_code) for kind, cls in KINDS.items()
    }


def test_each_warning_is_told():
    names = {name for name in errors.__all__ if name.endswith("Warning")}
    assert set(re.findall(r"^\| `(\w+Warning)` ", PAGE, re.MULTILINE)) == names


def texts_in(tree):
    """Its strings, with a NUL for each value in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def messages():
    """All texts of the library."""
    files = [*(ROOT / "labelstore").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]
    return "\n".join(text for file in files for text in texts_in(ast.parse(file.read_text())))


@pytest.mark.parametrize("page", ["errors.md", "class-maps.md", "many-gpus.md"])
def test_messages_that_are_quoted_are_the_librarys(page, messages):
    """Of each quotation of several words, the longest part between values is looked for."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    quoted = [words for words in re.findall(r"`([^`]+)`", text) if MESSAGE.match(words)]
    assert len(quoted) > 0
    for words in quoted:
        parts = re.split(r"\.\.\.|'[^']*'|\w*/|\b\d+\b", words)
        longest = max((part.strip() for part in parts), key=len)
        assert longest in messages, f"{words!r}: no message has {longest!r}"
