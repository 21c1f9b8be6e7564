"""Preparing under real processes: killed half-way, at the same time, and many opening at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.beton import open_beton
from rt_scale.data.download import fetch
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

prepare(sys.argv[3], Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)
"""
OPENS_DIGITS = """
import sys
from pathlib import Path
from rt_scale.data.prepare import open_prepared
print(open_prepared("digits", Path(sys.argv[1])).sha256)
"""


STOPS_AFTER_A_BLOCK = """
import sys, time
from pathlib import Path
from rt_scale.data.download import fetch

blocks = []

def wait():
    blocks.append(1)
    if len(blocks) > 1:
        print("begun", flush=True)
        time.sleep(600)

fetch("cifar5m", Path(sys.argv[1]), sys.argv[2], wait)
"""
# Says which file it opened, then keeps every page of it mapped until it is told to end.
OPENS_AND_READS = """
import os, sys
from pathlib import Path
from rt_scale.data.prepare import open_prepared

train = open_prepared("cifar5m", Path(sys.argv[1])).train
print(os.stat(train.path).st_ino, flush=True)
total = sum(int(train.gather([position]).sum()) for position in range(train.samples))
print(total, flush=True)
sys.stdin.readline()
inside, kept = False, {}
for line in open("/proc/self/smaps"):
    first, *rest = line.split()
    if "-" in first:
        inside = line.rstrip().endswith(str(train.path))
    elif inside and rest[-1] == "kB":
        kept[first] = kept.get(first, 0) + int(rest[0])
print(kept["Rss:"], kept["Shared_Clean:"], kept["Anonymous:"], kept["Private_Dirty:"], flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Six parts of CIFAR-5M, of 500 images each."""
    generator = np.random.default_rng(0)
    (tmp_path / "parts").mkdir()
    for number in range(6):
        images = generator.integers(0, 256, (500, 32, 32, 3), np.uint8)
        np.savez(tmp_path / "parts" / f"part{number}.npz", X=images, Y=generator.integers(0, 10, 500))
    return tmp_path / "parts"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


@pytest.mark.parametrize(("name", "kind", "samples"), [("pets", "pets", 16), ("cifar5m", "parts", 2500)])
def test_a_killed_preparation_is_refused_while_it_lives_and_cleaned_after(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, kind: str, samples: int
) -> None:
    data_dir, source = tmp_path / "data", request.getfixturevalue(kind)
    child = subprocess.Popen(
        [sys.executable, "-c", STOPS_HALF_WAY, str(data_dir), str(source), name], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        with pytest.raises(InputError, match="being prepared"):
            prepare(name, data_dir, source)
        child.send_signal(signal.SIGKILL)
    assert sorted(path.name for path in data_dir.iterdir()) == [f".{name}.lock", f".{name}.tmp"]
    with pytest.raises(InputError, match=rf"Unknown data set '{name}'|'{name}' is not prepared"):
        open_prepared(name, data_dir)
    prepare(name, data_dir, source)
    assert verify_prepared(name, data_dir).train.samples == samples
    assert sorted(path.name for path in data_dir.iterdir()) == [f".{name}.lock", name]


def test_many_processes_may_open_the_digits_first(tmp_path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", OPENS_DIGITS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {child.communicate()[0] for child in children}
    assert answers == {open_prepared("digits", tmp_path).sha256 + "\n"}
    assert all(child.returncode == 0 for child in children)


def test_a_killed_copy_from_the_origin_leaves_nothing_that_looks_whole(tmp_path: Path, parts: Path) -> None:
    origin, data_dir = tmp_path / "origin", tmp_path / "data"
    sound = prepare("cifar5m", origin, parts).sha256
    child = subprocess.Popen(
        [sys.executable, "-c", STOPS_AFTER_A_BLOCK, str(data_dir), str(origin)], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGKILL)
    assert [path.name for path in data_dir.rglob("*.beton")] == ["train.beton"]
    with pytest.raises(InputError, match="not prepared"):
        open_prepared("cifar5m", data_dir)
    fetched = fetch("cifar5m", data_dir, str(origin))
    assert fetched is not None
    assert fetched.sha256 == verify_prepared("cifar5m", data_dir).sha256 == sound
    assert sorted(path.name for path in data_dir.iterdir()) == [".cifar5m.lock", "cifar5m"]


def test_processes_on_a_node_get_one_copy_and_share_its_pages(tmp_path: Path, parts: Path) -> None:
    """All open one file (a second copy would be another inode) and none holds pages of its own."""
    prepare("cifar5m", tmp_path / "origin", parts)
    environment = {**os.environ, "RT_SCALE_DATA_ORIGIN": str(tmp_path / "origin")}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS_AND_READS, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(3)
    ]

    def answers(question: str) -> list[str]:
        for child in children:
            child.stdin.write(question)  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
        return [child.stdout.readline() for child in children]  # type: ignore[union-attr]

    inodes, sums = answers(""), answers("")
    path = tmp_path / "data" / "cifar5m" / "train.beton"
    assert set(inodes) == {f"{path.stat().st_ino}\n"}
    assert set(sums) == {f"{int(open_beton(path).read_all().sum())}\n"}
    for answer in answers("report\n"):
        resident, shared, anonymous, dirty = map(int, answer.split())
        assert resident * 1024 >= 2500 * 3072
        assert shared == resident
        assert anonymous == dirty == 0
    answers("end\n")
    assert [child.wait() for child in children] == [0, 0, 0]
