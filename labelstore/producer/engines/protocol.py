"""What runs a run's teachers: in this process, or on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.labeller import LabelledBlock
    from labelstore.producer.progress import Progress
    from labelstore.producer.settings import RunPlan
    from labelstore.teachers.info import TeacherInfo

__all__ = ["BlockLabeller", "Engine"]


class BlockLabeller(Protocol):
    """What makes the blocks of a run's stores."""

    def blocks(
        self, todo: Iterable[tuple[int, tuple[int, ...]]], progress: Progress
    ) -> Iterator[LabelledBlock]:
        """Finished blocks.

        Args:
            todo: blocks, each with the numbers of the teachers that are to label it; asked for
                the next one, perhaps in another thread, as soon as there is room for its pixels.
            progress: told of images and views as they are finished.
        """


class Engine(Protocol):
    """Teachers, wherever they are. Leaving it as a context gives back what it holds."""

    @property
    def teachers(self) -> Sequence[TeacherInfo]:
        """The teachers, in order; their places are the numbers that other methods speak of."""

    def prove(
        self, source: ImageSource, manifests: Mapping[int, Manifest], paths: Sequence[str]
    ) -> dict[int, tuple[dict[str, Any], ...]]:
        """``labelstore.producer.probe.prove`` for some of the teachers.

        Args:
            source: the images.
            manifests: by the teacher's number. paths: of all stores, for messages.

        Returns:
            What each of these teachers says of the probed views.

        Raises:
            MismatchError: photos, teachers or libraries are not those of the manifests.
        """

    def labeller(self, source: ImageSource, plan: RunPlan) -> BlockLabeller:
        """What makes the blocks of a plan's stores, one for each teacher."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
