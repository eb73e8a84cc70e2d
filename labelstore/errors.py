"""The exception tree: one class for each thing a caller would do about it.

Every error carries a stable ``kind`` (an ``ErrorKind``, which programs may match on), an
``exit_code`` for the command line (2 where the request itself is wrong, 1 for the rest), and what
it knows of the place: arguments, or array, block and images of a store. Messages speak of the
library's arguments; the command line adds its options to them. At the end stands what messages have
in common: choices, names that look like a wrong one, and strangers' text made fit to be shown.

    LabelStoreError
    ├── UsageError            the request is wrong: change an option or an argument   (ValueError)
    ├── NotFoundError         something named in the request does not exist           (LookupError)
    ├── SourceError           an image or an image source cannot be used
    │   └── DecodeError       an image was read whole, and its bytes are no image
    ├── TeacherError          a teacher cannot be built, or its weights do not fit
    ├── MissingPackageError   what was asked for needs a package that is not here     (ImportError)
    ├── MismatchError         two things that must agree do not
    ├── StoreError            a store cannot be read or written as asked
    │   ├── FormatError       it is no store of a version that this reader knows
    │   ├── IncompleteError   the labels asked for have not been committed
    │   ├── CorruptError      what is on disk is not what was committed
    │   └── BusyError         another process is writing it
    └── LabelError            arrays that are no soft labels                          (ValueError)
"""

from __future__ import annotations

import importlib.util
import unicodedata
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BusyError",
    "CorruptError",
    "DecodeError",
    "DiscardedViewsWarning",
    "ErrorKind",
    "FallbackWarning",
    "FormatError",
    "IncompleteError",
    "LabelError",
    "LabelStoreError",
    "LaunchWarning",
    "MismatchError",
    "MissingPackageError",
    "NotFoundError",
    "PartialDataWarning",
    "ReplayWarning",
    "SourceError",
    "StoreError",
    "TeacherError",
    "UsageError",
    "did_you_mean",
    "install_from_checkout",
    "is_obeyed",
    "one_line",
    "printable",
    "require_choice",
    "require_packages",
]


class ErrorKind(StrEnum):
    """Stable codes of the error classes; codes are added, never renamed."""

    ERROR = "error"
    USAGE = "usage"
    NOT_FOUND = "not-found"
    SOURCE = "source"
    DECODE = "decode"
    TEACHER = "teacher"
    MISMATCH = "mismatch"
    STORE = "store"
    FORMAT = "format"
    INCOMPLETE = "incomplete"
    CORRUPT = "corrupt"
    BUSY = "busy"
    LABEL = "label"
    MISSING_PACKAGE = "missing-package"


class LabelStoreError(Exception):
    """Base of every error that labelstore raises on purpose.

    The message is one sentence with what is wrong, the value met, what was expected, and the mend.

    Args:
        message: that sentence.
        arguments: names of the library's arguments that the mend speaks of.
        array: of a store, as ``labels/classes``.
        block: its number.
        images: first and last image of the block, as indices.
    """

    kind: ClassVar[ErrorKind] = ErrorKind.ERROR

    exit_code: ClassVar[int] = 1
    """What the command line exits with."""

    def __init__(
        self,
        message: str = "",
        *,
        arguments: tuple[str, ...] = (),
        array: str | None = None,
        block: int | None = None,
        images: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.arguments = arguments
        self.array = array
        self.block = block
        self.images = images

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...], dict[str, Any]]:
        """Pickle by message and fields: errors cross the border of a DataLoader worker."""
        return (type(self), self.args, vars(self))

    def fields(self) -> dict[str, Any]:
        """What is known besides the message, ready for JSON; what is not known is left out."""
        known = {
            "arguments": list(self.arguments) or None,
            "array": self.array,
            "block": self.block,
            "images": None if self.images is None else list(self.images),
        }
        return {name: value for name, value in known.items() if value is not None}

    def extended(self, advice: str) -> Self:
        """The same error with one more sentence."""
        return type(self)(
            f"{self} {advice}",
            arguments=self.arguments,
            array=self.array,
            block=self.block,
            images=self.images,
        )


class UsageError(LabelStoreError, ValueError):
    """The request itself is wrong: an option or an argument has to change."""

    kind = ErrorKind.USAGE
    exit_code = 2


class NotFoundError(LabelStoreError, LookupError):
    """Something named in the request does not exist: a file, a key, an index."""

    kind = ErrorKind.NOT_FOUND


class SourceError(LabelStoreError):
    """An image, or a source of images, cannot be used."""

    kind = ErrorKind.SOURCE


class DecodeError(SourceError):
    """An image was read whole and cannot be decoded: its bytes are at fault, and they stay so.

    What the system did not read, or could not decode for want of memory or files, is a plain
    ``SourceError``: of such an image nothing is known.
    """

    kind = ErrorKind.DECODE


class TeacherError(LabelStoreError):
    """A teacher cannot be built, or its weights do not fit it."""

    kind = ErrorKind.TEACHER


class MissingPackageError(LabelStoreError, ImportError):
    """What was asked for needs a package that is not installed here."""

    kind = ErrorKind.MISSING_PACKAGE


class MismatchError(LabelStoreError):
    """Two things that must agree do not: a store and a request, two stores, a store and photos."""

    kind = ErrorKind.MISMATCH


class StoreError(LabelStoreError):
    """A store cannot be read or written as asked."""

    kind = ErrorKind.STORE


