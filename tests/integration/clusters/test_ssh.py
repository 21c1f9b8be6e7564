"""`rt-scale cluster up|down|status` on machines of a world of their own, one after the other on one cluster."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import ExitCode
from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.conftest import PROGRAM
from tests.integration.machines import PROJECT, Host, World
from tests.integration.sweeping import SLOW, Place, slow_down, until

SECRET = secrets.token_hex(16)
ENVIRONMENT = {"STORE_KEY": SECRET, "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
ABSENT = "172.31.9.9"
SILENT = "(there is no route|it does not answer)"
"""What is said of a machine without power, by whether the network notices first."""


@dataclasses.dataclass
class Lab:
    """The machines: a head and two workers that work, and what is wrong with the others by their addresses."""

    world: World
    head: Host
    workers: list[Host]
    wrong: dict[str, str]
    file: Path
    place: Place

    @property
    def slow(self) -> Path:
        """The gate of slow runs."""
        return self.world.shared / "slow"

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "SLOW": str(self.slow), "PYTHONPATH": str(self.slow.parent)}

    def command(self, name: str, *options: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
        env = self.environment if env is None else env
        return self.world.run([PROGRAM, "cluster", name, self.file, *options], env=env, timeout=600)

    def write(self, **changes: object) -> None:
        """The file of the machines that work, with changes."""
        python = {"python": sys.executable, "cpus": 1}
        document = {
            "name": "lab",
            "head": {"host": self.head.ip, **python},
            # The first has the project copied to it.
            "workers": [{"host": self.workers[0].ip, "cpus": 1}, {"host": self.workers[1].ip, **python}],
            "store": str(self.place.store.root),
            "data": ["digits"],
            "environment": [*self.environment],
        }
        self.file.write_text(yaml.safe_dump({**document, **changes}))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Lab]:
    with machines.world() as world:
        head, *workers = [world.host(name) for name in ("h1", "h2", "h3")]
        _set_up(workers[0])
        place = Place(world.shared / "work", data_dir)
        slow_down(world.shared)
        yield Lab(world, head, workers, {}, world.shared / "hosts.yaml", place)


def _set_up(host: Host) -> None:
    """An environment, as bootstrap.sh leaves it on a machine; here it cannot install one, for want of a network."""
    packages = sysconfig.get_paths()["purelib"]
    files = [PROJECT / name for name in ("pyproject.toml", "cluster/constraints.txt", "cluster/bootstrap.sh")]
    stamp = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    text = f"""
        {sys.executable} -m venv --without-pip ~/rt-scale/.venv && cd ~/rt-scale/.venv
        there=$(echo lib/python3*/site-packages)/there.pth
        printf '%s\\n' "$HOME/rt-scale" "import site; site.addsitedir('{packages}')" > "$there"
        sed "1s|.*|#!$HOME/rt-scale/.venv/bin/python|" {PROGRAM} > bin/rt-scale && chmod +x bin/rt-scale
        echo "{stamp} " > .bootstrap
        mkdir ../cluster && touch ../cluster/bootstrap.sh"""
    made = host.run(["bash", "-ec", text])
    assert made.returncode == 0, made.stderr


def bad_hosts(lab: Lab) -> dict[Host | str, tuple[dict[str, str], str]]:
    """Machines that cannot be used: their entry in the file, and words by which they are named."""
    keyless, full, old = lab.world.host("keyless"), lab.world.host("full", disk="200m"), lab.world.host("old")
    bare = lab.world.host("bare")
    keyless.run(["rm", "/root/.ssh/authorized_keys"])
    metadata = next(Path(sysconfig.get_paths()["purelib"]).glob("ray-*.dist-info"), None)
    if metadata is None:  # a worktree, whose packages are elsewhere
        found = subprocess.run(
            [sys.executable, "-c", "import ray; print(ray.__file__)"], capture_output=True, text=True
        )
        metadata = next(Path(found.stdout.strip()).parents[1].glob("ray-*.dist-info"))
    old.run(["sed", "-i", "s/^Version: .*/Version: 2.9.0/", metadata / "METADATA"])
    return {
        keyless: ({"python": sys.executable}, "refuses the key"),
        full: ({"python": sys.executable}, "disk is full"),
        old: ({"python": sys.executable}, "Ray 2.9.0"),
        bare: ({"python": "/opt/none/bin/python"}, "no Python at /opt/none/bin/python"),
        ABSENT: ({"python": sys.executable}, "no route"),
    }


def rows(lab: Lab) -> dict[str, dict]:
    shown = json.loads(lab.command("status", "--json").stdout)["hosts"]
    return {row["host"]: row for row in shown}


def test_up_names_what_is_wrong_and_brings_up_the_others(lab: Lab) -> None:
    lab.write()
    refused = lab.command("up", env={})
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "STORE_KEY" in refused.stderr
    lab.write()
    workers = yaml.safe_load(lab.file.read_text())["workers"]
    bad = {(host if isinstance(host, str) else host.ip): entry for host, entry in bad_hosts(lab).items()}
    lab.write(workers=[*workers, *({"host": ip, **entry} for ip, (entry, _) in bad.items())])
    done = lab.command("up")
    assert done.returncode == 1, done.stdout + done.stderr
    for ip, (_, words) in bad.items():
        assert f"{ip}: " in done.stderr
        assert words in next(part for part in done.stderr.split(";") if f"{ip}: " in part)
    assert "3 of 8 machines" in done.stdout
    assert {ip for ip, row in rows(lab).items() if row["in_cluster"]} == {lab.head.ip, *(h.ip for h in lab.workers)}


def test_up_again_does_nothing_and_secrets_are_nowhere(lab: Lab) -> None:
    lab.write()
    again = lab.command("up")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("runs already") == 3
    for host in (lab.head, *lab.workers):
        assert host.run(["stat", "-c", "%a", "/root/.rt-scale/lab/token"]).stdout == "600\n"
        assert host.run(["grep", "-rlF", SECRET, "/root", "/tmp", "/var/log"]).stdout == ""
        assert SECRET not in host.run(["ps", "axww"]).stdout
    assert "127.0.0.1:8265" in lab.head.run(["ss", "-ltn"]).stdout
    copied = lab.workers[0].run(["ls", "/root/rt-scale"]).stdout.split()
    assert {"rt_scale", "cluster", "pyproject.toml"} <= set(copied)


def test_a_sweep_outlives_one_machine_and_another_comes_back(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(lab.slow.parent))
    lab.place.change({"base": SLOW, "axes": {"student.alpha": [1e-10, 0.5, 1.0], "projector.out_dim": [16, 64]}})
    command = f". ~/.rt-scale/lab/env && ray job submit -- rt-scale sweep {lab.place.file}"
    sweep = lab.world.start(["ssh", lab.head.ip, command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    back, gone = lab.workers
    until(lambda: sweep.poll() is not None or {"h2", "h3"} <= holders(lab.place))
    assert sweep.poll() is None, sweep.communicate()
    assert sum(row["runs"] for row in rows(lab).values()) >= 2
    gone.unplug()
    back.unplug()
    back.plug()
    mended = lab.command("up")
    assert mended.returncode == 1
    assert re.search(rf"{gone.ip}: {SILENT}", mended.stderr)
    assert f"{back.ip}: worker started" in mended.stdout
    lab.slow.unlink()
    output = sweep.communicate(timeout=600)[0]
    assert sweep.returncode == 0, output
    undisturbed = Store(tmp_path / "store")
    for point in lab.place.points:
        run(point.spec, Options(store=undisturbed, data_dir=lab.place.data_dir, device="cpu", threads=1))
    alone = Place(tmp_path, lab.place.data_dir)
    for point in lab.place.points:
        assert lab.place.outcome(point) == alone.outcome(point), point.label


def holders(place: Place) -> set[str]:
    """Machines that have trained an epoch of a run that they hold."""
    found = set()
    for point in place.points:
        path = place.store.run(point.spec).path
        leases = sorted((path / "lease").glob("[0-9]*.json"), key=lambda lease: int(lease.stem))
        if leases and any((path / "checkpoints").glob("[1-9]*")) and not (path / "result.json").exists():
            found.add(json.loads(leases[-1].read_text())["host"])
    return found


def test_down_in_the_middle_of_a_sweep_leaves_no_process(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(lab.slow.parent))
    lab.head.start(["sleep", "1000"])  # not ours to end
    slow_down(lab.slow.parent)
    lab.place.change({"name": "long", "base": SLOW, "axes": {"student.alpha": [0.25], "projector.out_dim": [16]}})
    driver = f". ~/.rt-scale/lab/env && PYTHONPATH={lab.slow.parent} {PROGRAM} sweep {lab.place.file}"
    sweep = lab.world.start(["ssh", lab.head.ip, driver], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(lambda: sweep.poll() is not None or holders(lab.place))
    done = lab.command("down")
    output = sweep.communicate(timeout=600)[0]
    assert sweep.returncode == ExitCode.CLUSTER_LOST, output
    assert "the same command continues" in output
    assert done.returncode == 1
    assert re.search(rf"{lab.workers[1].ip}: {SILENT}", done.stderr)
    for host in (lab.head, lab.workers[0]):
        left = [line.split()[0] for line in host.run(["ps", "-eo", "comm"]).stdout.splitlines()[1:]]
        assert set(left) <= {"bash", "sshd", "ps", "sleep"}, left
        assert host.run(["ls", "/root/.rt-scale/lab"]).stdout == "log\n"
    assert "sleep" in lab.head.run(["ps", "-eo", "comm"]).stdout
    assert not any(row["ray"] for row in rows(lab).values())
