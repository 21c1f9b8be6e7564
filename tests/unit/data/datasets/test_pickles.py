from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from rt_scale.data.datasets.cifar import load_arrays


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_pickle_asks_for_is_run(tmp_path: Path) -> None:
    content = pickle.dumps({"data": _Attack(tmp_path / "made")})
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        load_arrays(content)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_rebuilt(protocol: int, order: str) -> None:
    values = np.array(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)  # type: ignore[call-overload]
    loaded = load_arrays(pickle.dumps({"a": values, b"b": [1, 2]}, protocol=protocol))
    np.testing.assert_array_equal(loaded["a"], values)
    assert loaded["b"] == [1, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": np.zeros(2, np.int64)}, "only uint8"),
        ({"a": np.array([object()], object)}, "object|only uint8"),
        ({"a": np.float64(1)}, "scalar|only uint8"),
        ([1, 2], "a list, not a dict"),
    ],
)
def test_other_contents_are_refused(value: object, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        load_arrays(pickle.dumps(value, protocol=2))


def test_other_codecs_are_refused() -> None:
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(pickle.UnpicklingError, match="rot13"):
        load_arrays(content)


def test_an_array_without_a_type_is_refused() -> None:
    content = b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x01NNNtbs."
    with pytest.raises(pickle.UnpicklingError, match="without a type"):
        load_arrays(content)
