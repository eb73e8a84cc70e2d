"""The rate-distortion benchmark: peers' files, entropy estimates, and what is made of the rows."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.support import rate_report
from benchmarks.support.entropy import adaptive_bits, interleaved, plug_in_bits
from benchmarks.support.measuring import size_of
from benchmarks.support.peer_files import PEERS, Labels
from benchmarks.support.photos_and_teachers import photo_folder
from benchmarks.support.rate_measures import Setting, make, read_all, weigh

ROOT = Path(__file__).parents[2]

IMAGES, VIEWS, CLASSES = 3, 7, 1000
BY_NAME = {peer.name: peer for peer in PEERS}


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    logits = 2.0 * rng.gumbel(size=(IMAGES, 1, CLASSES)) + rng.gumbel(size=(IMAGES, VIEWS, CLASSES))
    powers = np.exp(logits)
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(truth):
    order = np.argsort(-truth, axis=-1, kind="stable")[..., :100]
    rng = np.random.default_rng(1)
    return Labels(
        order,
        np.take_along_axis(truth, order, axis=-1),
        rng.integers(0, 200, (IMAGES, VIEWS, 4)),
        rng.random((IMAGES, VIEWS)) < 0.5,
        (375, 500),
        CLASSES,
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_what_a_peer_wrote_comes_back_as_its_number_type_allows(peer, labels, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    peer.write(folder, labels)
    ids, probs = peer.read(folder, labels)
    given = labels.top(peer.k)
    np.testing.assert_array_equal(ids, given[0])
    if "fp32" in peer.name or "ml-dr" in peer.name:
        np.testing.assert_array_equal(probs, given[1])
    elif "DistillKit" in peer.name:
        # bfloat16 keeps 8 bits of a logarithm, the first of them implied.
        assert (np.abs(np.log(probs) - np.log(given[1])) <= -np.log(given[1]) / 256 + 1e-6).all()
    else:
        np.testing.assert_array_equal(probs, given[1].astype(np.float16))


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_recovery_is_marginal_smoothing(peer, labels):
    ids, probs = labels.top(peer.k)
    dense = peer.recover((ids, probs), CLASSES).dense()
    for image, view in ((0, 0), (2, 6)):
        stored = probs[image, view].astype(np.float64)
        expected = np.full(CLASSES, (1 - stored.sum()) / (CLASSES - peer.k))
        expected[ids[image, view]] = stored
        np.testing.assert_allclose(dense[image, view], expected, atol=2e-7)


def test_labels_that_sum_to_more_than_one():
    ids = np.arange(5)[None, None]
    probs = np.array([[[0.99, 0.02, 0.0, 0.0, 0.0]]], dtype=np.float32)
    assert BY_NAME["FKD top-5 fp32"].recover((ids, probs), CLASSES).base[0, 0] < 0
    soft = BY_NAME["ml-dr top-5 tar.gz"].recover((ids, probs), CLASSES)
    powers = np.exp(probs[0, 0].astype(np.float64))
    np.testing.assert_allclose(soft.dense()[0, 0, :5], powers / powers.sum(), rtol=1e-6)
    assert soft.base[0, 0] == 0


def test_sizes_of_records(labels, tmp_path):
    for name in ("TinyViT top-10", "DistillKit top-5"):
        (tmp_path / name).mkdir()
        BY_NAME[name].write(tmp_path / name, labels)
    records = list((tmp_path / "TinyViT top-10").rglob("*.bin"))
    assert len(records) == VIEWS
    assert {file.stat().st_size for file in records} == {44 * IMAGES}
    table = pq.read_table(tmp_path / "DistillKit top-5" / "data_0.parquet")
    row = table.to_pylist()[1]
    sizes = [len(one) + len(two) for one, two in zip(*row.values(), strict=True)]
    assert sizes == [17] * VIEWS


def test_entropy_of_known_sequences():
    even = np.tile(np.arange(4), 256)
    assert plug_in_bits(even, np.zeros_like(even)) == pytest.approx(2 * 1024)
    assert plug_in_bits(even, even) == pytest.approx(0)
    skewed = np.repeat([0, 0, 0, 1], 100)
    expected = -400 * (0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert plug_in_bits(skewed, np.zeros_like(skewed)) == pytest.approx(expected)
    assert adaptive_bits(even, [np.zeros_like(even)], 4) == pytest.approx(2 * 1024, rel=0.01)


def test_the_adaptive_code_can_be_decoded():
    """Kraft's sum over all sequences of one length is exactly 1."""
    levels = [np.zeros(5, dtype=int), np.array([0, 1, 0, 1, 0])]
    total = sum(
        2.0 ** -adaptive_bits(np.array(sequence), levels, 3)
        for sequence in itertools.product(range(3), repeat=5)
    )
    assert total == pytest.approx(1)


