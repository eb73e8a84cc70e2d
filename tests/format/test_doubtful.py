"""The quick look at codes leaves out no label that is none, and hardly any other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from labelstore.format import codecs, doubtful, validity
from labelstore.format.arrays import view_arrays
from labelstore.format.encoding import encode_labels
from labelstore.format.manifest import Manifest

IMAGES, VIEWS, CLASSES, LISTED, EMPTY = 8, 4, 40, 6, 65535
COMPILED = doubtful._compiled()

needs_compiled = pytest.mark.skipif(COMPILED is None, reason="the compiled part was not built here")

KINDS = [
    (stored, k, listed)
    for stored, k, listed in itertools.product(
        [*codecs.QUANTIZERS, "plain"], (1, 5, 10, 20), (0, LISTED)
    )
    if not (stored == "plain" and listed)
]


def manifest_of(stored, k, listed):
    plain = stored == "plain"
    return Manifest(
        IMAGES, VIEWS, CLASSES, k, "", None, IMAGES, VIEWS, prior_size=listed,
        quantizer="fp32" if plain else stored, encoding="plain" if plain else "codes",
    )  # fmt: skip


def labels(manifest, rng):
    """Codes of honest labels by array name, hard and cut ones among them, and of their lists, some
    with an empty place."""
    shape, k = (IMAGES, VIEWS), manifest.k
    lists = np.argsort(rng.random((IMAGES, CLASSES)), axis=-1)[:, : manifest.prior_size]
    lists[::2, -1:] = -1
    ids = np.argsort(rng.random((*shape, CLASSES)), axis=-1)
    for image, view in np.ndindex(shape):
        # Most classes are in the image's list.
        listed = rng.permutation(lists[image, : LISTED - 1])
        ids[image, view] = list(dict.fromkeys([*listed, *ids[image, view]]))
    probs = np.sort(rng.dirichlet(np.full(k + 1, 0.5), shape)[..., :k], axis=-1)[..., ::-1]
    probs = np.where(np.arange(k) < rng.integers(1, k + 1, (*shape, 1)), probs, 0)
    probs[0, 0] = [1.0] + [0.0] * (k - 1)
    codes = encode_labels(ids[..., :k], probs.astype(np.float32), lists.astype(np.int32), manifest)
    stored = {spec.name: codes[spec.name].astype(spec.dtype) for spec in view_arrays(manifest)}
    return stored, np.where(lists < 0, EMPTY, lists).astype(np.uint16)


def is_label(codes, listed, manifest):
    """The definition, one number at a time: codes (...) of a label and (m,) of its image's list."""
    top, classes = codes["labels/top_prob"], codes["labels/classes"].astype(int)
    rest = codes.get("labels/rest_probs", np.empty(0, dtype=top.dtype))
    quantizer = codecs.get(manifest.quantizer)
    if not (quantizer.top.holds(top[None]) and quantizer.rest.holds(rest)):
        return False
    probs = quantizer.decode(top[None], rest[None])[0].astype(np.float64)
    if any(after > before for before, after in itertools.pairwise(probs)):
        return False
    if sum(probs) > 1 + 1e-6 or (classes >= CLASSES + len(listed)).any():
        return False
    left, named = [int(name) for name in listed if name != EMPTY], []
    for place, (code, prob) in enumerate(zip(classes, probs, strict=True)):
        if prob == 0 and place:
            continue
        if code >= len(listed):
            name = code - len(listed)
        elif code < len(left):
            name = left.pop(code)
        else:
            return False
        named.append(name if prob > 0 else -1)
    return len(set(named)) == len(named)


def damage(label, listed, rng):
    """Change a code or two of a label, (entries,) of each array, to one that is at an edge."""
    for _ in range(rng.integers(1, 3)):
        name = rng.choice(list(label))
        array = label[name]
        place, other = rng.integers(array.size), array[rng.integers(array.size)].item()
        if array.dtype.kind == "f":
            edges = [np.nan, np.inf, -np.inf, -0.0, 0, 1, 1 + 1e-6, 1.1, -1e-7, 0.5, other]
        elif name == "labels/classes":
            ends = [CLASSES - 1, CLASSES, len(listed) - 1, len(listed) - 2, *listed.tolist()]
            edges = [other, 0, EMPTY, *ends, *(len(listed) + end for end in ends)]
        else:
            edges = [0, 1, 16, 17, 32, 33, 0x3C00, 0x3C01, 0x8000, -1, -2, other, other + 1]
            edges += [array[place].item() + 1, array[place].item() - 1]
        edge = edges[rng.integers(len(edges))]
        if array.dtype.kind == "f":
            array[place] = edge
        else:
            array.view(f"u{array.itemsize}")[place] = edge % 256**array.itemsize


@pytest.mark.parametrize(("stored", "k", "listed"), KINDS)
def test_damaged_labels(monkeypatch, stored, k, listed):
    """The compiled look, and none, tell the same of labels as the definition does."""
    manifest, rng = manifest_of(stored, k, listed), np.random.default_rng(k + listed)
    specs, unreadable = view_arrays(manifest), np.zeros(IMAGES, dtype=bool)
    honest, lists = labels(manifest, rng)

    def told(codes, compiled):
        monkeypatch.setattr(doubtful, "_compiled", lambda: COMPILED if compiled else None)
        return validity.label_problem(codes, specs, lists, unreadable, manifest)

    assert told(honest, compiled=False) is told(honest, compiled=True) is None
    found = set()
    for _ in range(40):
        codes = {name: part.copy() for name, part in honest.items()}
        places = rng.integers(IMAGES * VIEWS, size=2)
        for place in places:
            rows = {name: part.reshape(IMAGES * VIEWS, -1) for name, part in codes.items()}
            damage({name: part[place] for name, part in rows.items()}, lists[place // VIEWS], rng)
        sound = True
        for place in places:
            row, view = divmod(place, VIEWS)
            sound &= is_label(
                {n: part[row, view] for n, part in codes.items()}, lists[row], manifest
            )
        problem = told(codes, compiled=False)
        assert (problem is None) == sound
        assert told(codes, compiled=True) == problem
        found.add(problem)
    assert len(found) >= 2


@needs_compiled
@pytest.mark.parametrize(("stored", "k", "listed"), KINDS)
def test_few_honest_labels_are_in_doubt(stored, k, listed):
    manifest, rng = manifest_of(stored, k, listed), np.random.default_rng(1)
    codes, lists = labels(manifest, rng)
    places = doubtful.doubtful_labels([(codes, lists)], manifest)
    # A list of six classes is short: many ranks are near its end.
    assert len(places) <= (IMAGES * VIEWS if listed else 2)


@needs_compiled
def test_what_does_not_find_what_is_wrong_is_not_used():
    class Blind:
        def doubtful(self, *arguments):
            return COMPILED.doubtful(*arguments) - 1

    assert doubtful._finds(COMPILED)
    assert not doubtful._finds(Blind())


@needs_compiled
def test_arrays_that_do_not_fit_are_refused():
    manifest = manifest_of("u8", 5, 0)
    codes, lists = labels(manifest, np.random.default_rng(0))
    for name, part in codes.items():
        for other in (part[1:], part[:, 1:], part[..., None]):
            with pytest.raises(ValueError, match="other shapes or types"):
                doubtful.doubtful_labels([({**codes, name: other}, lists)], manifest)
