from . import prior as prior
from . import temperature as temperature
from .distance import distances as distances
from .distribution import entropy as entropy
from .distribution import largest as largest
from .ensemble import EnsembleTopK as EnsembleTopK
from .ferkd import (
    Action as Action,
)
from .ferkd import (
    Calibrated as Calibrated,
)
from .ferkd import (
    EnsembleFerKD as EnsembleFerKD,
)
from .ferkd import (
    FerKD as FerKD,
)
from .prior import ImagePrior as ImagePrior
from .soft_labels import SoftLabels as SoftLabels
from .soft_labels import hard as hard
from .soft_labels import mix as mix
from .soft_labels import smooth as smooth
from .temperature import at_temperature as at_temperature
from .top_k import LabelType as LabelType
from .top_k import Tail as Tail
from .top_k import TopK as TopK
