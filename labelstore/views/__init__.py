"""Which crop is view number v of an image: a pure function of the law and the image's key."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
