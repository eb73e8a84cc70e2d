"""What a person calls a class, and which class a person means."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from labelstore.teachers.class_names import (
    human_names,
    is_wordnet_id,
    meanings,
    names_of,
    words_of,
)
from labelstore.teachers.timm_networks import imagenet_class_names


def named(*names):
    return SimpleNamespace(class_names=names)


IMAGENET = named(*imagenet_class_names())


def test_imagenets_classes_have_the_first_of_their_words():
    names = human_names(IMAGENET)
    assert len(names) == 1000
    assert (names[0], names[954], names[207]) == ("tench", "banana", "golden retriever")


def test_classes_of_the_same_word_are_told_apart():
    names = human_names(IMAGENET)
    # timm knows one word of either crane, the bird and the machine.
    assert (names[134], names[517]) == ("crane (134)", "crane (517)")
    assert (names[638], names[639]) == ("maillot", "maillot, tank suit")
    assert len(set(names)) == 1000


@pytest.mark.parametrize(
    ("subset", "count"),
    [
        ("imagenet-12k", 11_821),
        ("imagenet-21k-goog", 21_843),
        ("imagenet-21k-miil", 11_221),
        ("imagenet-22k", 21_841),
        ("imagenet-22k-ms", 21_842),
    ],
)
def test_the_larger_sets_of_timm(subset, count):
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    names = human_names(named(*info.label_names()))
    assert len(set(names)) == count
    assert not any(is_wordnet_id(name) for name in names)
    for number in range(0, count, 997):
        assert names[number].split(" (")[0].split(", ")[0] in info.index_to_description(number)


def test_other_names_stay():
    names = ("cat", "n07753592", "n99999999", "n0775359", "N07753592", "", "cat")
    assert human_names(named(*names)) == (
        *("cat", "banana", "n99999999", "n0775359", "N07753592", "", "cat"),
    )
    assert human_names(SimpleNamespace(class_names=None)) is None
    # A folder's own name is never changed for the sake of another class.
    assert human_names(named("banana", "n07753592"))[0] == "banana"
    assert human_names(named("tench", "n01440764")) == ("tench", "tench, Tinca tinca")


def test_all_that_a_class_may_be_called():
    names = names_of(IMAGENET)
    for called in ("n01440764", "tench", "Tinca tinca", "tench, Tinca tinca"):
        assert names[called] == (0,)
    assert names["crane"] == (134, 517)
    assert names["crane (517)"] == (517,)
    assert names["maillot"] == (638, 639)
    assert names_of(named("dog", "cat", "dog")) == {"dog": (0, 2), "cat": (1,)}
    assert names_of(SimpleNamespace(class_names=None)) == {}


@pytest.mark.parametrize("has_timm", [True, False])
def test_timm_is_not_imported_and_need_not_be_there(has_timm):
    code = f"""
import sys
if not {has_timm}:
    sys.modules["timm"] = None
from types import SimpleNamespace
from labelstore.teachers.class_names import (
    human_names,
    is_wordnet_id,
    meanings,
    names_of,
    words_of,
)
print(human_names(SimpleNamespace(class_names=("n07753592", "cat"))))
assert not {{"torch", "numpy", "timm.data"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(("banana" if has_timm else "n07753592", "cat"))


def test_what_classes_mean():
    told = meanings(named("n07753592", "cat", "n99999999"))
    assert told == ("elongated crescent-shaped yellow fruit with soft sweet flesh", None, None)
    assert meanings(named("cat")) == (None,)
    assert meanings(SimpleNamespace(class_names=None)) is None
    assert words_of("n01440764") == ("tench", "Tinca tinca")
    assert words_of("tench") == ()
