"""What is found about photos: a kind, its weight, what it means, the mend, and the first names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from labelstore.images.sources.choose import ImageSource

__all__ = ["NAMED", "Finding", "Findings", "Named", "Weight", "short_reason"]

NAMED = 10
"""Names that a finding tells unless more are asked for."""

Weight = Literal["stops", "skipped", "error", "note"]
"""``stops``: generate stops at it. ``skipped``: it stops, or leaves these photos out where it was
told to. ``error``: photos and store are apart. ``note``: worth knowing, and no more."""


@dataclass(frozen=True)
class Named:
    """A photo, a folder or a file, and what is known of it."""

    name: str
    detail: str = ""


@dataclass
class Finding:
    """Something about photos that is worth telling; one for each kind and cause."""

    kind: str
    """A stable code, which programs may match on."""
    weight: Weight
    text: str
    """What it is, after the number and the noun: ``are truncated``."""
    mend: str
    """What to do about it, a sentence."""
    noun: str = "photo"
    """What is counted."""
    cause: str | None = None
    """A stable code of the likely cause, where one is known."""
    arguments: tuple[str, ...] = ()
    """Names of the library's arguments that the mend speaks of."""
    count: int = 0
    first: list[Named] = field(default_factory=list)
    """The first of them, in the source's order."""
    limit: int = NAMED
    """How many are named at most."""

    def add(self, name: str, detail: str = "") -> None:
        """Count one more, and keep its name if there is room."""
        self.count += 1
        if len(self.first) < self.limit:
            self.first.append(Named(name, detail))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; bytes of names that are not UTF-8 are escaped."""
        document = asdict(self)
        del document["limit"]
        document["arguments"] = list(self.arguments)
        document["first"] = [
            {"name": _safe(named.name), "detail": _safe(named.detail)} for named in self.first
        ]
        return document


class Findings:
    """Findings that gather, one for each kind and cause."""

    def __init__(self, limit: int) -> None:
        """``limit``: how many names each tells at most."""
        self._limit = limit
        self._by_kind: dict[tuple[str, str | None], Finding] = {}

    def of(
        self,
        kind: str,
        weight: Weight,
        words: tuple[str, str],
        cause: str | None = None,
        noun: str = "photo",
        arguments: tuple[str, ...] = (),
    ) -> Finding:
        """The finding of a kind and cause, made where there is none yet; ``words``: its text and
        its mend."""
        finding = Finding(kind, weight, *words, noun, cause, arguments, limit=self._limit)
        return self._by_kind.setdefault((kind, cause), finding)

    def all(self) -> list[Finding]:
        """All of them, notes last."""
        return sorted(self._by_kind.values(), key=lambda finding: finding.weight == "note")


def short_reason(reason: str, source: ImageSource, index: int) -> str:
    """An error's reason without the name of the photo, which stands beside it."""
    for words in ("cannot decode the image", "cannot read the image", "the image"):
        reason = reason.removeprefix(f"{words} {source.path_of(index)}").removeprefix(": ")
    if reason.startswith(" (") and "): " in reason:
        reason = reason[2:].partition("): ")[0]
    return reason.strip().rstrip(".")


def _safe(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
