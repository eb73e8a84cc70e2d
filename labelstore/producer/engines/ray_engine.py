"""Many machines by Ray: each block is a task on an actor that holds the teachers.

The driver alone writes the store, so that nodes need to see the photos and not the store. An actor
that dies with its node is started again elsewhere and its block is made again; actors are added
when the cluster grows. One whose photos, teachers or libraries are others than the driver's is left
out by name, and its work is given to the others.
"""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from labelstore.errors import (
    MismatchError,
    SourceError,
    TeacherError,
    UsageError,
    one_line,
    require_packages,
)
from labelstore.images.pixels import content_digest
from labelstore.producer.engines.ray_worker import (
    Driver,
    Node,
    NodeBlocks,
    Refusal,
    Worker,
    keys_apart,
    keys_digest,
)
from labelstore.producer.probe import library_versions
from labelstore.producer.settings import DEFAULT_OPTIONS, RunOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.engines.ray_worker import Load
    from labelstore.producer.labeller import LabelledBlock
    from labelstore.producer.progress import Progress
    from labelstore.producer.settings import RunPlan
    from labelstore.teachers.info import TeacherInfo

__all__ = ["RayEngine"]

DEATHS = 5
"""How often the actor of one block may die before the run stops: a block that kills each actor
would go round for ever."""

LOOK_SECONDS = 10.0
"""Between looks at whether the cluster has grown."""

PATIENCE_SECONDS = 60.0
"""How long nothing may be under way before it is told what Ray is waiting for."""


CHECKED_SHARE, CHECKED_PHOTOS = 64, 4
"""Of so many photos of a block the driver compares the file of one with that which was labelled,
but of this many at least."""


@dataclass(frozen=True)
class _Task:
    """A block that is to be made."""

    number: int
    teachers: tuple[int, ...]


