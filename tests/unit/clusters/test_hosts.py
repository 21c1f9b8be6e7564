"""Files of machines, and what ssh's messages mean."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters import ssh
from rt_scale.clusters.hosts import HostSpec, HostsSpec, read_hosts
from rt_scale.clusters.ssh import HostFailed, Machine
from rt_scale.clusters.write import is_edited
from rt_scale.spec.errors import InputError

PROJECT = Path(__file__).parents[3]
GIVEN: dict[str, Any] = {"name": "lab", "head": "10.0.0.1", "workers": ["10.0.0.2"], "store": "/shared/store"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hosts.yaml"


def read(file: Path, **changes: object) -> HostsSpec:
    file.write_text(yaml.safe_dump({**GIVEN, **changes}))
    return read_hosts(file)


def test_machines_have_the_fields_of_the_file_and_their_own(file: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    worker = {"host": "w", "user": "other", "cpus": 0, "gpus": 2, "resources": {"accelerator_type:A10G": 1.0}}
    head, own = read(file, user="me", identity_file=str(key), ssh_port=2222, python="~/p", workers=[worker]).hosts
    common = {"identity_file": str(key), "ssh_port": 2222, "python": "~/p"}
    assert head == HostSpec(host="10.0.0.1", user="me", **common)
    assert own == HostSpec(**worker, **common)
    assert (head.ip, own.ip) == ("10.0.0.1", None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "-oProxyCommand=x"}, "no name that ssh takes"),
        ({"user": "-x"}, "no user's name"),
        ({"workers": [{"host": "a", "user": "-x"}]}, "no name that ssh takes"),
        ({"workers": ["10.0.0.1"]}, "listed twice"),
        ({"workers": [{"host": "a", "gpu": 1}]}, "did you mean 'gpus'"),
        ({"store": "runs"}, "relative folder"),
        ({"store": "s3://key:secret@bucket/x"}, "user name or a key"),
        ({"data_origin": "here"}, "relative folder"),
        ({"environment": ["KEY=hush"]}, "list names alone"),
        ({"name": "My lab"}, "lower-case"),
        ({"data": ["../x"]}, "cannot name a data set"),
        ({"identity_file": "/no/such/key"}, "no file /no/such/key"),
        ({"port": 0}, "port"),
        ({"wrokers": []}, "did you mean 'workers'"),
    ],
)
def test_what_is_wrong_is_named(file: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        read(file, **changes)
    assert words in str(refused.value)
    assert "hush" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_variables_are_taken_from_this_shell(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read(file, environment=["RT_A", "RT_B"])
    monkeypatch.setenv("RT_A", "a")
    with pytest.raises(InputError, match="RT_B"):
        _ = spec.secrets
    monkeypatch.setenv("RT_B", "b")
    assert spec.secrets == {"RT_A": "a", "RT_B": "b"}


SAID = {
    "me@10.0.0.1: Permission denied (publickey).": "refuses the key (user me)",
    "ssh: connect to host 10.0.0.1 port 22: No route to host": "no route",
    "ssh: connect to host 10.0.0.1 port 22: Connection refused": "nothing listens",
    "ssh: connect to host 10.0.0.1 port 22: Connection timed out": "does not answer",
    "ssh: Could not resolve hostname lab1: Name or service not known": "not known here",
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @": "host key is not the one",
    "something new": "something new",
}


@pytest.mark.parametrize("said", SAID)
def test_what_ssh_says_is_told_as_what_it_means(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "ssh", f"echo {shlex.quote(said)} >&2; exit 255", monkeypatch)
    with pytest.raises(HostFailed) as failed:
        Machine(HostSpec(host="10.0.0.1", user="me")).run("true")
    assert SAID[said] in str(failed.value)


def test_what_a_machine_is_given_is_in_its_standard_input_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "ssh", f'echo "$@" > {tmp_path}/words; cat', monkeypatch)
    machine = Machine(HostSpec(host="h", user="me", ssh_port=2222, identity_file="~/key"))
    assert machine.run("a command", "hush") == "hush"
    words = (tmp_path / "words").read_text()
    assert words.endswith("-p 2222 me@h a command\n")
    assert f"-i {os.path.expanduser('~/key')} " in words
    assert "hush" not in words


def test_a_command_that_fails_or_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "ssh", "echo first >&2; echo last >&2; exit 3", monkeypatch)
    with pytest.raises(HostFailed, match=r"^last$"):
        Machine(HostSpec(host="h")).run("x")
    program(tmp_path, "ssh", "exec sleep 60", monkeypatch)
    machine = Machine(HostSpec(host="h"))
    with pytest.raises(HostFailed, match=r"longer than 0\.1 s"):
        machine.run("x", timeout=0.1)
    assert not machine.running


def test_a_full_disk_and_a_missing_rsync_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, words in (("write failed: No space left on device", "disk is full"), ("sh: rsync: not found", "rsync")):
        program(tmp_path, "rsync", f"echo {shlex.quote(said)} >&2; exit 11", monkeypatch)
        with pytest.raises(HostFailed, match=words):
            Machine(HostSpec(host="h")).copy(tmp_path, "there")


def program(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name before the system's."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_ssh_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="ssh is not installed"):
        Machine(HostSpec(host="h")).run("x")


def test_a_machine_that_hangs_is_noticed_and_nothing_is_asked() -> None:
    assert {"BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15"} <= set(ssh.OPTIONS)


def test_the_file_in_cluster_is_what_its_first_line_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = (PROJECT / "cluster" / "hosts.yaml").read_text()
    monkeypatch.chdir(PROJECT)
    words = shlex.split(there.splitlines()[0].removeprefix("# Written by: rt-scale "))
    out = tmp_path / "again.yaml"
    assert CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    assert out.read_text() == there
    assert not is_edited(there)
    assert [host.host for host in read_hosts(out).hosts] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize(
    ("most", "store", "names"),
    [(1, "s3://bucket/runs", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]), (4, "/shared", []), (20, "gs://b/x", [])],
)
def test_written_files_are_valid(tmp_path: Path, most: int, store: str, names: list[str]) -> None:
    out = tmp_path / "hosts.yaml"
    words = ["cluster", "write", "hosts", str(PROJECT / "sweeps" / "demo.yaml"), "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--max", str(most), "--store", store, "--data-origin", "/shared/data"])
    assert done.exit_code == 0, done.output
    spec = read_hosts(out)
    assert len(spec.hosts) == min(most, 8)
    assert (spec.store, spec.data, spec.data_origin) == (store, ("digits",), "/shared/data")
    assert list(spec.environment) == names
    assert "rt-scale sweep" in str(spec.command)


def test_check_names_lines_and_runs_that_fit_nowhere(file: Path) -> None:
    file.write_text(yaml.safe_dump({**GIVEN, "stor": "x", "workers": [{"host": "a", "cpus": -1}]}, sort_keys=False))
    done = CliRunner().invoke(app, ["cluster", "check", str(file)])
    lines = file.read_text().splitlines()
    assert f":{lines.index('stor: x') + 1}: stor: unknown key" in done.output
    assert f":{lines.index('  cpus: -1') + 1}: workers" in done.output
    sweep = file.with_name("sweep.yaml")
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "train": {"epochs": 1}}
    sweep.write_text(yaml.safe_dump({"name": "big", "base": base, "launch": {"gpus": 2}}))
    file.write_text(yaml.safe_dump({**GIVEN, "head": {"host": "h", "gpus": 1}, "workers": [{"host": "a", "gpus": 1}]}))
    assert "no run of big fits" in CliRunner().invoke(app, ["cluster", "check", str(file), str(sweep)]).output
