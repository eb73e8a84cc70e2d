"""Names of a teacher's classes for a person, and what a person may call them.

ImageNet's classes are stored as WordNet ids (``n07753592``), which are exact and say nothing. timm
ships the words of each; they are read from its files, without importing it (and torch with it).
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["human_names", "is_wordnet_id", "meanings", "names_of", "words_of"]

_WORDNET_ID = re.compile(r"n[0-9]{8}")

_FOLDER = ("data", "_info")
"""Where timm has what is known of the 21,844 nouns of ImageNet-1k, -12k, -21k and -22k."""

_LEMMAS = "imagenet_synset_to_lemma.txt"
"""Lines of a WordNet id, a tab, and its words, separated by a comma and a space, the commonest
first."""

_DEFINITIONS = "imagenet_synset_to_definition.txt"
"""Lines of a WordNet id, a tab, and what it means."""


class _Named(Protocol):
    """A manifest, a teacher, or what is known of one."""

    @property
    def class_names(self) -> tuple[str, ...] | None: ...


def human_names(manifest: _Named) -> tuple[str, ...] | None:
    """What a person calls the classes of a store or of a teacher.

    Of a WordNet id it is the first of its words; where several classes have that, also the second
    (``maillot, tank suit``), or else the class's number (``crane (134)``). Other names stay as they
    are stored, and so do WordNet ids where timm is not installed.

    Args:
        manifest: what has ``class_names``: a manifest, a teacher, a teacher's info.

    Returns:
        C names in the order of the classes; None where the names are unknown.
    """
    stored = manifest.class_names
    return None if stored is None else _human(tuple(stored))


@functools.lru_cache(maxsize=8)
def _human(stored: tuple[str, ...]) -> tuple[str, ...]:
    words = [words_of(name) for name in stored]
    names = [known[0] if known else name for name, known in zip(stored, words, strict=True)]
    for shared in _shared(names):
        for number in shared:
            known = words[number]
            if len(known) > 1:
                names[number] = f"{known[0]}, {known[1]}"
    for shared in _shared(names):
        for number in shared:
            if words[number]:
                names[number] = f"{names[number]} ({number})"
    return tuple(names)


def _shared(names: Sequence[str]) -> list[list[int]]:
    """The classes of each name that several have."""
    counts = Counter(names)
    classes: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if counts[name] > 1:
            classes.setdefault(name, []).append(number)
    return list(classes.values())


def names_of(manifest: _Named) -> dict[str, tuple[int, ...]]:
    """All that a person may call the classes of a store or of a teacher.

    Args:
        manifest: as for `human_names`.

    Returns:
        name -> the classes that are called so, rising: the stored names, those of `human_names`,
        and every word of a WordNet id ("tench", "Tinca tinca", "tench, Tinca tinca"). Empty where
        the names are unknown.
    """
    stored = manifest.class_names
    classes: dict[str, set[int]] = {}
    for number, (name, human) in enumerate(
        zip(stored or (), human_names(manifest) or (), strict=True)
    ):
        words = words_of(name)
        for called in (name, human, *words, ", ".join(words)):
            if called:
                classes.setdefault(called, set()).add(number)
    return {name: tuple(sorted(numbers)) for name, numbers in classes.items()}


def meanings(manifest: _Named) -> tuple[str | None, ...] | None:
    """What the classes of a store or of a teacher are, as WordNet defines them.

    Args:
        manifest: as for `human_names`.

    Returns:
        C definitions in the order of the classes, None for other names than WordNet ids; None where
        the names are unknown.
    """
    stored = manifest.class_names
    if stored is None:
        return None
    known = _lines(_DEFINITIONS) if any(map(is_wordnet_id, stored)) else {}
    return tuple(known.get(name) for name in stored)


def is_wordnet_id(name: str) -> bool:
    """Whether a class's name is the id of a noun of WordNet, such as ``n07753592``."""
    return _WORDNET_ID.fullmatch(name) is not None


def words_of(name: str) -> tuple[str, ...]:
    """The words of a WordNet id, the commonest first; () for other names and unknown ids."""
    if not is_wordnet_id(name):
        return ()
    words = _lines(_LEMMAS).get(name)
    return () if words is None else tuple(words.split(", "))


@functools.cache
def _lines(file: str) -> Mapping[str, str]:
    """WordNet id -> what one of timm's files says; empty where timm or the file is not there."""
    spec = importlib.util.find_spec("timm")
    for place in (spec and spec.submodule_search_locations) or ():
        try:
            lines = Path(place, *_FOLDER, file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        pairs = (line.partition("\t") for line in lines)
        return {name: text for name, _, text in pairs if text}
    return {}
