"""The compiled parts; everything else is said in setup.cfg."""

import os
import platform

from setuptools import Extension, setup

# Elsewhere Pillow resizes and NumPy draws and decodes, as where there is no compiler ("optional").
_THERE = os.name == "posix" and platform.machine() in ("x86_64", "AMD64")

setup(
    ext_modules=[
        Extension(
            f"labelstore.{package}.{name}",
            [f"labelstore/{package.replace('.', '/')}/{name}.c"],
            # Fused multiplications would give other last bits than Pillow's and NumPy's.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            libraries=["m"],
            py_limited_api=True,
            optional=True,
        )
        for package, name in (
            ("format", "_doubtful"),
            ("format.codecs", "_one_label"),
            ("format.units", "_unit_code"),
            ("format.units", "_unit_digests"),
            ("images", "_resample"),
            ("peers.pickles", "_latin1"),
            ("store.backends.zarr", "_chunks"),
            ("training.planning", "_coded_rules"),
            ("views", "_boxes"),
        )
    ]
    if _THERE
    else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if _THERE else {},
)
