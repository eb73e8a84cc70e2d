from . import codecs as codecs
from .arrays import ArraySpec as ArraySpec
from .blocks import BlockCodes as BlockCodes
from .blocks import BlockData as BlockData
from .codecs import QUANTIZERS as QUANTIZERS
from .manifest import FORMAT_VERSION as FORMAT_VERSION
from .manifest import Manifest as Manifest
