from . import mixing as mixing
from .batches import Batch as Batch
from .batches import Batches as Batches
from .cycle import Schedule as Schedule
from .epochs import EpochOrder as EpochOrder
from .mixing import (
    CutMix as CutMix,
)
from .mixing import (
    InTurn as InTurn,
)
from .mixing import (
    MixPlan as MixPlan,
)
from .mixing import (
    MixUp as MixUp,
)
from .mixing import (
    OneOf as OneOf,
)
from .mixing import (
    SelfMix as SelfMix,
)
from .recovery import Recovery as Recovery
