from .ensembles import Ensemble as Ensemble, ensemble as ensemble
from .label_reader import LabelReader as LabelReader
from .store import Store as Store, open as open
from .write_arrays import write as write
from .writer import Share as Share, StoreWriter as StoreWriter
