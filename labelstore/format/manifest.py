"""The manifest: everything that is needed to know what a store's labels mean.

Dataclass <-> JSON. Reading goes through three gates, in this order: the format version, the JSON
schema, and the digest of the whole (``id``), which is also the store's identity in every commit.
"""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import xxhash

from labelstore.errors import CorruptError, UsageError, require_choice
from labelstore.format import codecs
from labelstore.format.schema import number_problem, schema_problem
from labelstore.format.settings import Encoding, StoreSettings
from labelstore.format.versions import (
    DRAFT_VERSION,
    FORMAT_VERSION,
    VERSION_2,
    check_law,
    check_version,
    same_version,
)
from labelstore.storage.untrusted import parsed
from labelstore.views.law import ViewLaw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from labelstore.format.settings import LabelLayout
    from labelstore.labels.top_k import LabelType

__all__ = [
    "EXPLICIT",
    "LOGITS_PROBE",
    "Manifest",
    "differences",
    "fingerprint",
]

MAX_VIEWS = 1 << 16
"""Views of an image, at most: a commit row holds a few digests for each group of them."""

MAX_PRIOR = 1024
"""Classes of a prior list, at most."""

IGNORED = frozenset(
    {"teacher.logits_probe", "origin.settings.labelstore", "origin.settings.published"}
)
"""What may differ between two manifests of the same labels: what the teacher said of the probed
views, which is compared within a tolerance, the release that worked, and the commit at which the
source was read where it is published."""

LOGITS_PROBE = "logits_probe"
"""What a teacher said of the probed views, among what the manifest tells of the teacher."""

EXPLICIT = "explicit"
"""The law of a store whose boxes and flips are stored beside its labels."""


