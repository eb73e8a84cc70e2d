from . import mixing as mixing
from .batches import Batch as Batch, Batches as Batches
from .cycle import Schedule as Schedule
from .epochs import EpochOrder as EpochOrder
from .mixing import (
    CutMix as CutMix,
    InTurn as InTurn,
    MixPlan as MixPlan,
    MixUp as MixUp,
    OneOf as OneOf,
    SelfMix as SelfMix,
)
from .recovery import Recovery as Recovery
