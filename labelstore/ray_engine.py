"""Many machines by Ray: each block is a task on an actor that holds the teachers.

The driver alone writes the store, so that nodes need to see the photos and not the store. An actor
that dies with its node is started again elsewhere and its block is made again; actors are added
when the cluster grows.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from labelstore.errors import TeacherError, UsageError
from labelstore.pipeline import Silent
from labelstore.running import LocalEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from labelstore.cutting import Resize
    from labelstore.inference import Preprocessing, Teacher
    from labelstore.manifest import Manifest
    from labelstore.pipeline import Labeller, Made, Progress
    from labelstore.sources import ImageSource

    Load = Callable[[], tuple[ImageSource, list[Teacher]]]
    """What an actor opens on its node; it is pickled."""

__all__ = ["Described", "RayEngine"]

DEATHS = 5
"""How often the actor of one block may die before the run stops: a block that kills each actor
would go round for ever."""

LOOK_SECONDS = 10.0
"""Between looks at whether the cluster has grown."""

PATIENCE_SECONDS = 60.0
"""How long nothing may be under way before it is told what Ray is waiting for."""


@dataclass(frozen=True)
class Described:
    """What the driver knows of a teacher that runs elsewhere; as ``Teacher`` has it."""

    spec: str
    preprocessing: Preprocessing
    num_classes: int
    class_names: tuple[str, ...] | None
    device: str
    description: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """What a store's manifest says of the teacher."""
        return dict(self.description)


@dataclass(frozen=True)
class _Settings:
    """What an actor labels with."""

    manifests: list[Manifest]
    batch_size: int | None
    workers: int
    on_error: str
    resize: Resize
    path: str
    """Of the first store, for messages."""


class _Worker:
    """Runs in an actor: the teachers on one device."""

    def __init__(self, load: Load, compiled: bool, batch_size: int | None) -> None:
        source, self._teachers = load()
        self._engine = LocalEngine(source, self._teachers, batch_size, compiled)
        self._labeller: Labeller | None = None

    def describe(self) -> list[Described]:
        """The teachers, for the manifests."""
        return [
            Described(
                one.spec,
                one.preprocessing,
                one.num_classes,
                one.class_names,
                one.device,
                one.describe(),
            )
            for one in self._teachers
        ]

    def label(self, settings: _Settings, block: int, numbers: tuple[int, ...]) -> list[Made]:
        """Make a block, for each of some teachers."""
        if self._labeller is None:
            self._labeller = self._engine.labeller(
                settings.manifests,
                settings.batch_size,
                settings.workers,
                settings.on_error,
                settings.resize,
                settings.path,
            )
        return list(self._labeller.blocks([(block, numbers)], Silent()))


