"""Preparing under real processes: killed half-way, at the same time, and many opening at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.prepare import open_prepared, prepare, verify_prepared
from rt_scale.spec.errors import InputError

# Says when half of the images are written, then waits to be killed.
STOPS_HALF_WAY = """
import sys, time
from pathlib import Path
from rt_scale.data.prepare import prepare

def stop(done, total):
    print("half", flush=True)
    time.sleep(600)

prepare("pets", Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)
"""
OPENS_DIGITS = """
import sys
from pathlib import Path
from rt_scale.data.prepare import open_prepared
print(open_prepared("digits", Path(sys.argv[1])).sha256)
"""


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


def test_a_killed_preparation_is_refused_while_it_lives_and_cleaned_after(tmp_path: Path, pets: Path) -> None:
    data_dir = tmp_path / "data"
    child = subprocess.Popen(
        [sys.executable, "-c", STOPS_HALF_WAY, str(data_dir), str(pets)], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        with pytest.raises(InputError, match="being prepared"):
            prepare("pets", data_dir, pets)
        child.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in data_dir.iterdir()) == [".pets.lock", ".pets.tmp"]
    with pytest.raises(InputError, match="Unknown data set 'pets'"):
        open_prepared("pets", data_dir)
    prepare("pets", data_dir, pets)
    assert verify_prepared("pets", data_dir).train.samples == 16
    assert sorted(path.name for path in data_dir.iterdir()) == [".pets.lock", "pets"]


def test_many_processes_may_open_the_digits_first(tmp_path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", OPENS_DIGITS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {child.communicate()[0] for child in children}
    assert answers == {open_prepared("digits", tmp_path).sha256 + "\n"}
    assert all(child.returncode == 0 for child in children)
