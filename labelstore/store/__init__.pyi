from .ensembles import Ensemble as Ensemble
from .ensembles import ensemble as ensemble
from .store import Store as Store
from .store import open as open
from .write_arrays import write as write
from .writer import Share as Share
from .writer import StoreWriter as StoreWriter