class RayEngine:
    """A cluster, or this machine where there is none, with actors that label blocks.

    Args:
        load: opens the source and the teachers on a node.
        actors: how many; None for one a GPU, or one where the teachers run on the CPU.
        device: of the teachers, as asked for: "cpu" needs no GPU.
        workers: cores that an actor asks for, at most: of a node, each of its GPUs has its share.
        compiled, batch_size: as for ``generate``.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached. The errors of ``load``.
    """

    def __init__(
        self,
        load: Load,
        *,
        actors: int | None = None,
        device: str = "auto",
        workers: int = 2,
        compiled: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self._ray = _ray()
        self._made = (load, compiled, batch_size)
        if not self._ray.is_initialized():
            try:
                self._ray.init(
                    address=os.environ.get("RAY_ADDRESS"),
                    log_to_driver=False,
                    logging_level="error",
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UsageError(
                    f"Ray cannot be reached ({' '.join(str(error).split())[:200]}): check "
                    "RAY_ADDRESS, or unset it to run on this machine."
                ) from error
        gpus = self._gpus()
        on_gpu = device == "cuda" or (device == "auto" and gpus > 0)
        if on_gpu and not gpus and actors is None:
            raise UsageError("the Ray cluster has no GPU: give --device cpu, or add a node.")
        count = actors or (gpus if on_gpu else 1)
        self.workers = max(1, min(workers, self._cores(count, on_gpu)))
        self._options = {"num_cpus": self.workers, "num_gpus": int(on_gpu)}
        self._fixed = actors is not None or not on_gpu
        self._actors: list[Any] = []
        self._ready: list[Any] = []
        # Those that Ray has not placed yet, by what they will say of their teachers.
        self._starting: dict[Any, Any] = {}
        self._start(count)
        self.teachers: list[Described] = self._first()

    def labeller(
        self,
        manifests: list[Manifest],
        batch_size: int | None,
        workers: int,
        on_error: str,
        resize: Resize,
        path: str,
    ) -> _RayLabeller:
        """What stands in the place of ``Labeller``."""
        workers = min(workers, self.workers)
        return _RayLabeller(self, _Settings(manifests, batch_size, workers, on_error, resize, path))

    def blocks(
        self, settings: _Settings, todo: Iterable[tuple[int, tuple[int, ...]]], progress: Progress
    ) -> Iterator[Made]:
        """Finished blocks, as they are finished."""
        shared = self._ray.put(settings)
        waiting = iter(todo)
        item = next(waiting, None)
        free = list(self._ready)
        under_way: dict[Any, Any] = {}
        while item is not None or under_way:
            while free and item is not None:
                actor = free.pop()
                under_way[actor.label.remote(shared, *item)] = actor
                item = next(waiting, None)
            done, _ = self._ray.wait([*under_way, *self._starting], timeout=LOOK_SECONDS)
            if not done:
                self._grow()
            for task in done:
                if task in self._starting:
                    free.append(self._begun(task))
                    continue
                free.append(under_way.pop(task))
                made = self._get(task)
                yield from made
                images = len(made[0].data.indices)
                progress.update(images, max(one.views for one in made))

    def close(self) -> None:
        """Stop the actors: their cores and GPUs are free for others."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._ready, self._starting = [], [], {}

    def _start(self, count: int) -> None:
        """Ask Ray for actors; they have no block before they are there."""
        for _ in range(count):
            actor = self._ray.remote(max_restarts=-1, max_task_retries=DEATHS, **self._options)(
                _Worker
            ).remote(*self._made)
            self._actors.append(actor)
            self._starting[actor.describe.remote()] = actor

    def _begun(self, task: Any) -> Any:
        """The actor that has described its teachers."""
        actor = self._starting.pop(task)
        self._get(task)
        self._ready.append(actor)
        return actor

    def _first(self) -> list[Described]:
        """The teachers, as the first actor that is there describes them."""
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            done, _ = self._ray.wait(list(self._starting), timeout=LOOK_SECONDS)
            if done:
                described = self._get(done[0])
                self._begun(done[0])
                return list(described)
            if time.monotonic() > patience:
                patience = float("inf")
                there = self._ray.cluster_resources()
                warnings.warn(
                    f"Ray has placed no actor of {self._options} for {PATIENCE_SECONDS:.0f} s; the "
                    f"cluster has {there.get('CPU', 0):.0f} CPUs and {there.get('GPU', 0):.0f} "
                    "GPUs, perhaps busy: it is waited for.",
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
        shares = [int(one.get("CPU", 1) // one["GPU"]) for one in nodes if one.get("GPU", 0) >= 1]
        return min(shares, default=1)

    def _grow(self) -> None:
        """Ask for an actor for each GPU that has come."""
        if not self._fixed:
            self._start(self._gpus() - len(self._actors))

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
                f"({' '.join(str(error).split())[:200]}): look at its node's memory; what was "
                "committed is kept."
            ) from error


class _RayLabeller:
    """``Labeller``'s method over actors."""

    def __init__(self, engine: RayEngine, settings: _Settings) -> None:
        self._engine = engine
        self._settings = settings

    def blocks(
        self, todo: Iterable[tuple[int, tuple[int, ...]]], progress: Progress
    ) -> Iterator[Made]:
        """As ``Labeller.blocks``, in whatever order they are finished."""
        return self._engine.blocks(self._settings, todo, progress)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            'the engine ray is not installed: pip install "labelstore[ray]".'
        ) from error
    return ray
