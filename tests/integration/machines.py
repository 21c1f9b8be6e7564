"""Hosts without machines: network, mount, process and UTS namespaces with an SSH server, started in half a second.

A world is a bridge without a way out, a client's machine at ``172.31.255.254`` and as many hosts as asked for. A host
sees the files of this machine; what it writes stays on a disk of its own (in memory), which survives that it is
unplugged. Its home, ``/tmp``, ``/dev/shm`` and ``/run`` are its own. Nothing of a world has a name outside: it is gone
with its processes, and these end with the process that made it, however that ends.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
HOME = Path("/root")
CLIENT = "172.31.255.254"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"RAY_worker_niceness": "0"}
"""What every process on a host gets, also of those who log in; see conftest.py for the reason."""
DISK = "4g"
_INIT = Path(__file__).with_name("machines.sh")
_NAMESPACES = ["-m", "-p", "-u", "-i", "-f", "--propagation", "private"]
_PROGRAMS = ("ip", "unshare", "nsenter", "mount", "ssh", "ssh-keygen", "/usr/sbin/sshd")


def required(*programs: str) -> None:
    """Skip the test where machines with these programs cannot be had; with RT_SCALE_REQUIRE_MACHINES=1 it fails."""
    if why := _cannot(programs):
        if os.environ.get("RT_SCALE_REQUIRE_MACHINES") == "1":
            pytest.fail(f"machines are required here, but {why}")
        pytest.skip(f"no machines: {why}")


@functools.cache
def _cannot(programs: tuple[str, ...]) -> str | None:
    if os.geteuid() != 0:
        return "they need root"
    if absent := [program for program in _PROGRAMS + programs if shutil.which(program) is None]:
        return f"{', '.join(absent)} is not installed (bash cluster/bootstrap.sh --test)"
    attempt = (
        "mount -t tmpfs t /mnt && cd /mnt && mkdir u w r && mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w r"
    )
    words = ["unshare", *_NAMESPACES, "-n", "bash", "-c", attempt]
    tried = subprocess.run(words, capture_output=True, text=True)
    return None if tried.returncode == 0 else f"namespaces are not allowed ({tried.stderr.strip()})"


class Process(subprocess.Popen[str]):
    """A program on a host; signals go to it, not to ``nsenter``, which waits for it."""

    def send_signal(self, sig: int) -> None:
        while self.poll() is None:
            if children := _children(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(children[0], sig)
                return
            time.sleep(0.005)


class Host:
    """A machine of a world.

    Attributes:
        name: of the host.
        ip: its address; every host of the world reaches it.
        alive: whether it is plugged in.
    """

    def __init__(self, world: World, name: str, ip: str, disk: str, lo_addresses: Sequence[str]) -> None:
        self.name, self.ip, self.alive = name, ip, False
        self._world, self._lo_addresses = world, lo_addresses
        self._disk = world.disks / name
        number = next(world.numbers)
        # Its network card stays the same when it is unplugged: the others remember it by this address for a while.
        self._link, self._mac = f"v{number}", f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
        world.outside("mkdir", str(self._disk))
        world.outside("mount", "-t", "tmpfs", "tmpfs", str(self._disk), "-o", f"size={disk},mode=755")
        self.plug()

    def plug(self) -> None:
        """Start it, with the disk that it had."""
        assert not self.alive
        client = self.ip == CLIENT
        words = ["unshare", *_NAMESPACES, *([] if client else ["-n"])]
        environment = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
        arguments = [self.name, self._world.folder, self._disk, "" if client else self.ip]
        arguments += [" ".join(self._lo_addresses), "\n".join(_kept()), environment]
        log = (self._world.folder / f"{self.name}.log").open("a+")
        # It waits for a line before it looks for its network.
        init = ["env", f"HOME={HOME}", "bash", "-c", 'read -r _; exec bash "$0" "$@"', str(_INIT), *map(str, arguments)]
        self._process = self._world.enter([*words, *init], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self._pid = _only_child(self._process)
        if not client:
            eth0 = ["name", "eth0", "address", self._mac, "netns", str(self._pid)]
            self._world.outside("ip", "link", "add", self._link, "type", "veth", "peer", *eth0)
            self._world.outside("ip", "link", "set", self._link, "master", "br0", "up")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.alive = True
        if self._process.stdout.readline() != "ready\n":
            self.unplug()
            log.seek(0)
            raise AssertionError(f"host {self.name} did not start: {log.read()}")
        log.close()

    def unplug(self) -> None:
        """Pull the plug: nobody hears from it again, not even that its connections ended."""
        if self.alive:
            self.alive = False
            if self.ip != CLIENT:
                self._world.outside("ip", "link", "del", self._link)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._process.communicate()

    def cut(self, off: bool = True) -> None:
        """Pull its network cable, or (``off=False``) put it in again; its processes go on."""
        self._world.outside("ip", "link", "set", self._link, "down" if off else "up")

    def _words(self, words: Sequence[object], env: Mapping[str, str] | None, cwd: str | Path | None) -> list[str]:
        assert self.alive, f"host {self.name} is unplugged"
        given = {"HOME": str(HOME), "PATH": PATH, "LANG": "C.UTF-8", "USER": "root", **ENVIRONMENT, **(env or {})}
        inside = ["nsenter", "-t", str(self._pid), "-m", "-n", "-p", "-u", "-i", "-r", "-w"]
        variables = [f"{name}={value}" for name, value in given.items()]
        return [*inside, "env", "-i", f"--chdir={cwd or HOME}", *variables, *map(str, words)]

    def run(
        self,
        words: Sequence[object],
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = 120.0,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on it to its end; stdout and stderr are kept. It begins with an almost empty environment."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        given = options.pop("input", None)
        stdin = {"stdin": subprocess.DEVNULL} if given is None else {"stdin": subprocess.PIPE}
        with Process(self._words(words, env, cwd), text=True, **{**stdin, **options}) as process:
            try:
                out, err = process.communicate(given, timeout=timeout)
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(
        self,
        words: Sequence[object],
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        **options: Any,
    ) -> Process:
        """Start a program on it; it ends with the host, if not before."""
        process = Process(self._words(words, env, cwd), text=True, **{"stdin": subprocess.DEVNULL, **options})
        self._world.started.append(process)
        return process


class World:
    """Hosts and a client's machine, which reach each other and nothing else.

    Attributes:
        folder: of this machine; ``shared`` in it is at the same path on every host.
        shared: a folder that all hosts and the test see.
        key: the private key (a path on the client's machine) that opens every host, user root.
        client: the client's machine.
        hosts: by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared, self.disks = folder, folder / "shared", folder / "disks"
        self.key = HOME / ".ssh" / "id_ed25519"
        self.numbers, self.started = itertools.count(), list[Process]()
        self.hosts: dict[str, Host] = {}
        self.shared.mkdir()
        self.disks.mkdir()
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        begin = f"""
            set -e
            mount -t tmpfs tmpfs {self.disks}
            ip link set lo up
            ip link add br0 address 02:00:00:00:00:01 type bridge  # else it changes with the hosts, who would not know
            ip addr add {CLIENT}/16 dev br0
            ip link set br0 up
            echo ready
            while read -r _; do :; done"""
        words = ["unshare", "-m", "-n", "--propagation", "private", "bash", "-c", begin]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def enter(self, words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program in the network of the bridge and among the disks."""
        return subprocess.Popen(["nsenter", "-t", str(self._process.pid), "-m", "-n", *words], text=True, **options)

    def outside(self, *words: str) -> str:
        """What a program prints there."""
        process = self.enter(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate()
        assert process.returncode == 0, (words, err)
        return out

    def host(self, name: str, *, ip: str | None = None, disk: str = DISK, lo_addresses: Sequence[str] = ()) -> Host:
        """Start a host.

        Args:
            ip: of ``172.31.0.0/16``; by default the next free one.
            disk: bytes of all that it writes, as tmpfs counts them (``200m``).
            lo_addresses: further addresses of its own, such as that of a cloud's metadata server.
        """
        assert name not in self.hosts
        free = (f"172.31.{n // 250}.{n % 250 + 4}" for n in itertools.count())
        taken = {host.ip for host in self.hosts.values()}
        host = Host(self, name, ip or next(each for each in free if each not in taken), disk, lo_addresses)
        self.hosts[name] = host
        return host

    def make_client(self) -> None:
        """Start the client's machine, with the key that opens the hosts."""
        self.client = Host(self, "client", CLIENT, DISK, ())
        key = (self.folder / "key").read_text()
        made = self.run(["bash", "-c", f"install -m 600 /dev/stdin {self.key}"], input=key)
        assert made.returncode == 0, made.stderr

    def run(self, words: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program on the client's machine, as :meth:`Host.run`."""
        return self.client.run(words, **options)

    def start(self, words: Sequence[object], **options: Any) -> Process:
        """Start a program on the client's machine, as :meth:`Host.start`."""
        return self.client.start(words, **options)

    def assert_closed(self) -> None:
        """Neither an interface nor a route leads out of the world."""
        links = json.loads(self.outside("ip", "-j", "-d", "link"))
        kinds = {link["ifname"]: link.get("linkinfo", {}).get("info_kind", "") for link in links}
        ours = {host._link for host in self.hosts.values()}
        assert kinds.pop("lo") == "", kinds
        assert kinds.pop("br0") == "bridge", kinds
        assert set(kinds) <= ours, kinds
        assert set(kinds.values()) <= {"veth"}, kinds
        # A peer in the first network namespace would be a way out.
        peers = {each["link_netnsid"] for each in links if each["ifname"] in ours}
        assert len(peers) == len(kinds), links
        routes = json.loads(self.outside("ip", "-j", "route", "show", "table", "all"))
        assert all(route["dev"] in ("lo", "br0", *ours) and "gateway" not in route for route in routes), routes
        assert not any(route["dst"] == "default" and route.get("type") != "unreachable" for route in routes), routes

    def close(self) -> None:
        """End all that runs in it; nothing of it is left."""
        for host in [*self.hosts.values(), *([self.client] if hasattr(self, "client") else [])]:
            host.unplug()
        for process in self.started:
            process.communicate()
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def world(*programs: str) -> Iterator[World]:
    """A world without hosts; skips the test where there can be none with these programs (see :func:`required`)."""
    required(*programs)
    made = World(Path(tempfile.mkdtemp(prefix="rt-world-")))
    try:
        made.make_client()
        made.assert_closed()
        yield made
        made.assert_closed()
    finally:
        made.close()


def _kept() -> list[str]:
    """Folders that Python needs: of the real home, or of file systems that an overlay over / does not show."""
    needed = [Path(sys.base_prefix), Path(sys.prefix), PROJECT, *map(Path, sys.path)]
    real = {path.resolve() for path in needed if path.is_dir()}
    inside = {path for path in real if not any(path.is_relative_to(other) and path != other for other in real)}
    return [str(path) for path in sorted(inside)]


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _only_child(process: subprocess.Popen[str]) -> int:
    while not (children := _children(process.pid)):
        assert process.poll() is None, "the host's first process did not start"
        time.sleep(0.002)
    return children[0]
