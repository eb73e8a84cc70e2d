"""A rule over stored codes says what it says of the confidences that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from labelstore import FerKD
from labelstore.format import codecs
from labelstore.format.encoding import decode_confidence
from labelstore.format.manifest import Manifest
from labelstore.labels.calibration.thresholds import ClassThresholds
from labelstore.training.planning import coded_rules
from labelstore.training.planning.coded_rules import decided, decided_codes

IMAGES, VIEWS, CLASSES = 90, 41, 7


def manifest_of(quantizer: str, encoding: str) -> Manifest:
    return Manifest(
        num_images=IMAGES,
        num_views=VIEWS,
        num_classes=CLASSES,
        k=2,
        fingerprint="0" * 32,
        law=None,
        block_images=IMAGES,
        group_views=VIEWS,
        quantizer=quantizer,
        encoding=encoding,  # type: ignore[arg-type]
    )


@pytest.fixture(params=[True, False], ids=["compiled", "numpy"])
def compiled(request, monkeypatch):
    """Whether the compiled part decides."""
    part = coded_rules._compiled()
    if request.param and part is None:
        pytest.skip("not built")
    monkeypatch.setattr(coded_rules, "_compiled", lambda: part if request.param else None)


@pytest.mark.parametrize("quantizer", sorted(codecs.QUANTIZERS))
@pytest.mark.parametrize("encoding", ["codes", "plain"])
def test_codes_are_decided_as_their_values(quantizer, encoding, compiled):
    rng, manifest = np.random.default_rng(3), manifest_of(quantizer, encoding)
    grid = codecs.get(quantizer).top
    probs = rng.random((IMAGES, VIEWS)).astype(np.float32)
    probs[:3] = [[0.0], [1.0], [0.15]]
    codes = probs if encoding == "plain" else grid.nearest(probs).astype(grid.dtype)
    values = decode_confidence(codes, manifest)
    truths = rng.integers(-1, CLASSES, (IMAGES, 1)).astype(np.int32)
    held = rng.random(IMAGES) < 0.9
    if encoding == "codes":
        codes[~held] = grid.fill
    values[~held] = np.nan
    # Thresholds that views lie on, beside those that none does.
    on = np.sort(rng.choice(values[held].ravel(), 3))
    own = [np.sort(rng.choice(values[held].ravel(), 3)) for _ in range(2)]
    by_class = ClassThresholds(CLASSES, (0, 5), *np.array(own, dtype=np.float64).T)
    rules = [
        FerKD(),
        FerKD(*on.tolist()),
        FerKD(0.0, 0.0, 1.0),
        FerKD(1.0, 1.0, 1.0),
        FerKD(0.0, 0.0, 0.0),
        FerKD(*on.tolist(), by_class=by_class),
    ]
    counted = set()
    for rule in rules:
        expected = decided(rule, values, truths)
        actual = decided_codes(rule, codes, truths, held, manifest)
        np.testing.assert_array_equal(actual.passes, expected.passes)
        np.testing.assert_array_equal(actual.calibrated, expected.calibrated)
        assert actual.counts == expected.counts == rule.count(values, truths)
        assert actual.counts.views == held.sum() * VIEWS
        counted.add(actual.counts)
    assert len(counted) >= 4


@pytest.mark.skipif(coded_rules._compiled() is None, reason="not built")
@pytest.mark.parametrize("dtype", ["|u1", "<u2"])
@pytest.mark.parametrize("views", [*range(1, 35), 255 * 16, 255 * 16 + 1, 9000])
def test_any_number_of_views_is_decided_alike(dtype, views):
    most, rng = np.iinfo(dtype).max, np.random.default_rng(views)
    codes = rng.integers(0, most, (5, views), dtype, endpoint=True)
    codes[:, :: views // 7 + 1] = most
    for edges in np.sort(rng.integers(0, most, (4, 3, 5), dtype, endpoint=True), axis=1):
        edges[:, 0], edges[1:, 1], edges[2, 2] = 0, most, most
        for own in (edges, edges[:, 4:]):
            low, middle, top = own[..., None]
            passes, changed = (codes >= low) & (codes < top), (codes >= low) & (codes < middle)
            bits = [np.full((5, -(-views // 8)), 77, dtype=np.uint8) for _ in range(2)]
            counts = coded_rules._compiled().decide(codes, own.copy(), *bits)
            assert np.array_equal(bits[0], np.packbits(passes, axis=1))
            assert np.array_equal(bits[1], np.packbits(changed, axis=1))
            assert counts == ((codes < low).sum(), changed.sum(), passes.sum())


def test_without_images_that_are_looked_at_nothing_passes():
    manifest = manifest_of("u8", "codes")
    codes = np.full((IMAGES, VIEWS), 65535, dtype="<u2")
    truths = np.zeros((IMAGES, 1), dtype=np.int32)
    actual = decided_codes(FerKD(), codes, truths, np.zeros(IMAGES, dtype=bool), manifest)
    assert not actual.passes.any()
    assert actual.counts.views == 0