@dataclass(frozen=True)
class Manifest:
    """A store's description.

    Raises:
        UsageError: numbers that make no store.
    """

    num_images: int
    num_views: int
    num_classes: int
    k: int
    """Classes stored of each label, 1..num_classes."""
    fingerprint: str
    """Digest of the images' keys and ground truth, in order: which data set this is."""
    law: ViewLaw | str | None
    """A view law, ``EXPLICIT``, or None where views cannot be replayed."""
    block_images: int
    """Images of a block, the unit that is committed."""
    group_views: int
    """Views of a group, what an epoch reads."""
    quantizer: str = codecs.DEFAULT
    encoding: Encoding = "codes"
    prior_size: int = 0
    """Classes in each image's prior list; 0 for a store without."""
    top_p: float | None = None
    """Where labels hold only as many classes as this probability mass needs, at most k."""
    label_type: LabelType = "top-k"
    temperature: float | None = 1.0
    """The teacher's logits were divided by it before softmax; None where unknown."""
    class_names: tuple[str, ...] | None = None
    teacher: Mapping[str, Any] | None = None
    """What made the labels, as ``Teacher.describe`` tells; None for labels of other producers."""
    probe: tuple[Mapping[str, Any], ...] = ()
    """Digests of a few views' pixels: ``{"key", "view", "digest"}`` each. What the teacher said of
    these views stands in ``teacher``, under ``LOGITS_PROBE``."""
    producer: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that decide pixels and labels; of labels that were given to
    ``labelstore.write``, their digest as ``labels``."""
    origin: Mapping[str, Any] | None = None
    """How the labels came from those of other stores: ``{"operation", "stores", "settings"}``; None
    for a producer's own."""
    unit_images: int | None = None
    """Images of a unit, what is read alone at random, where labels lie in units and not in chunks;
    in Zarr only."""
    is_draft: bool = field(default=False, init=False)
    """Whether it was read from a store that was begun before version 2 was frozen. What is derived
    from it by ``dataclasses.replace`` is of version 2."""

    def __post_init__(self) -> None:
        for name in ("num_images", "num_views", "num_classes", "block_images", "group_views"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1.")
        if self.num_views > MAX_VIEWS:
            raise UsageError(
                f"{self.num_views} views an image were asked for, expected at most {MAX_VIEWS}."
            )
        if not 1 <= self.k <= self.num_classes:
            raise UsageError(
                f"k is {self.k}, expected 1 to {self.num_classes}, the number of classes: "
                "correct it.",
                arguments=("k",),
            )
        if not 0 <= self.prior_size <= min(self.num_classes, MAX_PRIOR):
            raise UsageError(
                f"the prior list has {self.prior_size} classes, expected 0 to "
                f"{min(self.num_classes, MAX_PRIOR)}: correct it.",
                arguments=("prior_size",),
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is {self.top_p}, expected a mass above 0 and up to 1.")
        if self.temperature is not None and not self.temperature > 0:
            raise UsageError(f"temperature is {self.temperature}, expected a positive number.")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise UsageError(
                f"{len(self.class_names)} class names were given for {self.num_classes} classes: "
                "give one each, or none."
            )
        mixing = self.law.mixing if isinstance(self.law, ViewLaw) else None
        if mixing is not None and not 2 <= mixing.partners <= self.num_images:
            raise UsageError(
                f"the views are mixed ({mixing}) with those of {mixing.partners} of "
                f"{self.num_images} images, expected 2 to all of them: settle the law by "
                "law.among(hashes of all keys)."
            )
        require_choice("encoding", self.encoding, get_args(Encoding))
        if self.unit_images is not None and self.unit_images < 1:
            raise UsageError(f"unit_images is {self.unit_images}, expected at least 1.")
        if self.unit_images is not None and self.encoding != "codes":
            raise UsageError(
                "labels lie in units in Zarr stores only: choose another name than one that ends "
                "in .parquet, or the layout of chunks.",
                arguments=("layout",),
            )
        codecs.get(self.quantizer)

    @property
    def num_blocks(self) -> int:
        """How many blocks the images make; the last may be smaller."""
        return -(-self.num_images // self.block_images)

    @property
    def num_groups(self) -> int:
        """How many groups the views make; the last may be smaller."""
        return -(-self.num_views // self.group_views)

    @property
    def format_version(self) -> int:
        """1, or 2 where views have stages or labels lie in units; of a store of the draft its
        number."""
        if self.is_draft:
            return DRAFT_VERSION
        staged = isinstance(self.law, ViewLaw) and bool(self.law.stages)
        return VERSION_2 if staged or self.unit_images is not None else FORMAT_VERSION

    @functools.cached_property
    def id(self) -> str:
        """32 hexadecimal digits: xxh3_128 of the canonical JSON of all the rest."""
        return _digest(self._body())

    @property
    def label_layout(self) -> LabelLayout:
        """How labels lie in the store."""
        return "chunks" if self.unit_images is None else "units"

    @property
    def settings(self) -> StoreSettings:
        """How the labels are stored."""
        return StoreSettings(
            self.k,
            self.quantizer,
            self.prior_size,
            self.top_p,
            self.block_images,
            self.group_views,
        )

    @property
    def teachers(self) -> tuple[Mapping[str, Any], ...]:
        """What made the labels: the teacher; of merged stores those of all; () where unknown."""
        if self.teacher is not None:
            return (self.teacher,)
        settings = {} if self.origin is None else self.origin["settings"]
        return tuple(settings.get("teachers", ()))

    def block_slice(self, block: int) -> slice:
        """The images of a block."""
        start = block * self.block_images
        return slice(start, min(start + self.block_images, self.num_images))

    def group_slice(self, group: int) -> slice:
        """The views of a group."""
        start = group * self.group_views
        return slice(start, min(start + self.group_views, self.num_views))

    def to_json(self) -> dict[str, Any]:
        """The manifest as it is written, ``id`` included.

        Raises:
            UsageError: a field, as a rule ``teacher``, is not what the schema asks for.
        """
        try:
            document = {**self._body(), "id": self.id}
        except (TypeError, ValueError) as error:
            raise UsageError(f"the manifest cannot be written as JSON ({error}).") from error
        problem = schema_problem(document)
        if problem:
            raise UsageError(f"the store cannot be described: {problem}: correct that field.")
        return document

    def _body(self) -> dict[str, Any]:
        law = self.law.to_json() if isinstance(self.law, ViewLaw) else self.law
        return {
            "format": "labelstore",
            "format_version": self.format_version,
            "images": {"count": self.num_images, "fingerprint": self.fingerprint},
            "views": {"count": self.num_views, "law": law},
            "labels": {
                "label_type": self.label_type,
                "k": self.k,
                "num_classes": self.num_classes,
                "class_names": None if self.class_names is None else list(self.class_names),
                "temperature": self.temperature,
                "quantizer": self.quantizer,
                "encoding": self.encoding,
                "prior_size": self.prior_size,
                "top_p": self.top_p,
            },
            "teacher": None if self.teacher is None else dict(self.teacher),
            "layout": self._layout(),
            "probe": [dict(entry) for entry in self.probe],
            "producer": dict(self.producer),
            "origin": None if self.origin is None else dict(self.origin),
        }

    def _layout(self) -> dict[str, int]:
        layout = {"block_images": self.block_images, "group_views": self.group_views}
        return layout if self.unit_images is None else {**layout, "unit_images": self.unit_images}

    @classmethod
    def from_json(cls, document: Any, where: str) -> Manifest:
        """A manifest from JSON, checked; ``where`` names the store in errors.

        Raises:
            FormatError: not a manifest, or of a version that this library does not read.
            CorruptError: the manifest is not what was written.
        """
        check_version(document, where)
        with parsed(where):
            problem = schema_problem(document) or number_problem(document)
        if problem:
            raise CorruptError(
                f"{where}: the manifest is malformed at {problem}: its file was changed or "
                "damaged; restore it from a copy."
            )
        body = {name: value for name, value in document.items() if name != "id"}
        if _digest(body) != document["id"]:
            raise CorruptError(
                f"{where}: the manifest's digest is {document['id']}, expected {_digest(body)}: "
                "its file was changed or damaged; restore it from a copy."
            )
        law = body["views"]["law"]
        if isinstance(law, dict):
            check_law(law, where)
        problem = "its numbers make no store"
        # What a UsageError advises is meant for who makes one.
        with contextlib.suppress(UsageError):
            manifest = cls._from_body(body)
            if manifest.id == document["id"]:
                return manifest
            # 1 where version 1 has 1.0: another text, and so another digest.
            problem = "it is written otherwise than this format is"
        raise CorruptError(
            f"{where}: the manifest is malformed ({problem}): its file was changed or damaged; "
            "restore it from a copy."
        )

    @classmethod
    def _from_body(cls, body: Mapping[str, Any]) -> Manifest:
        """A manifest from a document that fits the schema."""
        labels, law = body["labels"], body["views"]["law"]
        names = labels["class_names"]
        manifest = cls(
            num_images=body["images"]["count"],
            num_views=body["views"]["count"],
            num_classes=labels["num_classes"],
            k=labels["k"],
            fingerprint=body["images"]["fingerprint"],
            law=ViewLaw.from_json(law) if isinstance(law, dict) else law,
            block_images=body["layout"]["block_images"],
            group_views=body["layout"]["group_views"],
            quantizer=labels["quantizer"],
            encoding=labels["encoding"],
            prior_size=labels["prior_size"],
            top_p=labels["top_p"],
            label_type=labels["label_type"],
            temperature=labels["temperature"],
            class_names=None if names is None else tuple(names),
            teacher=body["teacher"],
            probe=tuple(body["probe"]),
            producer=body["producer"],
            origin=body["origin"],
            unit_images=body["layout"].get("unit_images"),
        )
        object.__setattr__(manifest, "is_draft", body["format_version"] == DRAFT_VERSION)
        return manifest


def fingerprint(keys: Sequence[str], targets: npt.NDArray[np.int32]) -> str:
    """xxh3_128, as hexadecimal, of the keys joined by NUL, a NUL, and the targets as int32 LE."""
    # Keys that are no UTF-8 are refused by those who look at them (``validity.table_problem``).
    digest = xxhash.xxh3_128("\0".join(keys).encode("utf-8", "surrogatepass"))
    digest.update(b"\0")
    digest.update(targets.astype("<i4").tobytes())
    return str(digest.hexdigest())


def differences(stored: Manifest, asked: Manifest) -> list[str]:
    """What differs between two manifests, as ``name: stored VALUE, asked for VALUE`` each.

    But for what is ``IGNORED``: ``labelstore.producer.probe`` compares what the teacher said of the
    probed views, which is never the same to the last bit. Version 2 and its draft do not differ.
    """
    old, new = stored.to_json(), asked.to_json()
    if same_version(stored.format_version, asked.format_version):
        new["format_version"] = old["format_version"]
    return _differences(old, new, "")


def _differences(stored: Any, asked: Any, name: str) -> list[str]:
    if name in IGNORED:
        return []
    if isinstance(stored, dict) and isinstance(asked, dict):
        lines: list[str] = []
        for key in sorted({*stored, *asked} - {"id"}):
            path = f"{name}.{key}" if name else key
            lines += _differences(stored.get(key), asked.get(key), path)
        return lines
    if stored == asked:
        return []
    if name == "images.fingerprint":
        name = "images.fingerprint (another data set: keys or ground truth differ)"
    return [f"{name}: stored {_short(stored)}, asked for {_short(asked)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return str(xxhash.xxh3_128_hexdigest(text.encode()))
