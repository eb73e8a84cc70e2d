"""One image of a store: what is said of its views, and the contact sheet of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
