"""Labels made in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labelstore.producer.labeller import Labeller
from labelstore.producer.probe import check_device_resize, prove
from labelstore.producer.settings import DEFAULT_OPTIONS, RunOptions
from labelstore.teachers.device_memory import default_batch_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from labelstore.format.manifest import Manifest
    from labelstore.images.sources.choose import ImageSource
    from labelstore.producer.settings import RunPlan
    from labelstore.teachers.info import TeacherInfo
    from labelstore.teachers.teacher import Teacher

__all__ = ["LocalEngine"]


class LocalEngine:
    """The teachers in this process; ``RayEngine`` has one in each of its actors.

    Args:
        teachers: the teachers; with ``options.compiled`` they are compiled.
        options: of the runs; ``batch_size`` and ``compiled`` are looked at.
    """

    def __init__(self, teachers: Sequence[Teacher], options: RunOptions = DEFAULT_OPTIONS) -> None:
        self._teachers = list(teachers)
        self._compiled_for: int | None = None
        if options.compiled and self._teachers:
            self._compiled_for = options.batch_size or default_batch_size(self._teachers)
            for teacher in self._teachers:
                teacher.compile(self._compiled_for)

    @property
    def teachers(self) -> list[TeacherInfo]:
        """The teachers, in order."""
        return [teacher.info for teacher in self._teachers]

    def prove(
        self, source: ImageSource, manifests: Mapping[int, Manifest], paths: Sequence[str]
    ) -> dict[int, tuple[dict[str, Any], ...]]:
        """As ``Engine.prove``."""
        return {
            number: prove(source, self._teachers[number], manifest, paths[number])
            for number, manifest in manifests.items()
        }

    def labeller(self, source: ImageSource, plan: RunPlan) -> Labeller:
        """As ``Engine.labeller``."""
        options = plan.options
        options = replace(options, batch_size=options.batch_size or self._compiled_for)
        pairs = list(zip(self._teachers, plan.manifests, strict=True))
        if options.resize == "device":
            for (teacher, manifest), path in zip(pairs, plan.paths, strict=True):
                check_device_resize(source, teacher, manifest, path)
        return Labeller(source, pairs, options, plan.first_views)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: the teachers are the caller's."""
