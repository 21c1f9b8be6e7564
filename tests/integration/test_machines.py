"""The hosts that tests of clusters run on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import machines
from tests.integration.machines import Host, World

SSH = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "ConnectTimeout=2", "-o", "LogLevel=ERROR"]
OUTSIDE = "198.51.100.1"
"""An address of nobody's (RFC 5737)."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with machines.world() as made:
        yield made


@pytest.fixture(scope="module")
def hosts(world: World) -> tuple[Host, Host]:
    return world.host("h1"), world.host("h2", disk="20m", lo_addresses=["169.254.169.254"])


def left(folder: Path) -> list[str]:
    """Mounts and processes of a world, and its folder."""
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            found += [words] if str(folder) in words else []
    return found + [str(path) for path in [folder] if path.exists()]


def test_hosts_reach_each_other_and_nothing_else(world: World, hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    login = world.run([*SSH, first.ip, "hostname; echo $RAY_worker_niceness"])
    assert login.stdout == "h1\n0\n", login.stderr
    assert second.run(["bash", "-c", f": <>/dev/tcp/{first.ip}/22"]).returncode == 0
    world.assert_closed()
    assert "unreachable" in world.run(["ip", "route", "get", OUTSIDE]).stderr
    out = second.run(["bash", "-c", f"timeout 5 bash -c ': <>/dev/tcp/{OUTSIDE}/22'"])
    assert "No route to host" in out.stderr


def test_a_way_out_would_be_noticed(world: World) -> None:
    world.outside(*["ip", "link", "add", "out", "type", "veth", "peer", "name", "way"])
    with pytest.raises(AssertionError, match="out"):
        world.assert_closed()
    world.outside(*["ip", "link", "del", "out"])
    world.outside(*["ip", "route", "add", "default", "dev", "br0"])
    with pytest.raises(AssertionError, match="default"):
        world.assert_closed()
    world.outside(*["ip", "route", "del", "default", "dev", "br0"])


def test_files_of_a_host_are_its_own(world: World, hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    places = [f"{folder}/of_h1" for folder in ("/root", "/tmp", "/dev/shm", "/run", "/etc", machines.PROJECT)]
    assert first.run(["touch", *places]).returncode == 0
    assert not any(Path(place).exists() for place in places)
    assert second.run(["ls", *places]).stdout == ""
    (world.shared / "file").write_text("seen by all")
    assert {host.run(["cat", world.shared / "file"]).stdout for host in (first, second, world.client)} == {
        "seen by all"
    }
    imported = first.run([sys.executable, "-c", "import rt_scale; print(rt_scale.__file__)"])
    assert str(machines.PROJECT) in imported.stdout, imported.stderr
    full = second.run(["bash", "-c", "head -c 30M /dev/zero >/root/file; rm /root/file"])
    assert "No space left" in full.stderr
    assert "169.254.169.254" in second.run(["ip", "addr", "show", "lo"]).stdout


def test_unplugged_cut_and_back_again(world: World, hosts: tuple[Host, Host]) -> None:
    first, _ = hosts
    asked = [*SSH, first.ip, "cat kept; pgrep sleep; cat /run/lost"]
    assert first.run(["bash", "-c", "echo kept >/root/kept; touch /run/lost"]).returncode == 0
    first.start(["sleep", "1000"])
    first.cut()
    assert world.run(asked).returncode == 255
    first.cut(off=False)
    assert "kept\n" in world.run(asked).stdout
    begun = time.monotonic()
    first.unplug()
    first.plug()
    assert time.monotonic() - begun < 10
    back = world.run(asked)
    assert back.stdout == "kept\n"
    assert "/run/lost" in back.stderr


def test_a_signal_reaches_the_program(hosts: tuple[Host, Host]) -> None:
    first, _ = hosts
    process = first.start(["bash", "-c", "trap 'exit 7' TERM; echo on; while :; do sleep 0.01; done"], stdout=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.terminate()
    assert process.wait() == 7
    with pytest.raises(subprocess.TimeoutExpired):
        first.run(["sleep", "100"], timeout=0.2)


def test_nothing_is_left() -> None:
    folders = []

    def fail() -> None:
        with machines.world() as made:
            made.host("h1").start(["sleep", "1000"])
            folders.append(made.folder)
            assert left(made.folder)
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fail()
    assert left(*folders) == []


def test_a_world_ends_with_its_process(world: World) -> None:
    text = "w.host('h1'); print(w.folder, flush=True); input()"
    code = f"from tests.integration import machines\nwith machines.world() as w: {text}"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, cwd=machines.PROJECT, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert len(left(folder)) > 3
        process.kill()
    deadline = time.monotonic() + 20
    while left(folder) != [str(folder)]:
        assert time.monotonic() < deadline, left(folder)
        time.sleep(0.05)
    subprocess.run(["rm", "-r", str(folder)], check=True)


def test_where_machines_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_cannot", lambda programs: "they need root")
    monkeypatch.delenv("RT_SCALE_REQUIRE_MACHINES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="need root"):
        machines.required()
    monkeypatch.setenv("RT_SCALE_REQUIRE_MACHINES", "1")
    with pytest.raises(pytest.fail.Exception, match="need root"):
        machines.required()
