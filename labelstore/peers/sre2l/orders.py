"""Which photo each label of SRe2L's and LPLD's files is of: files of labels do not say it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from labelstore.peers.pickles.safe_pickle import MEND, read_bytes
from labelstore.storage.untrusted import parsed

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["ORDERS", "SEED", "sampled_orders", "stored_orders"]

SEED = 42
"""``--fkd-seed`` of both projects, unless somebody changed it: files do not say it."""

ORDERS = "sampler_indices_epoch.json"
"""LPLD's file of the orders."""


def sampled_orders(num_photos: int, epochs: int) -> list[npt.NDArray[np.int64]]:
    """The order of the photos in each epoch, as ``torch.utils.data.RandomSampler`` draws it.

    Returns:
        for each epoch (photos,) int64, the place in ``ImageFolder`` of each label.
    """
    import torch

    generator = torch.Generator()
    generator.manual_seed(SEED)
    sampler = torch.utils.data.RandomSampler(range(num_photos), generator=generator)
    # To its end each time, where it draws once more.
    return [np.asarray(list(sampler)) for _ in range(epochs)]


def stored_orders(file: Path, epochs: int) -> list[npt.NDArray[np.int64]]:
    """The order of each epoch that LPLD wrote.

    Raises:
        CorruptError: it is damaged, or has no order for one of the epochs.
    """
    with parsed(file, MEND):
        document = json.loads(read_bytes(file))
        orders = []
        for epoch in range(epochs):
            # No object of epochs has none of them either.
            order = np.asarray(dict(document).get(str(epoch), []))
            if order.ndim != 1 or not order.size or order.dtype.kind != "i":
                raise ValueError(f"it has no list of photos for epoch {epoch}")
            if order.min() < 0 or np.unique(order).size != order.size or order.max() >= 2**31:
                raise ValueError(f"epoch {epoch} names a photo twice, or one that cannot be")
            orders.append(order)
        return orders
