"""What a label says: stored top-k, what a student learns, FerKD's rule. NumPy only, no files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
