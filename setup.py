"""The compiled parts; everything else is said in setup.cfg."""

import os
import platform

from setuptools import Extension, setup

# Elsewhere Pillow resizes and NumPy decodes, as where there is no compiler ("optional").
_THERE = os.name == "posix" and platform.machine() in ("x86_64", "AMD64")

setup(
    ext_modules=[
        Extension(
            "labelstore.images._resample",
            ["labelstore/images/_resample.c"],
            # Fused multiplications would give other last bits of weights than Pillow's.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            libraries=["m"],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "labelstore.format.units._unit_code",
            ["labelstore/format/units/_unit_code.c"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        ),
    ]
    if _THERE
    else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if _THERE else {},
)
