"""Bundles that were damaged on their way."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store.bundle.unpack import open_bundle


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_one_that_was_cut_short(sound: Path, tmp_path: Path, refusal: Callable[[Path], str], share: float) -> None:
    data = sound.read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(data[: int(share * (len(data) - 1))])
    refusal(tmp_path / "b.tar.gz")


def test_damage_anywhere_is_refused_or_changes_nothing(sound: Path, tmp_path: Path) -> None:
    """A byte anywhere: in what no reader looks at, the bundle is what it was; else it is refused, in words."""
    generator, data = random.Random(0), sound.read_bytes()
    first = open_bundle(sound, tmp_path / "first")
    files = {path.relative_to(first.store.root): path.read_bytes() for path in first.store.root.rglob("*.*")
             if path.is_file()}  # fmt: skip
    refused = 0
    for number in range(150):
        broken, place = bytearray(data), generator.randrange(len(data))
        broken[place] ^= 1 << generator.randrange(8)
        (tmp_path / "b.tar.gz").write_bytes(broken)
        try:
            root = open_bundle(tmp_path / "b.tar.gz", tmp_path / str(number)).store.root
        except InputError:
            refused += 1
            continue
        for name, expected in files.items():
            assert (root / name).read_bytes() == expected, (place, name)
    assert refused > 100
