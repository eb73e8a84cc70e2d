"""The manifest's three gates, one test for each way to be wrong."""

from __future__ import annotations

import copy

import pytest

from labelstore.errors import CorruptError, FormatError, UsageError
from labelstore.format.manifest import Manifest, differences
from tests.support.stores import planned


@pytest.fixture
def document():
    return planned()[0].to_json()


def changed(document, path, value):
    document = copy.deepcopy(document)
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def test_round_trip(document):
    manifest = Manifest.from_json(document, "here")
    assert manifest == planned()[0]
    assert manifest.id == document["id"]
    assert manifest.to_json() == document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], "other"),
        (["format_version"], 3),
        (["format_version"], "1"),
        (["format_version"], KeyError),
    ],
)
def test_another_format_or_version(document, path, value):
    with pytest.raises(FormatError) as caught:
        Manifest.from_json(changed(document, path, value), "here")
    assert "here" in str(caught.value)


@pytest.mark.parametrize("value", [None, [], 3, "x", {"format": "labelstore", "state": "creating"}])
def test_what_is_no_manifest(value):
    with pytest.raises(FormatError):
        Manifest.from_json(value, "here")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["id"], KeyError),
        (["id"], "xyz"),
        (["images"], KeyError),
        (["images", "count"], 0),
        (["images", "count"], 1.5),
        (["images", "count"], "20"),
        (["views", "law", "scale"], [0.1]),
        (["views", "law"], "other"),
        (["labels", "quantizer"], "u7"),
        (["labels", "temperature"], 0),
        (["labels", "k"], -1),
        (["labels", "extra"], 1),
        (["layout", "block_images"], None),
        (["probe"], [{"key": "a"}]),
        (["producer"], {"torch": 2}),
    ],
)
def test_a_malformed_manifest(document, path, value):
    with pytest.raises(CorruptError, match="malformed"):
        Manifest.from_json(changed(document, path, value), "here")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["images", "count"], 21),
        (["labels", "k"], 2),
        (["views", "law", "seed"], 2),
        (["labels", "temperature"], 2.0),
        (["id"], "0" * 32),
    ],
)
def test_a_changed_manifest(document, path, value):
    with pytest.raises(CorruptError, match="digest"):
        Manifest.from_json(changed(document, path, value), "here")


@pytest.mark.parametrize(("path", "value"), [(["images", "count"], 20.0), (["probe"], ())])
def test_what_equals_a_document_that_fitted_is_looked_at_again(document, path, value):
    Manifest.from_json(document, "here")
    like = changed(document, path, value)
    assert like == document or value == ()
    with pytest.raises(CorruptError, match=f"malformed at {'/'.join(path)}"):
        Manifest.from_json(like, "here")
    assert Manifest.from_json(document, "here").id == document["id"]


def test_differences_name_every_setting():
    one, two = planned()[0], planned(k=2, quantizer="u8")[0]
    assert differences(one, one) == []
    lines = differences(one, two)
    assert 'labels.quantizer: stored "ratio16", asked for "u8"' in lines
    assert "labels.k: stored 3, asked for 2" in lines


def test_blocks_and_groups_cover_everything():
    manifest = planned()[0]
    assert [manifest.block_slice(block) for block in range(manifest.num_blocks)] == [
        slice(0, 8),
        slice(8, 16),
        slice(16, 20),
    ]
    assert [manifest.group_slice(group) for group in range(manifest.num_groups)] == [
        slice(0, 4),
        slice(4, 6),
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": 31}, {"views": 0}, {"views": 70_000}, {"prior_size": 31}, {"top_p": 0.0}],
)
def test_numbers_that_make_no_store(wrong):
    with pytest.raises(UsageError):
        Manifest(
            **{
                "num_images": 3,
                "num_views": wrong.pop("views", 2),
                "num_classes": 30,
                "k": 3,
                "fingerprint": "0" * 32,
                "law": None,
                "block_images": 2,
                "group_views": 2,
                **wrong,
            }
        )
