"""What runs in a Ray actor: a node's source and teachers, and the proof that they are the driver's.

Each node opens photos and weights of its own, which may be others under the same names. So an actor
labels nothing before it has proven that it has the driver's images and libraries and the stores'
teachers, also when Ray has started it again on another node.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import LabelStoreError, MismatchError
from labelstore.format.manifest import fingerprint
from labelstore.producer.engines.local import LocalEngine
from labelstore.producer.probe import check_description, library_versions
from labelstore.producer.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.labeller import LabelledBlock, Labeller
    from labelstore.producer.settings import RunOptions, RunPlan
    from labelstore.teachers.info import TeacherInfo
    from labelstore.teachers.teacher import Teacher

    Load = Callable[[], tuple[ImageSource, list[Teacher]]]
    """What an actor opens on its node; it is pickled."""

__all__ = [
    "Driver",
    "Node",
    "NodeBlocks",
    "NodeTeachers",
    "Refusal",
    "Worker",
    "keys_apart",
    "keys_digest",
]


@dataclass(frozen=True)
class Driver:
    """What the driver has, and each actor must have."""

    keys: str
    """``keys_digest`` of its source."""
    versions: Mapping[str, str]
    """Of its libraries."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    """Its name and address."""
    id: str
    """Ray's."""


@dataclass(frozen=True)
class NodeTeachers:
    """What an actor has opened on its node."""

    node: Node
    teachers: list[TeacherInfo]


@dataclass(frozen=True)
class NodeBlocks:
    """A block that an actor has labelled."""

    node: Node
    blocks: list[LabelledBlock]
    """Of each teacher that was asked."""


@dataclass(frozen=True)
class Refusal:
    """Why a node cannot take part."""

    node: Node
    error: LabelStoreError
    keys: tuple[str, ...] | None = None
    """Those of its source, where they differ from the driver's."""


def keys_digest(keys: Sequence[str]) -> str:
    """xxh3_128, as hexadecimal, of keys in order."""
    return fingerprint(keys, np.zeros(0, dtype=np.int32))


def keys_apart(driver: Sequence[str], node: Sequence[str]) -> str:
    """How the keys of a node's source differ from those of the driver's, in words."""
    of_driver, of_node = set(driver), set(node)
    other = next((key for key in node if key not in of_driver), None)
    lacking = next((key for key in driver if key not in of_node), None)
    counts = f"it has {len(node)} images where the driver's source has {len(driver)}"
    if other is not None:
        return f"{counts}; the first other key is {other!r}"
    if lacking is not None:
        return f"{counts}; the first key that it lacks is {lacking!r}"
    moved = next((mine for mine, theirs in zip(driver, node, strict=False) if mine != theirs), None)
    return f"{counts}, in another order from {moved!r} on"


class Worker:
    """Runs in an actor: the teachers on one device.

    What it raises is for the user; what makes its node unfit comes back as a ``Refusal``, so that
    others can do its work.
    """

    def __init__(self, load: Load, options: RunOptions) -> None:
        self._load = load
        self._options = options
        self._teachers: list[Teacher] = []
        self._began: RunPlan | None = None

    def describe(self) -> NodeTeachers | Refusal:
        """The node, and the teachers, for the manifests."""
        try:
            self._open()
        except LabelStoreError as error:
            return Refusal(_node(), error)
        return NodeTeachers(_node(), [teacher.info for teacher in self._teachers])

    def prove(
        self, driver: Driver, manifests: Mapping[int, Manifest], paths: Sequence[str]
    ) -> dict[int, tuple[dict[str, Any], ...]] | Refusal:
        """``LocalEngine.prove``, and all that a manifest says besides."""
        try:
            return self._prove(driver, manifests, paths)
        except LabelStoreError as error:
            keys = None
            if self._teachers and keys_digest(self._source.keys) != driver.keys:
                keys = tuple(self._source.keys)
            return Refusal(_node(), error, keys)

    def begin(self, driver: Driver, plan: RunPlan) -> Refusal | None:
        """Prove, and get ready for the blocks of a run."""
        if self._began == plan:
            return None
        answers = self.prove(driver, dict(enumerate(plan.manifests)), plan.paths)
        if isinstance(answers, Refusal):
            return answers
        try:
            self._labeller: Labeller = self._engine.labeller(self._source, plan)
        except MismatchError as error:
            return Refusal(_node(), error)
        self._began = plan
        return None

    def label(
        self,
        driver: Driver,
        plan: RunPlan,
        block: int,
        keys: tuple[str, ...],
        numbers: tuple[int, ...],
    ) -> NodeBlocks | Refusal:
        """Make a block, for each of some teachers.

        Args:
            driver, plan: as for ``begin``, which Ray may have run in a process that died since.
            block: its number. keys: of its images.
            numbers: of the teachers.
        """
        refusal = self.begin(driver, plan)
        if refusal is not None:
            return refusal
        here = tuple(self._source.keys[plan.manifests[0].block_slice(block)])
        if here != keys:
            error = MismatchError(f"its images of block {block} are others than the driver's.")
            return Refusal(_node(), error, tuple(self._source.keys))
        return NodeBlocks(_node(), list(self._labeller.blocks([(block, numbers)], Silent())))

    def _open(self) -> None:
        if not self._teachers:
            self._source, teachers = self._load()
            self._engine = LocalEngine(teachers, self._options)
            self._teachers = teachers

    def _prove(
        self, driver: Driver, manifests: Mapping[int, Manifest], paths: Sequence[str]
    ) -> dict[int, tuple[dict[str, Any], ...]]:
        self._open()
        if keys_digest(self._source.keys) != driver.keys:
            raise MismatchError("its images are others than the driver's.")
        versions = library_versions()
        for number, manifest in manifests.items():
            teacher, path = self._teachers[number], paths[number]
            if versions not in (driver.versions, manifest.producer):
                others = [name for name in versions if versions[name] != driver.versions.get(name)]
                raise MismatchError(
                    f"it has {', '.join(f'{name} {versions[name]}' for name in others)} and the "
                    f"driver {', '.join(f'{n} {driver.versions.get(n)}' for n in others)}: install "
                    "the same on all nodes."
                )
            check_description(teacher.describe(), manifest.teacher or {}, path)
            if teacher.class_names != manifest.class_names:
                raise MismatchError(
                    f"its teacher names its classes otherwise than {path} does: give the same."
                )
        return self._engine.prove(self._source, manifests, paths)


def _node() -> Node:
    import ray

    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    name = f"node {socket.gethostname()} ({address})"
    return Node(name, ray.get_runtime_context().get_node_id())
