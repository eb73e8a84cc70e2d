from . import (
    errors as errors,
    format as format,
    images as images,
    labels as labels,
    operations as operations,
    producer as producer,
    storage as storage,
    store as store,
    teachers as teachers,
    testing as testing,
    torch as torch,
    training as training,
    views as views,
)
from .errors import LabelStoreError as LabelStoreError
from .images.sources.choose import open_source as open_source
from .labels import temperature as temperature
from .labels.actions import Action as Action, Calibrated as Calibrated
from .labels.calibration.phases import LabelPhases as LabelPhases
from .labels.calibration.thresholds import ClassThresholds as ClassThresholds
from .labels.ferkd import EnsembleFerKD as EnsembleFerKD, FerKD as FerKD
from .labels.soft_labels import SoftLabels as SoftLabels
from .labels.temperature import at_temperature as at_temperature
from .labels.top_k import TopK as TopK
from .store.ensembles import Ensemble as Ensemble, ensemble as ensemble
from .store.store import Store as Store, open as open
from .store.write_arrays import write as write
from .torch import recipes as recipes
from .torch.recipes import Recipe as Recipe, recipe as recipe
from .training import mixing as mixing
from .training.batches import Batch as Batch, Batches as Batches
from .views.law import ViewLaw as ViewLaw, Views as Views

__version__: str
