from . import prior as prior, temperature as temperature
from .actions import Action as Action, Calibrated as Calibrated
from .distance import distances as distances
from .distribution import entropy as entropy, largest as largest
from .ensemble import EnsembleTopK as EnsembleTopK
from .ferkd import EnsembleFerKD as EnsembleFerKD, FerKD as FerKD
from .prior import ImagePrior as ImagePrior
from .soft_labels import SoftLabels as SoftLabels, hard as hard, mix as mix, smooth as smooth
from .temperature import at_temperature as at_temperature
from .top_k import LabelType as LabelType, Tail as Tail, TopK as TopK
