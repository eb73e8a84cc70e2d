"""How a store came to be, as a person reads it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ... import output

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["print_history"]

MOST_SETTINGS = 300
"""Characters of a step's settings that are shown; ``--json`` has all."""


def print_history(history: Mapping[str, Any]) -> None:
    """Print what ``labelstore.operations.lifecycle.history`` tells, a line a step."""
    console, store = output.console(), history["store"]
    output.say(console, f"{store['path']} (id {store['id']})")
    teachers = history["teachers"]
    described = {teacher["spec"] for teacher in teachers}
    for name in history["teacher_names"]:
        if name not in described:
            output.say(console, f"  labels of {name}, of which the store knows the name alone")
    if not history["teacher_names"]:
        output.say(console, "  labels of a producer that is not known")
    for teacher in teachers:
        checkpoint = f" with {teacher['checkpoint']}" if teacher["checkpoint"] else ""
        output.say(
            console,
            f"  labels of {teacher['spec']}{checkpoint}, weights {teacher['weights_digest']}, on "
            f"{teacher['device']} in {teacher['precision']}",
        )
    converted = history["libraries"].get("converted from")
    if converted:
        output.say(console, f"  converted from {converted} files")
    libraries = ", ".join(f"{name} {version}" for name, version in history["libraries"].items())
    if libraries and not converted:
        output.say(console, f"  with {libraries}")
    for number, step in enumerate(history["steps"], 1):
        release = f" (labelstore {step['release']})" if step["release"] else ""
        output.say(
            console, f"{number:3}. {step['operation']}{release} of {', '.join(step['stores'])}"
        )
        settings = json.dumps(step["settings"], ensure_ascii=False)
        if step["settings"]:
            cut = f"{settings[:MOST_SETTINGS]}..." if len(settings) > MOST_SETTINGS else settings
            output.say(console, f"     {cut}")