class FormatError(StoreError):
    """Not a store, or a store of a format version that this reader does not know."""

    kind = ErrorKind.FORMAT


class IncompleteError(StoreError):
    """The labels asked for have not been committed (yet)."""

    kind = ErrorKind.INCOMPLETE


class CorruptError(StoreError):
    """What is on disk is not what was committed."""

    kind = ErrorKind.CORRUPT


class BusyError(StoreError):
    """Another process is writing this store."""

    kind = ErrorKind.BUSY


class LabelError(LabelStoreError, ValueError):
    """Arrays that are no soft labels: wrong shapes, values out of range, negative mass."""

    kind = ErrorKind.LABEL


class ReplayWarning(UserWarning):
    """This machine's image libraries make other pixels than the store's producer did."""


class LaunchWarning(UserWarning):
    """The environment speaks of several processes, and this one works alone."""


class FallbackWarning(UserWarning):
    """What was asked for is not in the store, and something else was used in its stead."""


class DiscardedViewsWarning(UserWarning):
    """Views are shown that FerKD's rule discards, though their images may have others."""


class PartialDataWarning(UserWarning):
    """A part was looked at, since the rest is not there: photos of a store's labels that a data set
    lacks, or blocks that are not committed yet."""


def one_line(error: BaseException, words: str | None = None) -> str:
    """The message of another library's error, fit to stand inside a sentence; never empty.

    Args:
        error: the error. words: what is taken for its message, where that says too much or little.

    Returns:
        one line of at most 240 characters, without a full stop.
    """
    text = " ".join((str(error) if words is None else words).split())
    return (text if len(text) <= 240 else f"{text[:237]}...").rstrip(".") or type(error).__name__


_COMPARED = 5_000
"""Names that a wrong one is compared with letter by letter, at most: a second's worth."""

_SUGGESTED = 3


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause for errors about a name that is none of some: which of them look like it.

    Args:
        name: what was asked for. names: what there is, a few millions at most.

    Returns:
        ``"did you mean 'a' or 'b'?"``, three at most; ``""`` where none comes near.
    """
    import difflib

    query, names = name.casefold(), list(names)
    last = query.rpartition("/")[2]
    nearest: list[str] = []
    if last:
        same_end = (other for other in names if other.casefold().rpartition("/")[2] == last)
        nearest = list(islice(same_end, _SUGGESTED))
    if not nearest:
        folded: dict[str, str] = {}
        folder = name[: len(name) - len(last)]
        beside = (other for other in names if folder and other.startswith(folder))
        for other in islice(chain(beside, names), _COMPARED):
            folded.setdefault(other.casefold(), other)
        close = difflib.get_close_matches(query, folded, n=_SUGGESTED, cutoff=0.6)
        likeness = [difflib.SequenceMatcher(None, other, query).ratio() for other in close]
        # Beside a near one, others that are only somewhat alike mislead.
        pairs = zip(close, likeness, strict=True)
        nearest = [folded[other] for other, like in pairs if like > likeness[0] - 0.1]
    if not nearest and len(last) > 2:
        holding = (other for other in names if last in other.casefold())
        nearest = list(islice(holding, _SUGGESTED))
    if not nearest:
        return ""
    *first, end = (repr(other) for other in nearest)
    return f"did you mean {', '.join(first) + ' or ' if first else ''}{end}?"


_JOINERS = "\u200c\u200d"
"""Format characters that words of some languages, and emoji, are written with."""


def printable(text: str) -> str:
    """Text to be seen, on one line: what a terminal would obey, or nobody sees, is escaped.

    Keys, class names and specs come from files that anybody may have made. Controls (ESC, those of
    C1, line breaks), marks that turn the direction of writing, other invisible characters and lone
    surrogates are written as ``\\x1b``, ``\\n``, ``\\u202e``. All else is as it was.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if is_obeyed(sign) else sign for sign in text)


def is_obeyed(sign: str) -> bool:
    """Whether a character is one that a terminal obeys, or that nobody sees."""
    kind = unicodedata.category(sign)
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and sign not in _JOINERS)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """UsageError where a value is none of those that an argument may have.

    Args:
        name: the argument, as messages call it. value: what was given. choices: what it may be.
    """
    choices = tuple(choices)
    if value not in choices:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(choices)}: choose one.")


def install_from_checkout(extra: str = "") -> str:
    """How labelstore is installed, in the same words everywhere.

    Never by its name: on the public package index that belongs to another project.

    Args:
        extra: one of setup.cfg's extras, or "" for what every installation has.
    """
    target = f'".[{extra}]"' if extra else "."
    return f"pip install {target} in labelstore's checkout"


def require_packages(purpose: str, *modules: str, extra: str = "") -> None:
    """Say what is missing before work begins; imports nothing.

    Args:
        purpose: what needs the packages, as the beginning of a sentence.
        modules: names of top-level modules, named as their distributions are but for ``_``.
        extra: of setup.cfg, what they come with.

    Raises:
        MissingPackageError: at least one of them is not installed.
    """
    missing = [module.replace("_", "-") for module in modules if not _is_installed(module)]
    if missing:
        *first, last = missing
        raise MissingPackageError(
            f"{purpose} needs {', '.join(first) + ' and ' if first else ''}{last}, not installed "
            f"here: pip install {' '.join(missing)}, or {install_from_checkout(extra)}."
        )


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    # A folder that happens to have the name has no origin.
    return spec is not None and spec.origin is not None
