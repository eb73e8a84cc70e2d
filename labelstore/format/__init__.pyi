from . import codecs as codecs
from .arrays import ArraySpec as ArraySpec
from .blocks import BlockCodes as BlockCodes, BlockData as BlockData
from .codecs import QUANTIZERS as QUANTIZERS
from .manifest import Manifest as Manifest
from .settings import StoreOptions as StoreOptions, StoreSettings as StoreSettings
from .versions import FORMAT_VERSION as FORMAT_VERSION
