from .law import ViewLaw as ViewLaw, Views as Views
from .philox import hash_keys as hash_keys
