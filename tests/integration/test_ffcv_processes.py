"""The FFCV loader in processes of their own: what they print, how they end, what they take and keep."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from rt_scale.data.beton import write

PREAMBLE = """
import os, sys, threading
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(3)
from rt_scale.data.beton import open_beton
from rt_scale.data.loaders.ffcv import FFCVLoader, require_ffcv
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.spec.errors import RunError
beton = open_beton(Path(sys.argv[1]))
def equal(ours, others):
    return all(torch.equal(a, b) for one, other in zip(ours, others, strict=True) for a, b in zip(one, other))
"""


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    return _write(tmp_path / "set.beton", 57, (6, 5, 3))


def _write(path: Path, samples: int, shape: tuple[int, int, int]) -> Path:
    images = np.arange(samples * shape[0] * shape[1] * shape[2]).astype(np.uint8).reshape(samples, *shape)
    write(path, [images], np.arange(samples) % 10, image_shape=shape)
    return path


def _run(beton: Path, code: str, **environment: str) -> None:
    """A process of its own, which must succeed in time and without a word."""
    program = [sys.executable, "-W", "default", "-c", PREAMBLE + textwrap.dedent(code), str(beton)]
    ended = subprocess.run(
        program, capture_output=True, text=True, timeout=480, check=False, env={**os.environ, **environment}
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_process_reads_quietly_and_torch_keeps_its_threads(beton: Path) -> None:
    code = """
        loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
        assert torch.get_num_threads() == 3
        for batch in loader.epoch(0):
            assert torch.get_num_threads() == 3
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start(), thread.join()
        assert seen == [3]
    """
    _run(beton, code)


def test_a_process_may_end_in_the_middle_of_an_epoch(beton: Path) -> None:
    code = """
        epochs = [FFCVLoader(beton, batch_size=2, seed=0, device="cpu").epoch(0) for _ in range(3)]
        for epoch in epochs:
            next(epoch)
        sys.exit(0)
    """
    _run(beton, code)


def test_a_forked_process_is_told_that_it_has_no_threads_and_may_read_anew(beton: Path) -> None:
    code = """
        import time
        loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
        epoch = loader.epoch(0)
        next(epoch)
        time.sleep(0.5)  # the threads have read ahead and wait
        if child := os.fork():
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        try:
            list(epoch)
            os._exit(4)
        except RunError as error:
            assert "another process" in str(error)
        alone = ResidentLoader(beton, batch_size=2, seed=0, device="cpu")
        os._exit(0 if equal(loader.epoch(1), alone.epoch(1)) else 5)
    """
    _run(beton, code)


@pytest.mark.parametrize("installed", [True, False])
def test_tbb_is_asked_for_and_does_without(beton: Path, installed: bool) -> None:
    code = """
        import numba
        INSTALLED or sys.modules.update({"numba.np.ufunc.tbbpool": None})
        loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu", threads=2)
        assert equal(loader.epoch(1), ResidentLoader(beton, batch_size=2, seed=0, device="cpu").epoch(1))
        assert (numba.threading_layer() == "tbb") is INSTALLED
        assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    """
    _run(beton, code.replace("INSTALLED", str(installed)))


def test_compiled_code_is_kept_between_processes(beton: Path, tmp_path: Path) -> None:
    code = """
        list(FFCVLoader(beton, batch_size=2, seed=0, device="cpu").epoch(0))
        stats = require_ffcv()._gather_rows.stats
        assert bool(stats.cache_hits) is FOUND and bool(stats.cache_misses) is not FOUND
    """
    for found in ("False", "True"):
        _run(beton, code.replace("FOUND", found), NUMBA_CACHE_DIR=str(tmp_path / "cache"))


def test_a_loader_takes_little_memory(tmp_path: Path) -> None:
    """A fifth of 5 million samples: FFCV's own bookkeeping takes 0.5 GB for these, all of 5 million may take 0.6."""
    large, small = (_write(tmp_path / f"{samples}.beton", samples, (4, 4, 1)) for samples in (1_000_000, 9))
    code = """
        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        list(FFCVLoader(beton, batch_size=2, seed=0, device="cpu").epoch(0))
        before = peak()
        large = open_beton(Path(os.environ["LARGE"]))
        loader = FFCVLoader(large, batch_size=256, seed=0, device="cpu")
        assert sum(len(batch.index) for batch in loader.epoch(0)) == 1_000_000
        assert peak() - before < 120_000, peak() - before
    """
    _run(small, code, LARGE=str(large))
