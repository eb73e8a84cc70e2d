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

__all__ = ["human_names", "is_wordnet_id", "names_of"]

_WORDNET_ID = re.compile(r"n[0-9]{8}")

_LEMMAS = ("data", "_info", "imagenet_synset_to_lemma.txt")
"""Where timm has the words of the 21,844 nouns of ImageNet-1k, -12k, -21k and -22k: lines of a
WordNet id, a tab, and its words, separated by a comma and a space, the commonest first."""


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
    words = [_words_of(name) for name in stored]
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
        words = _words_of(name)
        for called in (name, human, *words, ", ".join(words)):
            if called:
                classes.setdefault(called, set()).add(number)
    return {name: tuple(sorted(numbers)) for name, numbers in classes.items()}


def is_wordnet_id(name: str) -> bool:
    """Whether a class's name is the id of a noun of WordNet, such as ``n07753592``."""
    return _WORDNET_ID.fullmatch(name) is not None


def _words_of(name: str) -> tuple[str, ...]:
    """The words of a WordNet id, the commonest first; () for other names and unknown ids."""
    return _lemmas().get(name, ()) if is_wordnet_id(name) else ()


@functools.cache
def _lemmas() -> Mapping[str, tuple[str, ...]]:
    """WordNet id -> its words; empty where timm is not installed or has no such file."""
    spec = importlib.util.find_spec("timm")
    for folder in (spec and spec.submodule_search_locations) or ():
        try:
            lines = Path(folder, *_LEMMAS).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        pairs = (line.partition("\t") for line in lines)
        return {name: tuple(words.split(", ")) for name, _, words in pairs if words}
    return {}
