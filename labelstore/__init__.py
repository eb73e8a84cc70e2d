"""labelstore: soft labels of image classifiers, made once and read at the speed of training.

    store = labelstore.open("teacher.zarr")
    topk = store.read(images=[0, 1], views=[3, 7])  # TopK
    soft = topk.recover(tail="uniform")             # SoftLabels

Importing this package imports neither torch nor zarr nor pyarrow (nor NumPy, until the first name
is used), so that scripts and ``labelstore --help`` start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it; resolved on first use (PEP 562).
_HOMES = {
    "Action": "calibrate",
    "Batch": "batching",
    "Batches": "batching",
    "Calibrated": "calibrate",
    "Ensemble": "ensembles",
    "EnsembleFerKD": "calibrate",
    "FerKD": "calibrate",
    "LabelStoreError": "errors",
    "Recipe": "recipes",
    "SoftLabels": "labels",
    "Store": "store",
    "TopK": "labels",
    "ViewLaw": "views",
    "Views": "views",
    "at_temperature": "temperature",
    "ensemble": "ensembles",
    "open": "store",
    "open_source": "sources",
    "recipe": "recipes",
    "write": "writer",
}
_SUBMODULES = ("errors", "images", "labels", "mixing", "recipes", "temperature", "torch", "views")

__all__ = [
    "Action",
    "Batch",
    "Batches",
    "Calibrated",
    "Ensemble",
    "EnsembleFerKD",
    "FerKD",
    "LabelStoreError",
    "Recipe",
    "SoftLabels",
    "Store",
    "TopK",
    "ViewLaw",
    "Views",
    "__version__",
    "at_temperature",
    "ensemble",
    "open",
    "open_source",
    "recipe",
    "write",
]

if TYPE_CHECKING:
    from labelstore.batching import Batch, Batches
    from labelstore.calibrate import Action, Calibrated, EnsembleFerKD, FerKD
    from labelstore.ensembles import Ensemble, ensemble
    from labelstore.errors import LabelStoreError
    from labelstore.labels import SoftLabels, TopK
    from labelstore.recipes import Recipe, recipe
    from labelstore.sources import open_source
    from labelstore.store import Store, open
    from labelstore.temperature import at_temperature
    from labelstore.views import ViewLaw, Views
    from labelstore.writer import write


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"labelstore.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"labelstore.{name}")
    raise AttributeError(f"module 'labelstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_SUBMODULES])