def test_interleaving_keeps_few_views_of_an_image_in_a_row():
    codes = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    mixed = interleaved(codes, 2)
    rows = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    np.testing.assert_array_equal(mixed[0], [codes[image, view] for image, view in rows])


@pytest.mark.parametrize("suffix", ["zarr", "parquet"])
def test_stores_are_weighed_whole(truth, labels, tmp_path, suffix):
    setting = Setting(3, "ratio16", top_p=0.95)
    store = make(tmp_path / f"s.{suffix}", truth, labels.indices, setting)
    weights = weigh(store)
    whole = weights["bytes_per_crop"] * IMAGES * VIEWS + weights["fixed_bytes"]
    assert whole == pytest.approx(size_of(store.path), abs=0.001 * IMAGES * VIEWS)
    topk = read_all(store)
    kept = topk.probs > 0
    np.testing.assert_array_equal(topk.indices[kept], labels.indices[..., :3][kept])
    before = np.cumsum(labels.probs[..., :3], axis=-1) - labels.probs[..., :3]
    np.testing.assert_array_equal(kept, before < 0.95)


def table_of(rows, peer_kl):
    return {
        "teacher": "t",
        "photos": "p",
        "views": 500,
        "temperature": 1.0,
        "labelstore": [
            {"setting": name, "bytes_per_crop": size, "kl_nats": kl} for name, size, kl in rows
        ],
        "peers": [
            {"peer": f"FKD top-{k} fp32", "bytes_per_crop": 50.0, "kl_nats": peer_kl}
            for k in (5, 10)
        ],
    }


def test_targets_take_the_fewest_bytes_at_no_worse_distance():
    table = table_of([("a", 1.0, 0.3), ("b", 1.6, 0.2), ("c", 9.0, 0.1)], peer_kl=0.2)
    five, ten = rate_report.targets([table])
    assert (five["setting"], five["met"]) == ("b", False)
    assert (ten["setting"], ten["met"]) == ("b", True)
    share = rate_report.against_peers([table])[0]
    assert (share["share"], share["met"]) == (0.032, True)


def test_a_peer_that_no_setting_reaches_is_told():
    table = table_of([("a", 1.0, 0.3)], peer_kl=0.2)
    assert [row["met"] for row in rate_report.targets([table])] == [False, False]
    assert rate_report.against_peers([table])[0]["share"] is None


def test_a_set_that_cannot_be_had_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert photo_folder("stamps", tmp_path / "cache", 3) is None
    assert "left out: the photos of stamps" in capsys.readouterr().out


@pytest.mark.slow
def test_the_small_run(tmp_path):
    pytest.importorskip("foolbox")
    out = tmp_path / "rate.json"
    command = [sys.executable, "-m", "benchmarks.rate_distortion", "--small"]
    subprocess.run(
        [*command, "--cache", str(tmp_path / "cache"), "--out", str(out)], check=True, cwd=ROOT
    )
    result = json.loads(out.read_text())
    assert [table["temperature"] for table in result["tables"]] == [1.0, 0.5]
    for table in result["tables"]:
        rows = {row["setting"]: row for row in table["labelstore"]}
        # More classes are nearer to the teacher, and no class is the largest but the teacher's.
        assert rows["k=10, ratio32"]["kl_nats"] < rows["small: k=1, ratio16"]["kl_nats"]
        assert all(row["top1_kept"] > 0.99 for row in rows.values())
    assert all(row["same_action"] >= 0.999 for row in result["confidence"])
    assert out.with_suffix(".md").read_text().startswith("# ")
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