class RayEngine:
    """A cluster, or this machine where there is none, with actors that label blocks.

    Args:
        load: opens the source and the teachers on a node.
        actors: how many; None for one a GPU, or one where the teachers run on the CPU.
        device: of the teachers, as asked for: "cpu" needs no GPU.
        options: of the runs; ``batch_size`` and ``compiled`` are looked at, and ``workers``, the
            cores that an actor asks for, at most: of a node, each of its GPUs has its share.

    Raises:
        MissingPackageError: Ray is not installed.
        UsageError: the cluster cannot be reached. The errors of ``load``, where no node can do it.
    """

    def __init__(
        self,
        load: Load,
        *,
        actors: int | None = None,
        device: str = "auto",
        options: RunOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._ray = _ray()
        self._load, self._run_options = load, options
        if not self._ray.is_initialized():
            try:
                self._ray.init(
                    address=os.environ.get("RAY_ADDRESS"),
                    log_to_driver=False,
                    logging_level="error",
                )
            # A bare Exception it is where a node of its own does not start in 30 seconds.
            except Exception as error:
                raise UsageError(
                    f"Ray cannot be reached ({one_line(error)}): check RAY_ADDRESS, or unset it "
                    "to run on this machine; where this machine is busy, try again later."
                ) from error
        gpus = self._gpus()
        on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
        if on_gpu and not gpus and actors is None:
            raise UsageError(
                "the Ray cluster has no GPU: choose the device cpu, or add a node.",
                arguments=("device",),
            )
        count = actors or (gpus if on_gpu else 1)
        self.workers = max(1, min(options.workers, self._cores(count, on_gpu)))
        self._resources = {"num_cpus": self.workers, "num_gpus": int(on_gpu)}
        self._fixed = actors is not None or not on_gpu
        self._actors: list[Any] = []
        self._ready: list[Any] = []
        # Those that Ray has not placed yet, by what they will say of their teachers.
        self._starting: dict[Any, Any] = {}
        self._nodes: dict[Any, Node] = {}
        self._refused: list[tuple[Refusal, str]] = []
        self._sent: set[str] = set()
        self.teachers: list[TeacherInfo] = []
        self._start(count)
        self._await()

    def prove(
        self, source: ImageSource, manifests: Mapping[int, Manifest], paths: Sequence[str]
    ) -> dict[int, tuple[dict[str, Any], ...]]:
        """``LocalEngine.prove`` by the first actor that agrees with this machine.

        Raises:
            MismatchError: no actor does.
        """
        driver = _driver_of(source)
        while True:
            self._await()
            actor = self._ready[0]
            answers = self._get(actor.prove.remote(driver, dict(manifests), tuple(paths)))
            if not isinstance(answers, Refusal):
                return dict(answers)
            self._refuse(actor, answers, source)

    def labeller(self, source: ImageSource, plan: RunPlan) -> _RayLabeller:
        """What stands in the place of ``Labeller``."""
        workers = min(plan.options.workers, self.workers)
        options = replace(plan.options, workers=workers)
        return _RayLabeller(self, source, replace(plan, options=options))

    def blocks(
        self,
        source: ImageSource,
        plan: RunPlan,
        todo: Iterable[tuple[int, tuple[int, ...]]],
        progress: Progress,
    ) -> Iterator[LabelledBlock]:
        """Finished blocks, as they are finished.

        Raises:
            MismatchError: no actor is left that agrees with this machine.
        """
        shared = self._ray.put(_driver_of(source)), self._ray.put(plan)
        coming = (_Task(*item) for item in todo)
        queue = deque(itertools.islice(coming, 1))
        free: list[Any] = []
        # By task: the actor, and its block; None while it proves itself.
        under_way: dict[Any, tuple[Any, _Task | None]] = {}
        for actor in self._ready:
            under_way[actor.begin.remote(*shared)] = actor, None
        while queue or any(block for _, block in under_way.values()):
            while free and queue:
                actor, block = free.pop(), queue.popleft()
                keys = tuple(source.keys[plan.manifests[0].block_slice(block.number)])
                task = actor.label.remote(*shared, block.number, keys, block.teachers)
                under_way[task] = actor, block
                if not queue:
                    queue.extend(itertools.islice(coming, 1))
            answered, _ = self._ray.wait([*under_way, *self._starting], timeout=LOOK_SECONDS)
            if not answered:
                self._grow()
            for task in answered:
                if task in self._starting:
                    begun = self._begun(task)
                    if begun is not None:
                        under_way[begun.begin.remote(*shared)] = begun, None
                    continue
                actor, asked = under_way.pop(task)
                answer = self._get(task)
                if isinstance(answer, NodeBlocks):
                    answer = _checked(source, plan, answer)
                if isinstance(answer, Refusal):
                    if asked is not None:
                        queue.append(asked)
                    self._refuse(actor, answer, source)
                    continue
                free.append(actor)
                if isinstance(answer, NodeBlocks):
                    yield from answer.blocks
                    images = len(answer.blocks[0].data.indices)
                    progress.update(images, max(block.views for block in answer.blocks))

    def close(self) -> None:
        """Stop the actors: their cores and GPUs are free for others."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._ready, self._starting = [], [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, count: int, node: str | None = None) -> None:
        """Ask Ray for actors; they have no block before they are there."""
        resources: dict[str, Any] = dict(self._resources)
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            resources["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        for _ in range(count):
            actor = self._ray.remote(max_restarts=-1, max_task_retries=DEATHS, **resources)(
                Worker
            ).remote(self._load, self._run_options)
            self._actors.append(actor)
            self._starting[actor.describe.remote()] = actor

    def _begun(self, task: Any) -> Any:
        """The actor that has described its teachers; None if its node cannot open them."""
        actor = self._starting.pop(task)
        described = self._get(task)
        if isinstance(described, Refusal):
            self._refuse(actor, described, None)
            return None
        self._nodes[actor] = described.node
        self._ready.append(actor)
        self.teachers = self.teachers or list(described.teachers)
        return actor

    def _refuse(self, actor: Any, refusal: Refusal, source: ImageSource | None) -> None:
        """Leave an actor out, for good.

        Raises:
            MismatchError: no other is left. What kept every node from opening photos or teachers.
        """
        reason = str(refusal.error)
        if refusal.keys is not None and source is not None:
            reason = keys_apart(source.keys, refusal.keys)
        self._refused.append((refusal, f"{refusal.node.name}: {reason.rstrip('.')}"))
        for actors in (self._actors, self._ready):
            if actor in actors:
                actors.remove(actor)
        self._ray.kill(actor)
        if self._ready or self._starting:
            warnings.warn(
                f"a Ray actor is left out, others do its work: {self._refused[-1][1]}.",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        if not any(isinstance(refusal.error, MismatchError) for refusal, _ in self._refused):
            raise refusal.error
        reasons = list(dict.fromkeys(text for _, text in self._refused))
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise MismatchError(
            f"no Ray actor is left that agrees with this machine ({'; '.join(reasons[:3])}{more}): "
            "give all nodes the same photos, teachers and libraries; what was committed is kept."
        )

    def _await(self) -> None:
        """Until an actor is there."""
        patience = time.monotonic() + PATIENCE_SECONDS
        while not self._ready:
            answered, _ = self._ray.wait(list(self._starting), timeout=LOOK_SECONDS)
            if answered:
                self._begun(answered[0])
            elif time.monotonic() > patience:
                patience = float("inf")
                cluster = self._ray.cluster_resources()
                warnings.warn(
                    f"Ray has placed no actor of {self._resources} for {PATIENCE_SECONDS:.0f} s; "
                    f"the cluster has {cluster.get('CPU', 0):.0f} CPUs and "
                    f"{cluster.get('GPU', 0):.0f} GPUs, perhaps busy: it is waited for.",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _cores(self, count: int, on_gpu: bool) -> int:
        """Cores for each actor, so that all of them find room."""
        if not on_gpu:
            return int(self._ray.cluster_resources().get("CPU", 1)) // count
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        with_gpu = (node for node in nodes if node.get("GPU", 0) >= 1)
        shares = [int(node.get("CPU", 1) // node["GPU"]) for node in with_gpu]
        return min(shares, default=1)

    def _grow(self) -> None:
        """Ask for an actor for each GPU that has come."""
        if self._fixed:
            return
        refused = {refusal.node.id for refusal, _ in self._refused}
        if not refused:
            self._start(self._gpus() - len(self._actors))
            return
        # The GPUs of nodes that were left out are free: actors are sent to other nodes.
        known = refused | {node.id for node in self._nodes.values()} | self._sent
        for node in self._ray.nodes():
            gpus = int(node["Resources"].get("GPU", 0))
            if node["Alive"] and gpus and node["NodeID"] not in known:
                self._sent.add(node["NodeID"])
                self._start(gpus, node["NodeID"])

    def _get(self, task: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.RayTaskError as error:
            # What was raised on the node, as if it had been raised here.
            raise error.cause from None
        except errors.RayActorError as error:
            raise TeacherError(
                f"a Ray actor died {DEATHS + 1} times over one block "
                f"({one_line(error)}): look at its node's memory; what was "
                "committed is kept."
            ) from error


class _RayLabeller:
    """``Labeller``'s method over actors."""

    def __init__(self, engine: RayEngine, source: ImageSource, plan: RunPlan) -> None:
        self._engine = engine
        self._source = source
        self._plan = plan

    def blocks(
        self, todo: Iterable[tuple[int, tuple[int, ...]]], progress: Progress
    ) -> Iterator[LabelledBlock]:
        """As ``Labeller.blocks``, in whatever order they are finished."""
        return self._engine.blocks(self._source, self._plan, todo, progress)


def _checked(source: ImageSource, plan: RunPlan, labelled: NodeBlocks) -> NodeBlocks | Refusal:
    """A block, once some of the photos that were labelled are known to be the driver's."""
    block, data = labelled.blocks[0].block, labelled.blocks[0].data
    start = plan.manifests[0].block_slice(block).start
    step = max(1, min(CHECKED_SHARE, len(data.indices) // CHECKED_PHOTOS))
    for row in range(len(data.indices)):
        readable = data.readable is None or bool(data.readable[row])
        # All that could not be decoded are looked at: a node's copy may be damaged.
        if (row - block) % step and readable:
            continue
        try:
            here = content_digest(source.read(start + row))
        except SourceError:
            continue  # of which the driver knows nothing
        if data.digests is None or int(data.digests[row]) != here:
            error = MismatchError(
                f"its file {source.keys[start + row]!r} is another one than the driver's."
            )
            return Refusal(labelled.node, error)
    return labelled


def _driver_of(source: ImageSource) -> Driver:
    return Driver(keys_digest(source.keys), library_versions())


def _ray() -> Any:
    require_packages("the engine ray", "ray", extra="ray")
    import ray

    return ray
