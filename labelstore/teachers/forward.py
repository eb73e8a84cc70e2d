"""A batch on its way through a teacher: begun at once, its results waited for only when asked for.

Softmax, top-k and the sums of distributions are taken on the teacher's device; a few numbers a view
come back.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.teachers.top_k import top_k_keys, unpack_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

    from labelstore.teachers.teacher import Teacher

__all__ = ["Forward", "log_probabilities"]


class Forward:
    """One forward of a teacher.

    Attributes:
        lost: rows whose logits are not finite; known once there is a ``result``.

    Args:
        teacher: the teacher.
        pixels: (B, H, W, 3) uint8, on the host or on the teacher's device.
        k: classes of each label; temperature: positive, the logits are divided by it.
        lengths: how many views each run of consecutive rows has, where their summed distributions
            are wanted; else None.
        check: compare the logits of the first crops with what the teacher says of them alone.

    Raises:
        TeacherError: the check failed, or memory does not do for one crop.
    """

    def __init__(
        self,
        teacher: Teacher,
        pixels: torch.Tensor,
        k: int,
        temperature: float,
        lengths: Sequence[int] | None,
        *,
        check: bool = False,
    ) -> None:
        import torch

        self._teacher = teacher
        self.lost: tuple[int, ...] = ()
        self._begun: Any = None
        if teacher.device == "cuda":
            self._begun = _recorded(teacher.place)
        with torch.inference_mode():
            logits = teacher.outputs(pixels)
            if check:
                teacher.check_crops(pixels, logits)
            self._take = functools.partial(
                _outputs_of, k=k, temperature=temperature, lengths=lengths
            )
            parts = self._take(logits)
        # Kept until it is known whether they are finite.
        self._pixels, self._logits = pixels, logits
        self._num_classes = logits.shape[-1]
        self._event: Any = None
        if logits.device.type == "cuda":
            # Pinned, or the copies would wait.
            self._parts = [
                torch.empty_like(part, device="cpu", pin_memory=True).copy_(part, non_blocking=True)
                for part in parts
            ]
            self._event = _recorded(logits.device)
        else:
            self._parts = [part.cpu() for part in parts]

    def result(
        self,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float64] | None]:
        """Class ids (B, k), probabilities (B, k) and the runs' sums (runs, C) or None.

        Logits that are not finite are made again in fp32; of the rows ``lost`` even these are not,
        and what is returned of them means nothing.
        """
        import torch

        if self._event is not None:
            self._event.synchronize()
        if not bool(self._parts[0]):
            with torch.inference_mode():
                logits, self.lost = self._teacher.mended(self._pixels, self._logits)
                rows = list(self.lost)
                logits = logits.index_fill(0, torch.tensor(rows, device=logits.device).long(), 0)
                self._parts = [part.cpu() for part in self._take(logits)]
        del self._pixels, self._logits
        _, keys, *sums = self._parts
        classes, values = unpack_keys(keys, self._num_classes)
        return classes, values, sums[0].numpy().astype(np.float64) if sums else None

    def idle_since(self, before: Forward) -> float:
        """Seconds that a GPU had nothing to do between an earlier forward and this one, once the
        results of both are there; 0 on other devices."""
        if self._begun is None or before._event is None:
            return 0.0
        return max(float(before._event.elapsed_time(self._begun)) / 1000, 0.0)


def log_probabilities(teacher: Teacher, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What a teacher says of a few views: the natural logarithm of its softmax at temperature 1.

    Args:
        teacher: the teacher. pixels: (B, H, W, 3) uint8, B at least 1.

    Returns:
        (B, C); NaN in the rows of views whose logits are not finite.

    Raises:
        TeacherError: the network fails.
    """
    import torch

    # One by one: whatever batch the user asked for, this has room.
    size = teacher.batch_size or 1
    with torch.inference_mode():
        logits = torch.cat(
            [
                teacher.outputs(torch.from_numpy(pixels[start : start + size])).cpu()
                for start in range(0, len(pixels), size)
            ]
        )
    values = logits.numpy().astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    values -= values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def _outputs_of(
    logits: torch.Tensor, k: int, temperature: float, lengths: Sequence[int] | None
) -> list[torch.Tensor]:
    """Whether all are finite; the keys of the k largest classes; the sums of runs."""
    import torch

    probabilities = torch.softmax(logits / temperature, dim=-1)
    parts = [torch.isfinite(logits).all(), top_k_keys(probabilities, k)]
    if lengths is not None:
        parts.append(_sums(probabilities, list(lengths)))
    return parts


def _recorded(device: torch.device) -> Any:
    """An event with a time, behind all that a GPU has been given to do."""
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _sums(probabilities: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """(runs, C) sums over runs of consecutive rows."""
    import torch

    if len(set(lengths)) == 1:
        return probabilities.view(len(lengths), lengths[0], -1).sum(dim=1)
    return torch.stack([run.sum(dim=0) for run in torch.split(probabilities, lengths)])
