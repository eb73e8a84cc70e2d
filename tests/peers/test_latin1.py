"""Bytes that pickles keep as text: the compiled part gives what Python's decoders give."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from labelstore.peers.pickles import latin1
from labelstore.peers.pickles.latin1 import latin1_bytes

compiled = pytest.mark.skipif(
    latin1._compiled() is None, reason="the compiled part was not built here"
)
EDGES = [0, 0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xE0, 0xF4, 0xFF]


def by_python(text):
    try:
        return text.decode("utf-8").encode("latin-1")
    except ValueError:
        return None


@compiled
@given(st.binary(max_size=100))
def test_bytes_come_back(data):
    assert latin1._compiled().latin1(data.decode("latin-1").encode()) == data


@compiled
@given(st.lists(st.sampled_from(EDGES), max_size=40).map(bytes))
def test_what_is_no_latin1_is_noticed(text):
    assert latin1._compiled().latin1(text) == by_python(text)


@compiled
def test_every_pair_of_bytes_at_every_place():
    """At the seams of sixteen bytes, too, and at the end."""
    for place in (0, 6, 7, 14, 15, 16, 30):
        for first in range(256):
            for second in EDGES:
                text = bytes([*b"a" * place, first, second])
                for end in (b"", b"b" * 17):
                    assert latin1._compiled().latin1(text + end) == by_python(text + end)


@compiled
def test_numbers_as_arrays_have_them():
    for seed in range(50):
        data = np.random.default_rng(seed).bytes(997 * seed)
        assert latin1_bytes(data.decode("latin-1").encode()) == data


def test_python_tells_what_is_wrong(monkeypatch):
    for _ in range(2):
        assert latin1_bytes("\0a\xff".encode()) == b"\0a\xff"
        with pytest.raises(UnicodeEncodeError):
            latin1_bytes("aĀ".encode())
        with pytest.raises(UnicodeDecodeError):
            latin1_bytes(b"a\xc3")
        monkeypatch.setattr(latin1, "_compiled", lambda: None)
