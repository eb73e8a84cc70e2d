"""Stages that mix a view with one of another image: MixUp, CutMix, or either.

Shares are drawn as torchvision's and timm's are, from Beta(alpha, alpha). Partners are chosen by
the view's own draws among the images of a list that the stage names by size and digest: what a view
is depends neither on a batch nor on any order, and stays as it is when a store grows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from labelstore.errors import MismatchError, UsageError
from labelstore.views.exact import exp, log
from labelstore.views.philox import uniform
from labelstore.views.stages.parameters import StageParameters, code_of
from labelstore.views.stages.partners import PartnerList, Partners
from labelstore.views.stages.stage import Stage, joined, numbers_of, require_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from labelstore.views.stages.parameters import Draws

__all__ = ["WEIGHT_STEPS", "CutMix", "Mix", "MixUp", "Mixing"]

ALPHA = (0.1, 2.0)
"""Range of Beta's parameter: where the sampler accepts often, and keeps clear of underflow."""

WEIGHT_STEPS = 1 << 16
"""Shares are whole numbers of these steps of 1, so that pixels are mixed by integers."""

RUN = 4
"""Views in a row with the same partner image, unless said otherwise."""

_TRIES = 256
"""Draws of the Beta sampler, two tries each: at alpha 2, where it accepts least, all fail once in
10**40 views, and the share is then one half."""

_PARTNER_DRAW, _FIRST_TRY = 1, 2


def _beta(draws: Draws, alpha: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) from Beta(alpha, alpha), rounded to steps, by Joehnk's rejection.

    M. D. Joehnk, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", Metrika 8
    (1964): of uniform u, v, x = u**(1 / alpha) and y = v**(1 / alpha): x / (x + y), if x + y <= 1.
    (``labelstore.training.mixing_draws.beta`` takes the C library's logarithms, whose last bits
    differ between machines.)

    Args:
        alpha: (n,), 0.1 to 2.
    """
    share = np.full(len(draws), 0.5)
    pending = np.arange(len(draws))
    for attempt in range(_TRIES):
        if not pending.size:
            break
        words = draws[pending].words(_FIRST_TRY + attempt)
        units = [uniform(word) + 2.0**-32 for word in words]
        powers = [exp(log(unit) / alpha[pending]) for unit in units]
        # The second pair first: where both fit, the first one counts.
        for x, y in (powers[2:], powers[:2]):
            fits = x + y <= 1
            share[pending[fits]] = (x / (x + y))[fits]
        both = (powers[0] + powers[1] > 1) & (powers[2] + powers[3] > 1)
        pending = pending[both]
    return np.asarray(np.rint(share * WEIGHT_STEPS) / WEIGHT_STEPS)


@dataclass(frozen=True, kw_only=True)
class Mixing(Stage):
    """A stage that mixes; the last of its law."""

    probability: float = 1.0
    """Of mixing a view at all, 0..1."""
    run: int = RUN
    """Views in a row, from a multiple of it on, that have one partner image: who makes all views
    of an image decodes a partner once for so many. 1..65536."""
    partners: int = 0
    """Partners are chosen among so many first images of the store; 0 until that is settled."""
    partners_digest: str = ""
    """Of these (``PartnerList.digest``)."""

    ALPHAS: ClassVar[tuple[str, ...]]
    """Names of the settings that are Beta's parameter."""

    def _check(self) -> None:
        for name in self.ALPHAS:
            require_range(self, name, *ALPHA)
        require_range(self, "probability", 0.0, 1.0)
        require_range(self, "run", 1, 65536)
        if (self.partners < 2 or not self.partners_digest) and self.settled:
            raise UsageError(
                f"the stage {self.NAME!r} has {self.partners} partners of digest "
                f"{self.partners_digest!r}, expected at least 2 and 32 hexadecimal digits."
            )

    @property
    def settled(self) -> bool:
        """Whether it says among which images partners are."""
        return bool(self.partners or self.partners_digest)

    def among(self, key_hashes: npt.NDArray[np.uint64]) -> tuple[Self, PartnerList]:
        """The stage over images, and its list of them.

        Args:
            key_hashes: of a store's images, in order. All are partners where that is not settled.

        Raises:
            UsageError: a single image. MismatchError: the first ones are not those that partners
                were chosen among.
        """
        if not self.settled:
            if len(key_hashes) < 2:
                raise UsageError(
                    f"{self} mixes views of two images and there is {len(key_hashes)}: give "
                    "more photos, or leave it out.",
                    arguments=("augment",),
                )
            images = PartnerList(key_hashes)
            settled = dataclasses.replace(self, partners=len(images), partners_digest=images.digest)
            return settled, images
        if self.partners <= len(key_hashes):
            images = PartnerList(key_hashes[: self.partners])
            if images.digest == self.partners_digest:
                return self, images
        raise MismatchError(
            f"views are mixed ({self}) with those of {self.partners} images, and the first of the "
            f"{len(key_hashes)} images here are others: keep all images of the store that has "
            "such views, in its order."
        )

    def partners_of(self, draws: Draws, mixed: StageParameters, images: PartnerList) -> Partners:
        """Whom the n views of ``draws``, with these parameters, are mixed with."""
        chosen = np.flatnonzero(mixed.operation[:, 0])
        image = np.full(len(draws), -1, dtype=np.int64)
        view = np.zeros(len(draws), dtype=np.int64)
        some = draws[chosen]
        view[chosen] = some.words(0)[1] & 0xFFFF
        first = dataclasses.replace(some, views=some.views - some.views % np.uint64(self.run))
        image[chosen] = images.positions(some.hashes, first.words(_PARTNER_DRAW)[0])
        return Partners(image, view)

    def draw(self, draws: Draws) -> StageParameters:
        whether, kind, top, left = draws.words(0)
        second = kind >= np.uint32(1 << 31) if len(self.ALPHAS) == 2 else np.zeros(len(draws), bool)
        mixed = uniform(whether) < self.probability
        alphas = [float(getattr(self, name)) for name in self.ALPHAS]
        codes = [code_of(name) for name in self._operations]
        operation = np.where(mixed, np.where(second, codes[-1], codes[0]), 0).astype(np.uint8)
        values = np.zeros((len(draws), 3))
        rows = np.flatnonzero(mixed)
        values[rows, 0] = _beta(draws[rows], np.where(second[rows], alphas[-1], alphas[0]))
        cut = operation == code_of("cutmix")
        values[cut, 1], values[cut, 2] = uniform(top[cut]), uniform(left[cut])
        return StageParameters(operation[:, None], values[:, None])

    @property
    def _operations(self) -> tuple[str, ...]:
        """What the alphas are of."""
        return (self.NAME,)

    def __str__(self) -> str:
        alphas = [float(getattr(self, name)) for name in self.ALPHAS]
        chance = "" if self.probability == 1 else f"-p{joined('', self.probability)[1:]}"
        return joined(self.NAME, *alphas) + chance + ("" if self.run == RUN else f"-r{self.run}")

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        alphas, others = parts[: len(cls.ALPHAS)], list(parts[len(cls.ALPHAS) :])
        settings: dict[str, Any] = dict(zip(cls.ALPHAS, numbers_of(alphas), strict=True))
        if others and others[0].startswith("p"):
            (settings["probability"],) = numbers_of([others.pop(0)[1:]])
        run = int(others.pop(0)[1:]) if others and others[0].startswith("r") else RUN
        if others:
            raise ValueError("another number of settings")
        return cls(**settings, run=run)


