"""The view law: which crop of an image is view number v (DESIGN: a view is a pure function).

``(seed, image key, view number, width, height) -> box, flip, parameters of stages``, with the
distribution of torchvision's RandomResizedCrop and RandomHorizontalFlip: up to ten tries of area
fraction uniform in ``scale`` and aspect ratio log-uniform in ``ratio``, position uniform over
integer pixels, and a central crop when no try fits. Nothing here depends on the order or the number
of images. What else is done to a view's pixels are stages (``labelstore.views.stages``), each of
which draws by itself.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelstore.errors import UsageError
from labelstore.views.boxes import BoxLaw, draw_boxes
from labelstore.views.stages.mixing import Mixing
from labelstore.views.stages.names import MAX_STAGES, parse_stage, stage_of_json
from labelstore.views.stages.parameters import Draws
from labelstore.views.stages.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from labelstore.views.stages.parameters import StageParameters
    from labelstore.views.stages.partners import PartnerList, Partners

    Int32Array = npt.NDArray[np.int32]

__all__ = ["ViewLaw", "Views"]


@dataclass(frozen=True)
class Views:
    """What some views are: their geometry, and what is done to their pixels then."""

    box: Int32Array
    """(..., 4) int32, pixels: top, left, height, width, inside the decoded upright image."""
    flip: npt.NDArray[np.bool_]
    """(...) bool: whether the crop is mirrored left to right after resizing."""
    stages: tuple[StageParameters, ...] = ()
    """Of each stage of the law, in order, what it does to the resized and mirrored pixels."""
    partners: Partners | None = None
    """What the last stage mixes the views with; None where none mixes."""

    def __getitem__(self, rows: Any) -> Views:
        """Some of the views."""
        stages = tuple(stage[rows] for stage in self.stages)
        partners = None if self.partners is None else self.partners[rows]
        return Views(self.box[rows], self.flip[rows], stages, partners)


@dataclass(frozen=True)
class ViewLaw:
    """The parameters of the law ``philox-resized-crop``, version 1.

    Raises:
        UsageError: a value is out of its range.
    """

    seed: int = 0
    """0..2**64-1."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's area as a fraction of the image's, 0 < low <= high <= 1."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width / height, 0 < low <= high."""
    flip: float = 0.5
    """Probability of mirroring, 0..1."""
    stages: tuple[Stage, ...] = ()
    """What is done to the pixels after crop and mirror, in order; given as stages, or by name
    (``("ra-n2-m9", "erase-0.25")``, see ``labelstore.views.stages.names``). One that mixes is the
    last."""
    partner_list: PartnerList | None = dataclasses.field(default=None, compare=False, repr=False)
    """The images that views are mixed with, once ``among`` told them."""

    NAME = "philox-resized-crop"
    VERSION = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(float(value) for value in self.scale))
        object.__setattr__(self, "ratio", tuple(float(value) for value in self.ratio))
        stages = tuple(
            stage if isinstance(stage, Stage) else parse_stage(stage) for stage in self.stages
        )
        object.__setattr__(self, "stages", stages)
        if len(stages) > MAX_STAGES:
            raise UsageError(
                f"{len(stages)} augmentations were asked for, expected at most {MAX_STAGES}: "
                "leave some out.",
                arguments=("augment",),
            )
        if any(isinstance(stage, Mixing) for stage in stages[:-1]):
            raise UsageError(
                f"the augmentations are {' '.join(map(str, stages))}, expected one that mixes at "
                "most, as the last: reorder them.",
                arguments=("augment",),
            )
        if not 0 <= self.seed < 2**64:
            raise UsageError(
                f"seed is {self.seed}, expected 0 to 2**64-1: choose another.", arguments=("seed",)
            )
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(
                f"scale is {self.scale}, expected two numbers with 0 < low <= high <= 1: "
                "correct them.",
                arguments=("scale",),
            )
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UsageError(
                f"ratio is {self.ratio}, expected two numbers with 0 < low <= high: correct them.",
                arguments=("ratio",),
            )
        if not 0 <= self.flip <= 1:
            raise UsageError(
                f"flip is {self.flip}, expected a probability: correct it.", arguments=("flip",)
            )

    @property
    def mixing(self) -> Mixing | None:
        """The stage that mixes views with those of other images, where there is one."""
        last = self.stages[-1] if self.stages else None
        return last if isinstance(last, Mixing) else None

    @property
    def unmixed(self) -> ViewLaw:
        """The same law without the stage that mixes: what the views of partners are."""
        if self.mixing is None:
            return self
        return dataclasses.replace(self, stages=self.stages[:-1], partner_list=None)

    def among(self, key_hashes: npt.NDArray[np.uint64]) -> ViewLaw:
        """The law over the images of a store: a mixing stage needs to know them.

        Args:
            key_hashes: (N,) of all images, in the store's order.

        Raises:
            UsageError: a single image, of which none is a partner. MismatchError: partners are
                chosen among other images than these.
        """
        if self.mixing is None:
            return self
        stage, images = self.mixing.among(key_hashes)
        return dataclasses.replace(self, stages=(*self.stages[:-1], stage), partner_list=images)

    def __call__(
        self,
        key_hashes: npt.ArrayLike,
        views: npt.ArrayLike,
        widths: npt.ArrayLike,
        heights: npt.ArrayLike,
    ) -> Views:
        """Boxes, flips and stages' parameters of views; all arguments broadcast together.

        Args:
            key_hashes: uint64, ``philox.hash_keys`` of the images' keys.
            views: view numbers, 0..2**32-1.
            widths, heights: pixels of the decoded upright images, 1..2**31-1.

        Returns:
            Views of the broadcast shape.

        Raises:
            UsageError: an image without pixels; a law that mixes and was not told among which
                images (``among``).
        """
        hashes, numbers, width, height = (
            array.reshape(-1)
            for array in np.broadcast_arrays(
                np.asarray(key_hashes, dtype=np.uint64),
                np.asarray(views, dtype=np.uint64),
                np.asarray(widths, dtype=np.int64),
                np.asarray(heights, dtype=np.int64),
            )
        )
        shape = np.broadcast_shapes(
            *(np.shape(argument) for argument in (key_hashes, views, widths, heights))
        )
        if hashes.size and min(int(width.min()), int(height.min())) < 1:
            raise UsageError("a view of an image without pixels was asked for: check its size.")
        box, flip = draw_boxes(
            BoxLaw(self.seed, self.scale, self.ratio, self.flip), hashes, numbers, width, height
        )
        draws = [
            Draws(self.seed, hashes, numbers, position) for position in range(len(self.stages))
        ]
        stages = [stage.draw(own) for stage, own in zip(self.stages, draws, strict=True)]
        partners = self._partners(draws[-1], stages[-1]) if self.mixing is not None else None
        return Views(
            box=box.reshape(*shape, 4),
            flip=flip.reshape(shape),
            stages=tuple(stage.reshape(shape) for stage in stages),
            partners=None if partners is None else partners.reshape(shape),
        )

    def _partners(self, draws: Draws, mixed: StageParameters) -> Partners:
        if self.mixing is None or self.partner_list is None:
            raise UsageError(
                f"views are mixed ({self.stages[-1]}) and nothing tells with which images: ask "
                "store.views, or law.among(hashes of all keys)."
            )
        return self.mixing.partners_of(draws, mixed, self.partner_list)

    def to_json(self) -> dict[str, Any]:
        """The manifest's description of this law; without ``stages`` where there are none."""
        description = {
            "name": self.NAME,
            "version": self.VERSION,
            "seed": self.seed,
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "flip": self.flip,
        }
        if self.stages:
            description["stages"] = [stage.to_json() for stage in self.stages]
        return description

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> ViewLaw:
        """The law of a manifest; UsageError when it is of another name or version."""
        if (description.get("name"), description.get("version")) != (cls.NAME, cls.VERSION):
            raise UsageError(
                f"the view law is {description.get('name')!r} version "
                f"{description.get('version')!r}, expected {cls.NAME!r} version {cls.VERSION}: "
                "install the labelstore that made this store."
            )
        return cls(
            seed=description["seed"],
            scale=tuple(description["scale"]),
            ratio=tuple(description["ratio"]),
            flip=description["flip"],
            stages=tuple(stage_of_json(stage) for stage in description.get("stages", ())),
        )
