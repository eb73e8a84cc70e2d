from .law import ViewLaw as ViewLaw, Views as Views
from .philox import hash_keys as hash_keys
from .stages.names import parse_stage as parse_stage
from .stages.parameters import StageParameters as StageParameters
from .stages.partners import Partners as Partners
from .stages.stage import Stage as Stage
