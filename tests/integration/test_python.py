"""A Python session that executes a sweep: from a thread, with Ctrl-C, and watched from another process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import rt_scale as rt
from tests.integration.sweeping import Place

SESSION = """
import os, signal, sys, threading, time
import rt_scale as rt

file, store, data_dir = sys.argv[1:]
where = {"store": store, "data_dir": data_dir, "device": "cpu", "address": "local"}
handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
streams = sys.stdout, sys.stderr, os.fstat(1).st_ino, os.fstat(2).st_ino

def unchanged():
    assert handlers == {each: signal.getsignal(each) for each in handlers}
    assert streams == (sys.stdout, sys.stderr, os.fstat(1).st_ino, os.fstat(2).st_ino)

def interrupt():
    opened = rt.open_store(store)
    while not any(run.status.state == "running" and len(run.metrics) for run in opened.runs):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    rt.sweep(file, **where)
    sys.exit("it was not interrupted")
except KeyboardInterrupt:
    unchanged()
    print("interrupted", sorted(run.status.state for run in rt.open_store(store).runs))

ended = []
thread = threading.Thread(target=lambda: ended.append(rt.sweep(file, **where, progress=False)))
thread.start()
thread.join()
unchanged()
(sweep,) = ended
print("done", sweep.table()["status"].to_pylist(), sweep.failed, sweep.report())
"""


def test_a_session_is_interrupted_goes_on_in_a_thread_and_is_watched(tmp_path: Path, data_dir: Path) -> None:
    swept = Place(tmp_path / "place", data_dir)
    swept.change({"axes": {"student.alpha": [1e-10, 1.0], "projector.out_dim": [16]}})
    program = tmp_path / "session.py"
    program.write_text(SESSION)
    command = [sys.executable, str(program), str(swept.file), str(swept.store.root), str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as session:
        seen = _watched(swept)
        out, error = session.communicate(timeout=600)
    assert session.returncode == 0, error
    (interrupted,) = (line for line in out.splitlines() if line.startswith("interrupted"))
    assert "partial" in interrupted
    assert out.splitlines()[-1].startswith("done ['done', 'done'] {} ")
    assert seen["done"] == 2
    assert not error


def _watched(place: Place) -> dict[str, int]:
    store = rt.open_store(place.store.root)
    while "small" not in store.sweeps:
        time.sleep(0.1)
    return store.sweep("small").watch(every=0.1, timeout=300)
