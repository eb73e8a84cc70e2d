from .decoding import allow_pixels as allow_pixels, decode as decode
from .ground_truth.class_map import read_class_map as read_class_map
from .ground_truth.targets import resolve_targets as resolve_targets
from .mixing.partners import PartnerPhotos as PartnerPhotos
from .pixels import INTERPOLATIONS as INTERPOLATIONS, cut as cut, render as render
from .preprocessing import Preprocessing as Preprocessing, normalize as normalize
from .sources.choose import ImageSource as ImageSource, open_source as open_source
from .sources.folder import FolderSource as FolderSource
from .sources.parquet import ParquetSource as ParquetSource
from .sources.remote_folder import RemoteFolderSource as RemoteFolderSource
from .sources.tar import TarSource as TarSource
