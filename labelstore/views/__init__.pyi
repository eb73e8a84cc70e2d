from .law import ViewLaw as ViewLaw
from .law import Views as Views
from .philox import hash_keys as hash_keys