@dataclass(frozen=True, kw_only=True)
class MixUp(Mixing):
    """MixUp (Zhang et al., ICLR 2018): the view's pixels times a share, plus the partner's times
    the rest. Values: the view's own share."""

    alpha: float = 0.8
    """Of the share's Beta distribution, 0.1..2."""

    NAME: ClassVar[str] = "mixup"
    USAGE: ClassVar[str] = "mixup-ALPHA, as mixup-0.8, and -pPROBABILITY, -rVIEWS"
    ALPHAS: ClassVar[tuple[str, ...]] = ("alpha",)


@dataclass(frozen=True, kw_only=True)
class CutMix(Mixing):
    """CutMix (Yun et al., ICCV 2019): a rectangle of the partner's view in place of the view's own.

    Values: the share of the view before the rectangle is clipped, and the rectangle's centre, as
    shares of the view's height and width.
    """

    alpha: float = 1.0
    """Of the share's Beta distribution, 0.1..2."""

    NAME: ClassVar[str] = "cutmix"
    USAGE: ClassVar[str] = "cutmix-ALPHA, as cutmix-1, and -pPROBABILITY, -rVIEWS"
    ALPHAS: ClassVar[tuple[str, ...]] = ("alpha",)


@dataclass(frozen=True, kw_only=True)
class Mix(Mixing):
    """MixUp or CutMix, each for half of the views: timm's ``--mixup 0.8 --cutmix 1``."""

    mixup: float = 0.8
    """Alpha of MixUp, 0.1..2."""
    cutmix: float = 1.0
    """Alpha of CutMix, 0.1..2."""

    NAME: ClassVar[str] = "mix"
    USAGE: ClassVar[str] = "mix-MIXUP-CUTMIX, as mix-0.8-1, and -pPROBABILITY, -rVIEWS"
    ALPHAS: ClassVar[tuple[str, ...]] = ("mixup", "cutmix")

    @property
    def _operations(self) -> tuple[str, ...]:
        return ("mixup", "cutmix")
