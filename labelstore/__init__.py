"""labelstore: soft labels of image classifiers, made once and read at the speed of training.

    store = labelstore.open("teacher.zarr")
    topk = store.read(images=[0, 1], views=[3, 7])  # TopK
    soft = topk.recover(tail="uniform")             # SoftLabels

Importing this package imports neither torch nor zarr nor pyarrow (nor NumPy, until the first name
is used), so that scripts and ``labelstore --help`` start at once.
"""

import lazy_loader

__version__ = "0.1.0"

# The names, and where they are: __init__.pyi, which type checkers read, too.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
