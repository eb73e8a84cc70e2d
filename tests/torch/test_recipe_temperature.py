"""A recipe's temperature is that of the labels which its student sees."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import labelstore
from labelstore.errors import FallbackWarning, UsageError
from labelstore.images.sources.folder import FolderSource
from labelstore.labels.ferkd import FerKD
from labelstore.labels.temperature import at_temperature
from labelstore.torch import Show, SoftLabelDataset
from tests.support.training import make_store

IMAGE, VIEWS = 5, (0, 2)


def stored_labels(store):
    return store.read(IMAGE, np.array(VIEWS))


def labels_of(photos, store, recipe):
    arguments = recipe.dataset_arguments() | {"phases": None}
    return SoftLabelDataset(photos, store, check_pixels=False, **arguments)[Show(IMAGE, VIEWS)][
        1
    ].dense()


@pytest.fixture
def warm(work, tmp_path):
    keys = list(FolderSource(work.photos).keys)
    return make_store(tmp_path / "warm.zarr", work.photos, keys, temperature=20.0)


@pytest.mark.parametrize("name", ["hald", "kd"])
def test_labels_of_another_temperature_are_brought_to_the_recipe_s(photos, store, warm, name):
    changes = {} if name == "hald" else {"hard_weight": 0.5, "temperature": 20.0}
    with pytest.warns(FallbackWarning, match=r"of temperature 1 and recipe .* trains at 20"):
        recipe = labelstore.recipe(name, store, **changes)
    stored = stored_labels(store)
    expected = at_temperature(stored, 20.0).dense()
    np.testing.assert_array_equal(labels_of(photos, store, recipe), expected)
    assert abs(expected - stored.recover().dense()).max() > 0.1
    # Of a store at that temperature they are what is stored, recovered here or on the device.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert labelstore.recipe(name, warm, **changes) == recipe
        expected = stored_labels(warm).recover().dense()
        np.testing.assert_array_equal(labels_of(photos, warm, recipe), expected)
        SoftLabelDataset(photos, warm, labels="stored", **recipe.dataset_arguments())
    with pytest.raises(UsageError, match='labels is "stored" and temperature is 20'):
        SoftLabelDataset(photos, store, labels="stored", **recipe.dataset_arguments())


def test_what_cannot_be_brought_to_a_temperature_is_refused(photos, store, tmp_path):
    for changes in ({"ferkd": FerKD()}, {"label_type": "label-smoothing"}):
        recipe = labelstore.recipe("fkd", temperature=4.0, **changes)
        with pytest.raises(UsageError, match="make a store at it"):
            labels_of(photos, store, recipe)


def test_at_1_labels_are_as_the_store_has_them(photos, warm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = labelstore.recipe("fkd", warm)
    expected = stored_labels(warm).recover().dense()
    np.testing.assert_array_equal(labels_of(photos, warm, recipe), expected)
