"""Headers of .npy files: what NumPy writes is read, anything else refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, strategies as st

from labelstore.store.backends.npy_header import HEADER_BYTES, array_header

DTYPES = ["<u8", "<i4", "|u1", "<f2", "<f4", "<f8", "|b1", "<U7", "|S3", ">u8"]


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4), st.booleans())
def test_it_says_what_numpy_wrote(dtype, shape, fortran):
    array = np.zeros(shape, dtype, order="F" if fortran else "C")
    data = saved(array)
    header = array_header(data[:HEADER_BYTES])
    assert (header.dtype, header.shape) == (array.dtype, array.shape)
    assert header.fortran_order == (array.flags.f_contiguous and not array.flags.c_contiguous)
    assert len(data) == header.start + array.nbytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        saved(np.array([{}], dtype=object)),
        saved(np.zeros(2, dtype=[("a", "<u4"), ("b", "<f4")])),
        saved(np.zeros(3))[:40],
        saved(np.zeros(3)).replace(b"descr", b"DESCR"),
        saved(np.zeros(3)).replace(b"(3,)", b"(-3)"),
        saved(np.zeros(3)).replace(b"'<f8'", b"'<f9'"),
        saved(np.zeros(3)).replace(b"False", b"f()  "),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 3000,
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises((ValueError, TypeError)):
        array_header(data[:HEADER_BYTES])
