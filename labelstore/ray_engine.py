"""Many machines by Ray: each block is a task on an actor that holds the teachers.

The driver alone writes the store, so that nodes need to see the photos and not the store. An actor
that dies with its node is started again elsewhere and its block is made again; actors are added
when the cluster grows.
"""

from __future__ import annotations

import os
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
        workers: cores that an actor asks for.
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
        cores = min(workers, int(self._ray.cluster_resources().get("CPU", 1)))
        self._options = {"num_cpus": cores, "num_gpus": int(on_gpu)}
        self._fixed = actors is not None or not on_gpu
        self._actors = [self._start() for _ in range(actors or gpus or 1)]
        self.teachers: list[Described] = self._get(self._actors[0].describe.remote())

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
        return _RayLabeller(self, _Settings(manifests, batch_size, workers, on_error, resize, path))

    def blocks(
        self, settings: _Settings, todo: Iterable[tuple[int, tuple[int, ...]]], progress: Progress
    ) -> Iterator[Made]:
        """Finished blocks, as they are finished."""
        shared = self._ray.put(settings)
        waiting = iter(todo)
        free = list(self._actors)
        under_way: dict[Any, Any] = {}
        while True:
            while free:
                item = next(waiting, None)
                if item is None:
                    break
                actor = free.pop()
                under_way[actor.label.remote(shared, *item)] = actor
            if not under_way:
                return
            done, _ = self._ray.wait(list(under_way), timeout=LOOK_SECONDS)
            if not done:
                free += self._grown()
            for task in done:
                free.append(under_way.pop(task))
                made = self._get(task)
                yield from made
                images = len(made[0].data.indices)
                progress.update(images, max(one.views for one in made))

    def close(self) -> None:
        """Stop the actors: their cores and GPUs are free for others."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []

    def _start(self) -> Any:
        remote = self._ray.remote(max_restarts=-1, max_task_retries=DEATHS, **self._options)(
            _Worker
        )
        return remote.remote(*self._made)

    def _gpus(self) -> int:
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _grown(self) -> list[Any]:
        """An actor for each GPU that has come."""
        if self._fixed:
            return []
        new = [self._start() for _ in range(self._gpus() - len(self._actors))]
        self._actors += new
        return new

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
