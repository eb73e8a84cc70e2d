from .ground_truth import read_class_map as read_class_map
from .ground_truth import resolve_targets as resolve_targets
from .pixels import allow_pixels as allow_pixels, INTERPOLATIONS as INTERPOLATIONS
from .pixels import cut as cut
from .pixels import decode as decode
from .preprocessing import Preprocessing as Preprocessing
from .preprocessing import normalize as normalize
from .sources.choose import ImageSource as ImageSource
from .sources.choose import open_source as open_source
from .sources.folder import FolderSource as FolderSource
from .sources.parquet import ParquetSource as ParquetSource
from .sources.remote_folder import RemoteFolderSource as RemoteFolderSource
from .sources.tar import TarSource as TarSource
