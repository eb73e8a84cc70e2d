from . import (
    errors as errors,
)
from . import (
    format as format,
)
from . import (
    images as images,
)
from . import (
    labels as labels,
)
from . import (
    operations as operations,
)
from . import (
    producer as producer,
)
from . import (
    storage as storage,
)
from . import (
    store as store,
)
from . import (
    teachers as teachers,
)
from . import (
    testing as testing,
)
from . import (
    torch as torch,
)
from . import (
    training as training,
)
from . import (
    views as views,
)
from .errors import LabelStoreError as LabelStoreError
from .images.sources.choose import open_source as open_source
from .labels import temperature as temperature
from .labels.ferkd import (
    Action as Action,
)
from .labels.ferkd import (
    Calibrated as Calibrated,
)
from .labels.ferkd import (
    EnsembleFerKD as EnsembleFerKD,
)
from .labels.ferkd import (
    FerKD as FerKD,
)
from .labels.soft_labels import SoftLabels as SoftLabels
from .labels.temperature import at_temperature as at_temperature
from .labels.top_k import TopK as TopK
from .store.ensembles import Ensemble as Ensemble
from .store.ensembles import ensemble as ensemble
from .store.store import Store as Store
from .store.store import open as open
from .store.write_arrays import write as write
from .torch import recipes as recipes
from .torch.recipes import Recipe as Recipe
from .torch.recipes import recipe as recipe
from .training import mixing as mixing
from .training.batches import Batch as Batch
from .training.batches import Batches as Batches
from .views.law import ViewLaw as ViewLaw
from .views.law import Views as Views

__version__: str
