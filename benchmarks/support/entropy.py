"""How many bits a sequence of codes needs, estimated from both sides, and what compressors take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numcodecs import Blosc, Zstd

__all__ = ["adaptive_bits", "compressed_bytes", "contexts_of", "interleaved", "plug_in_bits"]

COMPRESSORS: dict[str, Any] = {
    "blosc zstd 3": Blosc("zstd", 3, Blosc.SHUFFLE),
    "blosc zstd 5": Blosc("zstd", 5, Blosc.SHUFFLE),
    "blosc zstd 9": Blosc("zstd", 9, Blosc.SHUFFLE),
    "blosc zstd 9, bit shuffle": Blosc("zstd", 9, Blosc.BITSHUFFLE),
    "zstd 3": Zstd(3),
    "zstd 9": Zstd(9),
    "zstd 19": Zstd(19),
}
"""What each array of codes is tried with."""


def plug_in_bits(symbols: np.ndarray, contexts: np.ndarray) -> float:
    """Sum of ``-log2(count of symbol in its context / count of context)``: too low an estimate.

    That is n H(symbol | context) with H the entropy of the sample itself (its plug-in estimate):
    nothing is paid for learning the distributions, so many contexts make it look better than any
    code can be.

    Args:
        symbols: (n,) integers; contexts: (n,) integers.
    """
    _, context = np.unique(contexts, return_inverse=True)
    _, pair = np.unique(np.stack([context, symbols]), axis=1, return_inverse=True)
    pairs = np.bincount(pair.reshape(-1)).astype(np.float64)
    totals = np.bincount(context).astype(np.float64)
    return float((totals * np.log2(totals)).sum() - (pairs * np.log2(pairs)).sum())


def adaptive_bits(symbols: np.ndarray, levels: list[np.ndarray], alphabet: int) -> float:
    """Bits of an adaptive code of the symbols in order: an upper bound, since it can be decoded.

    A symbol's probability is that of its finest context so far, blended with that of the next
    coarser one as Dirichlet smoothing does: ``(count + strength * coarser) / (total + strength)``,
    the coarsest with an even distribution over the alphabet.

    Args:
        symbols: (n,) integers below ``alphabet``.
        levels: contexts (n,) from coarse to fine.
    """
    strength = 2.0
    counts: list[dict[tuple[int, int], int]] = [{} for _ in levels]
    totals: list[dict[int, int]] = [{} for _ in levels]
    bits = np.empty(len(symbols))
    rows = zip(symbols.tolist(), *[level.tolist() for level in levels], strict=True)
    for place, (symbol, *contexts) in enumerate(rows):
        chance = 1.0 / alphabet
        for count, total, context in zip(counts, totals, contexts, strict=True):
            pair = (context, symbol)
            seen = count.get(pair, 0)
            chance = (seen + strength * chance) / (total.get(context, 0) + strength)
            count[pair] = seen + 1
            total[context] = total.get(context, 0) + 1
        bits[place] = chance
    return float(-np.log2(bits).sum())


def contexts_of(codes: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Contexts, coarse to fine, for the codes of (N, V) or (N, V, ranks) labels, flattened.

    Returns:
        ``previous``: the rank, then rank and the code before it in the label; ``image``: the rank,
        then rank and image. Both for codes in the order (image, view, rank).
    """
    ranked = codes[..., None] if codes.ndim == 2 else codes
    images, _, ranks = ranked.shape
    rank = np.broadcast_to(np.arange(ranks), ranked.shape)
    image = np.broadcast_to(np.arange(images)[:, None, None], ranked.shape)
    before = np.zeros(ranked.shape, dtype=np.int64)
    before[..., 1:] = ranked[..., :-1].astype(np.int64) + 1
    coarse = rank.reshape(-1)
    return {
        "previous": [coarse, (rank + ranks * before).reshape(-1)],
        "image": [coarse, (rank + ranks * image).reshape(-1)],
    }


def interleaved(codes: np.ndarray, together: int) -> np.ndarray:
    """Codes (N, V, ...) in the order of runs of ``together`` views, image by image, run by run.

    A chunk of a large store has few views of each of many images. These are as few in a row, though
    of few images that come again; a remainder of views is left out.

    Returns:
        (1, N V', ...) with V' = V down to a multiple of ``together``.
    """
    images, views, *rest = codes.shape
    runs = views // together
    parts = codes[:, : runs * together].reshape(images, runs, together, *rest)
    return parts.swapaxes(0, 1).reshape(1, -1, *rest)


def compressed_bytes(codes: np.ndarray, group_views: int) -> dict[str, int]:
    """Bytes that each of ``COMPRESSORS`` makes of codes (N, V, ...), a group of views at a time."""
    groups = [
        np.ascontiguousarray(codes[:, start : start + group_views])
        for start in range(0, codes.shape[1], group_views)
    ]
    # Without blosc's shuffle the bytes of wider codes are put beside each other here.
    planes = [
        np.ascontiguousarray(group.reshape(-1).view(np.uint8).reshape(-1, group.itemsize).T)
        for group in groups
    ]
    return {
        name: sum(
            len(compressor.encode(group.reshape(-1)))
            for group in (groups if isinstance(compressor, Blosc) else planes)
        )
        for name, compressor in COMPRESSORS.items()
    }
