"""Reading the pickles that CIFAR is published in, without running what a pickle could ask to be run.

A pickle names the callables that rebuild its objects. Here every name leads to a small class of our own that
can hold uint8 arrays and nothing else, and any other name is refused: not even numpy's code runs.
"""

from __future__ import annotations

import codecs
import io
import pickle
from typing import Any

import numpy as np


def load_arrays(content: bytes) -> dict[str, Any]:
    """The dict of uint8 arrays, lists, numbers and strings that ``content`` pickles.

    Strings of python 2 arrive as bytes, except as keys. Raises pickle.UnpicklingError where the pickle asks
    for anything but the reconstruction of uint8 arrays, and whatever unpickling raises on damaged input.
    """
    value = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(value, dict):
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, not a dict")
    return {_text(key): each.values if isinstance(each, _Array) else each for key, each in value.items()}


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _Kind:
    """Stands for ``numpy.dtype``; uint8 is the only one."""

    def __init__(self, code: Any, *_: Any) -> None:
        if _text(code).lstrip("|") != "u1":
            raise pickle.UnpicklingError(f"it holds an array of {_text(code)}; only uint8 is accepted")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: without meaning for uint8."""


class _Array:
    """Stands for ``numpy.ndarray``: made empty, then given its contents."""

    values: np.ndarray

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("it holds an array without a type")
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _encode_latin1(text: str, encoding: str) -> bytes:
    """``_codecs.encode``, as python 3 writes bytes in protocol 2; no other codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return codecs.latin_1_encode(text)[0]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encode_latin1,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only uint8 arrays are accepted from such files")
        return _ALLOWED[module, name]
