"""Rules of ours that several kinds of cluster file share."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rt_scale.clusters.check.document import Asked, Findings, unknown
from rt_scale.plan.nodes import ENOUGH
from rt_scale.ray_backend.resources import Node, refuse_unplaceable, slots
from rt_scale.spec.errors import InputError, shown
from rt_scale.store.objects.uri import clean_address, is_address

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
"""Seconds for which ``ray start --block`` drains its node after SIGTERM."""
DRAIN_S = 30.0
"""Its default."""
_STORE = re.compile(r"--store[= ]+[\"']?([^\s\"']+)|RT_SCALE_STORE[\"']?\s*[=:,]\s*(?:value:\s*)?[\"']?([^\s\"'}]+)")
_RAY = re.compile(r"\bray(?:\[[a-z0-9_,\s-]*\])?\s*==\s*([0-9][\w.]*)")
_IMAGE = re.compile(r"\b(?:rayproject|anyscale)/ray(?:-ml|-llm)?:([0-9][0-9.]*[0-9])(?:[-.]?[\w.]*?-?py(3)\.?(\d+))?")


def code_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a file without comments, with their numbers from 1."""
    for number, line in enumerate(text.splitlines(), 1):
        yield number, "" if line.lstrip().startswith("#") else re.sub(r"\s#\s.*", "", line)


def check_commands(text: str, found: Findings) -> None:
    """Add what is wrong with each ``ray start``: unknown options, a public dashboard, no token authentication."""
    from rt_scale.ray_backend.launcher import start_options

    known = start_options()
    starts = list(ray_starts(text))
    for line, command in starts:
        for option in re.findall(r"(?<=\s)--([a-z][\w-]*)", command):
            if option not in known:
                found.wrong(
                    _from(text, line, option),
                    "ray start",
                    unknown(f"--{option}", [f"--{each}" for each in known], "option"),
                )
        host = re.search(r"--dashboard-host[= ]+[\"']?([^\s\"';&]+)", command)
        if host and host[1] not in ("127.0.0.1", "localhost"):
            found.wrong(
                _from(text, line, "--dashboard-host"), "--dashboard-host",
                f"{shown(host[1])} was given: the dashboard runs any code it is sent; write 127.0.0.1, and reach it "
                "by an SSH tunnel or 'ray dashboard'",
            )  # fmt: skip
    if starts and not any("RAY_AUTH_MODE=token" in code.replace('"', "") for _, code in code_lines(text)):
        found.wrong(
            starts[0][0], "RAY_AUTH_MODE",
            "missing: whoever reaches Ray's ports can run code; export RAY_AUTH_MODE=token on every node, with the "
            "same ~/.ray/auth_token (ray get-auth-token --generate)",
        )  # fmt: skip
    check_versions(text, found)


def _from(text: str, line: int, words: str) -> int:
    """The first line from ``line`` on with ``words`` in it: a command goes over several."""
    return next((number for number, code in code_lines(text) if number >= line and words in code), line)


def ray_starts(text: str) -> Iterator[tuple[int, str]]:
    """Every ``ray start`` command: its line, and its text up to the next command, over continued lines."""
    lines = [code for _, code in code_lines(text)]
    for index, code in enumerate(lines):
        for start in re.finditer(r"\bray\s+start\b", code):
            command, more = code[start.start() :], index
            while more + 1 < len(lines) and (
                command.rstrip().endswith("\\") or re.match(r"\s+--[a-z]", lines[more + 1])
            ):
                more += 1
                command = f"{command.rstrip().removesuffix(chr(92))} {lines[more].strip()}"
            yield index + 1, re.split(r"[;|]|&&|\)", command)[0]
        if re.search(r"\bray\s*$", code) and index + 1 < len(lines) and lines[index + 1].strip().startswith("start"):
            yield index + 1, " ".join(lines[index : index + 2])


def started_with(text: str, option: str, value: str) -> bool:
    """Whether a ``ray start`` in ``text`` is given ``--option=value``."""
    return bool(re.search(rf"--{option}[= ]+[\"']?{re.escape(value)}\b", text))


def check_versions(text: str, found: Findings) -> None:
    """Add versions of Ray and of Python that are not this machine's: a cluster and its driver need the same."""
    from rt_scale.ray_backend.launcher import RAY_VERSION

    python = platform.python_version_tuple()
    for line, code in code_lines(text):
        for version in [*_RAY.findall(code), *(each[0] for each in _IMAGE.findall(code))]:
            check_version(version, line, found)
        for _, major, minor in _IMAGE.findall(code):
            if major and (major, minor) != python[:2]:
                found.wrong(line, "image", f"it has Python {major}.{minor}, but this machine {'.'.join(python[:2])}")
    found.checked.append(f"that versions of Ray that are written are {RAY_VERSION}, as on this machine")


