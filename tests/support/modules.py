"""The modules of the library, and what they import."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]


def modules():
    """Dotted name of each module of the library and its file."""
    for folder in ("labelstore", "cli"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if folder == "cli":
                parts = ("labelstore", *parts)
            yield ".".join(part for part in parts if part != "__init__"), file


MODULES = dict(modules())


def origin_of(node, module):
    """What an import statement of a module imports from; dots count from the module."""
    if not node.level:
        return node.module
    parts = module.split(".")
    if MODULES[module].stem == "__init__":
        parts.append("")
    return ".".join([*parts[: -node.level], *filter(None, [node.module])])


def imports_of(source, *, ours, module=""):
    """Modules that a module imports, wherever it does: of this library, or of others."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = origin_of(node, module)
            # What is imported of a package may be a module of it.
            names = [f"{package}.{name.name}" for name in node.names]
            names = [name if name in MODULES else package for name in names]
        yield from (name for name in names if (name.split(".")[0] == "labelstore") == ours)


@functools.cache
def imports_in(name, *, ours):
    """The set of what ``imports_of`` gives of a module of the library; it is parsed once."""
    return frozenset(imports_of(MODULES[name].read_text(), ours=ours, module=name))


def package_of(name):
    return name.split(".")[1] if "." in name else ""
