"""The parts of labelstore that are compiled, and whether those that are here fit the code.

Each has a slower twin in Python with the same results, which is taken where a part was not built,
or was built of other sources: a checkout that is pulled and not built again has older ones.
"""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

__all__ = ["PARTS", "compiled_part", "lacking_parts"]

PARTS = {
    "labelstore.format._doubtful": 2,
    "labelstore.format.codecs._one_label": 1,
    "labelstore.format.units._unit_code": 1,
    "labelstore.format.units._unit_digests": 2,
    "labelstore.images._resample": 1,
    "labelstore.peers.pickles._latin1": 1,
    "labelstore.store.backends.zarr._chunks": 2,
    "labelstore.training.planning._coded_rules": 1,
    "labelstore.views._boxes": 1,
}
"""Each part and the number of its interface, ``INTERFACE`` in its source: one more in both places
whenever its functions, their arguments or their results become others."""


def compiled_part(name: str) -> Any:
    """A part, by its name in ``PARTS``; None where there is none that fits this code."""
    module = _imported(name)
    return module if _interface(module) == PARTS[name] else None


def lacking_parts() -> dict[str, str]:
    """By name, what is wrong with the parts that are not used and could be, in words."""
    # As setup.py has it: elsewhere there are none.
    is_built = os.name == "posix" and platform.machine() in ("x86_64", "AMD64")
    reasons = {}
    for name, number in PARTS.items():
        module = _imported(name)
        if module is None and is_built:
            reasons[name] = _refusal(name) or "not built"
        elif module is not None and _interface(module) != number:
            reasons[name] = f"built with interface {_interface(module)}, expected {number}"
    return reasons


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _refusal(name: str) -> str | None:
    """What a part that is there says where it cannot be imported; None of one that is not there."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        return str(error)
    return None


def _interface(module: Any) -> int:
    """The number of a part's interface; 0 of one that has none, as the first ones had."""
    return int(getattr(module, "INTERFACE", 0))