def check_version(given: object, line: int, found: Findings, field: str = "ray") -> None:
    """Add a version of Ray that is not this machine's."""
    from rt_scale.ray_backend.launcher import RAY_VERSION

    if str(given) != RAY_VERSION:
        found.wrong(
            line, field, f"Ray {given} was given, but this machine has {RAY_VERSION}; write {RAY_VERSION} everywhere"
        )


def check_drain(text: str, grace: float, whose: str, found: Findings) -> None:
    """Add a drain time that is written and not below ``grace`` seconds; 0: not known."""
    for line, seconds in drains(text):
        if grace and seconds >= grace:
            found.wrong(line, DRAIN, drain_text(seconds, grace, whose))


def drain_text(seconds: float, grace: float, whose: str) -> str:
    """The text of a drain time that is too long."""
    return (
        f"{seconds:g} s was given or is Ray's default, but {whose} is {grace:g} s: the node is killed while it drains; "
        f"set {DRAIN} below {grace:g}"
    )


def drains(text: str) -> Iterator[tuple[int, float]]:
    """The drain times that are written, with their lines."""
    lines = [code for _, code in code_lines(text)]
    for index, code in enumerate(lines):
        if DRAIN in code:
            after = code.partition(DRAIN)[2] + (f" {lines[index + 1]}" if index + 1 < len(lines) else "")
            number = re.match(r"\D*?([0-9.]+)", after)
            if number:
                yield index + 1, float(number[1])


def store_of(text: str, asked: Asked) -> tuple[str, int]:
    """The store, as asked or as the file's commands say, and its line; empty, and line 1, if neither says one."""
    for line, code in code_lines(text):
        for given in _STORE.findall(code):
            place = next(filter(None, given), "")
            if place and not place.startswith("$") and asked.store in (None, place):
                return place, line
    return asked.store or "", 1


def check_store(text: str, asked: Asked, found: Findings, *, folders: bool) -> tuple[str, int]:
    """Add a store that nodes cannot reach; the store and its line. ``folders``: whether nodes may share one."""
    store, line = store_of(text, asked)
    if not store:
        found.unchecked.append("whether nodes reach the store: none is named; give --store")
    elif is_address(store):
        try:
            clean_address(store)
        except InputError as error:
            found.wrong(line, "store", str(error))
        if "localhost" in store or "127.0.0.1" in store:
            found.wrong(line, "store", f"{shown(store)} is this machine alone for each node; name a server all reach")
    elif not folders:
        found.wrong(
            line,
            "store",
            f"{shown(store)} is a folder of one machine, which other nodes do not see; give s3:// or gs://",
        )
    elif re.match(r"/(tmp|dev/shm|var/tmp|scratch/local)(/|$)", store):
        found.wrong(line, "store", f"{shown(store)} is a folder that each node has for itself; name a shared one")
    else:
        found.unchecked.append(f"whether every node sees the folder {store}")
    for number, code in code_lines(text):
        if re.search(r"(AWS_ENDPOINT_URL\w*|STORAGE_EMULATOR_HOST)\W+(value:\W*)?https?://(localhost|127\.)", code):
            found.wrong(number, "AWS_ENDPOINT_URL", "it is this machine alone for each node; name a server all reach")
    return store, line


def check_fits(asked: Asked, kinds: Sequence[tuple[Node, int]], found: Findings, line: int) -> None:
    """Add sweeps whose runs fit on no kind of node, and kinds of node, each with its line, on which no run fits."""
    if any(launch.memory for launch in asked.launches.values()) and any(
        "memory" not in each[0].resources for each in kinds
    ):
        found.unchecked.append(
            "whether the memory that runs ask for is there: the file does not state it of every node"
        )
    kinds = [(replace(node, resources={"memory": ENOUGH, **node.resources}), there) for node, there in kinds]
    nodes = [node for node, _ in kinds]
    for name, launch in asked.launches.items():
        try:
            refuse_unplaceable(launch, nodes, "this cluster")
        except InputError as error:
            found.wrong(line, f"sweep {name}", str(error))
    for node, there in kinds:
        if not any(slots(launch, [node]) for launch in asked.launches.values()):
            found.wrong(there, node.name, "no run of the sweeps given fits on such a node; remove it or make it larger")
    found.checked.append(f"that runs of {', '.join(asked.launches)} fit on the nodes")


def words(line: str) -> list[str]:
    """A line as a shell splits it; at blanks, if its quotes are not closed."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()
