"""What ``rt-scale cluster`` does on a machine: ``python -m rt_scale.clusters.node ACTION``, JSON in and out.

A node is one ``ray start --block`` with a session of its own. All that it starts stays in that session or carries
``RT_SCALE_NODE`` in its environment, so exactly that can be ended, and nothing else is.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rt_scale import __version__
from rt_scale.spec.errors import InputError, RtScaleError, cut, first_line
from rt_scale.store.atomic import write_bytes

MARK = "RT_SCALE_NODE"
"""Variable of a node's processes: the node's id."""
JOINED_S = 180.0
"""Time limit for a node to become part of the cluster, in seconds."""
DRAINED_S = 45.0
"""Time limit for a node to drain and end: Ray's own is 30 s (RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S)."""
JOBS_S = 60.0
"""Time limit for jobs to write their checkpoints and end, in seconds; also that of ``ray job stop``."""
_BUSY = re.compile(r"ray::\w+\.(train|run)\b")
"""Title of a process that executes a run."""
Given = Mapping[str, Any]


def describe(given: Given) -> dict[str, Any]:
    """Versions, and where prepared data is kept."""
    from rt_scale.data.meta import default_data_dir

    versions = {"Ray": importlib.metadata.version("ray"), "Python": platform.python_version(), "rt-scale": __version__}
    return {"versions": versions, "data": sorted(_prepared()), "data_dir": str(default_data_dir()), "ip": _own_ip()}


def prepare_data(given: Given) -> dict[str, Any]:
    """Make the data sets ``data``, from ``data_origin`` (an address or folder) or from copies in ``incoming``."""
    from rt_scale.data.download import fetch
    from rt_scale.data.meta import default_data_dir
    from rt_scale.data.prepare import open_prepared

    if given["data_origin"]:
        os.environ["RT_SCALE_DATA_ORIGIN"] = given["data_origin"]
    incoming = _folder(given) / "incoming"
    for name in given["data"]:
        if (incoming / name).is_dir():
            fetch(name, default_data_dir(), str(incoming))
        open_prepared(name, default_data_dir())
    shutil.rmtree(incoming, ignore_errors=True)
    return {}


