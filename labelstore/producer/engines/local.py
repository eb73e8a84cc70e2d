"""Labels made in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelstore.errors import UsageError
from labelstore.producer.labeller import Labeller
from labelstore.producer.probe import check_device_resize, prove
from labelstore.teachers.batch_size import default_batch_size
from labelstore.teachers.teacher import Teacher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.run import Settings
    from labelstore.teachers.teacher import TeacherInfo

__all__ = ["LocalEngine"]


class LocalEngine:
    """The teachers in this process; ``RayEngine`` has one in each of its actors."""

    def __init__(
        self, teachers: Sequence[Teacher | TeacherInfo], batch_size: int | None, compiled: bool
    ) -> None:
        self._teachers = [one for one in teachers if isinstance(one, Teacher)]
        if len(self._teachers) < len(teachers):
            raise UsageError("a teacher of an engine was given without its engine: give both.")
        self._compiled_for: int | None = None
        if compiled:
            self._compiled_for = batch_size or default_batch_size(self._teachers)
            for teacher in self._teachers:
                teacher.compile(self._compiled_for)

    def prove(
        self, source: ImageSource, manifests: Mapping[int, Manifest], paths: Sequence[str]
    ) -> dict[int, tuple[dict[str, Any], ...]]:
        """``labelstore.producer.probe.prove`` for some of the teachers.

        Args:
            source: the images.
            manifests: by the teacher's number. paths: of all stores, for messages.

        Returns:
            What each of these teachers says of the probed views.
        """
        return {
            number: prove(source, self._teachers[number], manifest, paths[number])
            for number, manifest in manifests.items()
        }

    def labeller(self, source: ImageSource, settings: Settings) -> Labeller:
        """What makes the blocks of stores."""
        batch_size = settings.batch_size or self._compiled_for or default_batch_size(self._teachers)
        pairs = list(zip(self._teachers, settings.manifests, strict=True))
        if settings.resize == "device":
            for (teacher, manifest), path in zip(pairs, settings.paths, strict=True):
                check_device_resize(source, teacher, manifest, path)
        return Labeller(
            source, pairs, batch_size, settings.workers, settings.on_error, settings.resize
        )