def start(given: Given) -> dict[str, Any]:
    """Start the node unless it runs, and wait until it is part of the cluster.

    ``given``: name, ip, words (options of ``ray start``), store, secrets; for the head port and dashboard_port, for a
    worker head (address), cluster and token.

    Raises:
        RtScaleError: the store cannot be used, or the node did not start.
    """
    folder, head = _folder(given), "head" not in given
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ |= given["secrets"]
    known, ours = _running(folder), {"words": given["words"], "store": given["store"]}
    if known and (head or known["cluster"] == given["cluster"]):
        note = "" if {name: known[name] for name in ours} == ours else ", with other settings: down and up change them"
        return _answer(folder, known, f"runs already{note}")
    if known:
        stop(given)
    _check_store(given["store"], head=head, cluster=given.get("cluster"))
    token = _token(folder, given.get("token"))
    mark = secrets.token_hex(8)
    node = {"mark": mark, "cluster": given.get("cluster", mark), **ours, "ip": given["ip"]}
    node["address"] = f"{given['ip']}:{given['port']}" if head else given["head"]
    if head:
        _mark_store(given["store"], mark)
    variables = _variables(given, node, token)
    _write_private(folder / "env", "".join(f"export {name}={shlex.quote(text)}\n" for name, text in variables.items()))
    where = ["--head"] if head else [f"--address={given['head']}"]
    words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *where, *given["words"]]
    with open(folder / "log", "w", opener=_private) as log:
        process = subprocess.Popen(
            words, cwd=given["cwd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **variables, MARK: mark},
        )  # fmt: skip
    _write_private(folder / "node.json", json.dumps({**node, "pid": process.pid}))
    _wait_until_joined(node, token, process, folder / "log")
    return _answer(folder, node, "started")


def _variables(given: Given, node: Given, token: Path) -> dict[str, str]:
    """What processes of the cluster need to know; none of it is secret."""
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": node["address"],
        "RAY_JOB_STOP_WAIT_TIME_S": f"{JOBS_S:g}",
        "RT_SCALE_STORE": given["store"],
    }
    if given["data_origin"]:
        variables["RT_SCALE_DATA_ORIGIN"] = given["data_origin"]
    if "dashboard_port" in given:
        variables["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{given['dashboard_port']}"
    return variables


def _check_store(place: str, *, head: bool, cluster: str | None) -> None:
    from rt_scale.store.objects.store import open_place
    from rt_scale.store.objects.uri import default_place, is_address

    store = open_place(default_place(place))
    store.check_writable()
    if not head and not is_address(place) and _shared_mark(place) != cluster:
        raise InputError(
            f"the store '{place}' here is not the head's: all machines must share the folder, or use an object store"
        )


def _shared_mark(place: str) -> str | None:
    with suppress(FileNotFoundError):
        return _mark_file(place).read_text(encoding="utf-8")
    return None


def _mark_store(place: str, mark: str) -> None:
    """Leave a mark in a folder, by which workers see that theirs is the same."""
    from rt_scale.store.objects.uri import is_address

    if not is_address(place):
        write_bytes(_mark_file(place), mark.encode())


def _mark_file(place: str) -> Path:
    return Path(place).expanduser() / ".cluster"


def _token(folder: Path, given: str | None) -> Path:
    """The file of the cluster's token, readable by its owner alone; the head makes a new one."""
    path = folder / "token"
    _write_private(path, given or secrets.token_hex(32))
    return path


def _wait_until_joined(node: Given, token: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    from rt_scale.ray_backend.probe import living_nodes

    deadline = time.monotonic() + JOINED_S
    while True:
        if (code := process.poll()) is not None:
            raise RtScaleError(f"Ray ended with code {code} ({_last_words(log)}); its output is in {log}")
        if node["ip"] in (living_nodes(node["address"], str(token)) or ()):
            return
        if time.monotonic() > deadline:
            end(_processes(node["mark"]), signal.SIGKILL)
            raise RtScaleError(
                f"Ray did not join {node['address']} in {JOINED_S:g} s ({_last_words(log)}); its output is in {log}"
            )
        time.sleep(0.5)


def _answer(folder: Path, node: Given, what: str) -> dict[str, Any]:
    return {
        "what": what, "address": node["address"], "cluster": node["cluster"],
        "token": (folder / "token").read_text(encoding="utf-8"),
    }  # fmt: skip


def stop_jobs(given: Given) -> dict[str, Any]:
    """Ask jobs of this node (their drivers have sessions of their own) to end, and wait for them."""
    node = _running(_folder(given))
    if node is None:
        return {"jobs": 0}
    jobs = _jobs(node)
    end(jobs, signal.SIGTERM)
    _wait(lambda: not _jobs(node), JOBS_S)
    return {"jobs": len(jobs)}


def stop(given: Given) -> dict[str, Any]:
    """End the node: Ray drains it, so that runs write their checkpoints; what is left then is killed."""
    folder = _folder(given)
    node = _running(folder)
    if node is not None:
        end([node["pid"]], signal.SIGTERM)
        _wait(lambda: not _alive(node["pid"], node["mark"]), DRAINED_S)
    mark = (node or _read(folder) or {}).get("mark")
    if mark is not None:
        left = _processes(mark)
        while left:
            end(left, signal.SIGKILL)
            time.sleep(0.05)
            left = _processes(mark)
    for name in ("node.json", "token", "env"):
        (folder / name).unlink(missing_ok=True)
    return {"what": "stopped" if node is not None else "nothing ran"}


def status(given: Given) -> dict[str, Any]:
    """Whether the node runs, how many runs it executes, what GPUs there are; on a head, the nodes of the cluster."""
    from rt_scale.ray_backend.probe import living_nodes

    folder = _folder(given)
    node = _running(folder)
    found: dict[str, Any] = {"runs": 0, "gpus": _gpus(), "running": node is not None, "nodes": None}
    if node is not None:
        found["runs"] = sum(bool(_BUSY.match(_title(pid))) for pid in _processes(node["mark"]))
        found["nodes"] = living_nodes(node["address"], str(folder / "token"))
    return found


def _folder(given: Given) -> Path:
    return Path.home() / ".rt-scale" / str(given["name"])


def _read(folder: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, ValueError):
        return dict(json.loads((folder / "node.json").read_text(encoding="utf-8")))
    return None


def _running(folder: Path) -> dict[str, Any] | None:
    node = _read(folder)
    return node if node is not None and _alive(node["pid"], node["mark"]) else None


def _alive(pid: int, mark: str) -> bool:
    return _is_marked(pid, mark) and _stat(pid)[0] not in "ZX"


def _is_marked(pid: int, mark: str) -> bool:
    with suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _stat(pid: int) -> list[str]:
    """State, parent, group and session of a process, as in /proc."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return ["X", "0", "0", "0"]


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    return ""


def _processes(mark: str) -> list[int]:
    """The living processes of a node: all of every session in which a process carries its mark."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    stats = {pid: _stat(pid) for pid in pids}
    sessions = {stats[pid][3] for pid in pids if _is_marked(pid, mark)}
    return [pid for pid in pids if stats[pid][3] in sessions and stats[pid][0] not in "ZX"]


def _jobs(node: Given) -> list[int]:
    return [pid for pid in _processes(node["mark"]) if _stat(pid)[3] != str(node["pid"])]


def end(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes, some of which may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _gpus() -> list[str]:
    """Names of the GPUs that the NVIDIA driver lists."""
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    return []


def _prepared() -> list[str]:
    from rt_scale.data.meta import META, default_data_dir

    return [path.parent.name for path in default_data_dir().glob(f"*/{META}")]


def _own_ip() -> str:
    """The address that this machine sends from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, suppress(OSError):
        there.connect(("192.0.2.1", 9))
        return str(there.getsockname()[0])
    return "127.0.0.1"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_private(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        path.chmod(0o600)
        file.write(text)


def _last_words(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line and not set(line) <= set("-= ")]
    return cut(re.sub(r"\x1b\[[0-9;]*m", "", said[-1]), 200) if said else "no output"


ACTIONS: Mapping[str, Callable[[Given], dict[str, Any]]] = {
    each.__name__: each for each in (describe, prepare_data, start, stop_jobs, stop, status)
}


def main() -> None:
    """Do what the first argument names; the answer is the last line, a failure is told in one line of stderr."""
    try:
        answer = ACTIONS[sys.argv[1]](json.loads(sys.stdin.read() or "{}"))
    except (RtScaleError, OSError) as error:
        sys.exit(" ".join(first_line(error).split()) if isinstance(error, OSError) else str(error))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
