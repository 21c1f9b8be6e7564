"""Scripts for Slurm's sbatch: their directives, and the shell's own check."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from rt_scale.clusters.check import rules
from rt_scale.clusters.check.document import Asked, Findings, unknown
from rt_scale.ray_backend.resources import Node
from rt_scale.spec.errors import shown

OPTIONS = {
    "account": "A", "acctg-freq": "", "array": "a", "batch": "", "bb": "", "bbf": "", "begin": "b", "chdir": "D",
    "cluster-constraint": "", "clusters": "M", "comment": "", "constraint": "C", "container": "", "container-id": "",
    "contiguous": "", "core-spec": "S", "cores-per-socket": "", "cpu-freq": "", "cpus-per-gpu": "",
    "cpus-per-task": "c", "deadline": "", "delay-boot": "", "dependency": "d", "distribution": "m", "error": "e",
    "exclude": "x", "exclusive": "", "export": "", "export-file": "", "extra": "", "extra-node-info": "B",
    "get-user-env": "", "gid": "", "gpu-bind": "", "gpu-freq": "", "gpus": "G", "gpus-per-node": "",
    "gpus-per-socket": "", "gpus-per-task": "", "gres": "", "gres-flags": "", "hint": "", "hold": "H",
    "ignore-pbs": "", "input": "i", "job-name": "J", "kill-on-invalid-dep": "", "licenses": "L", "mail-type": "",
    "mail-user": "", "mcs-label": "", "mem": "", "mem-bind": "", "mem-per-cpu": "", "mem-per-gpu": "", "mincpus": "",
    "network": "", "nice": "", "no-kill": "k", "no-requeue": "", "nodefile": "F", "nodelist": "w", "nodes": "N",
    "ntasks": "n", "ntasks-per-core": "", "ntasks-per-gpu": "", "ntasks-per-node": "", "ntasks-per-socket": "",
    "open-mode": "", "output": "o", "overcommit": "O", "oversubscribe": "s", "parsable": "", "partition": "p",
    "power": "", "prefer": "", "priority": "", "profile": "", "propagate": "", "qos": "q", "quiet": "Q", "reboot": "",
    "requeue": "", "reservation": "", "resv-ports": "", "segment": "", "signal": "", "sockets-per-node": "",
    "spread-job": "", "switches": "", "test-only": "", "thread-spec": "", "threads-per-core": "", "time": "t",
    "time-min": "", "tmp": "", "tres-bind": "", "tres-per-task": "", "uid": "", "use-min-nodes": "", "verbose": "v",
    "wait": "W", "wait-all-nodes": "", "wckey": "", "wrap": "",
}  # fmt: skip
"""Long options of sbatch (22.05 to 25.05), and their letters."""
_SHORT = {letter: name for name, letter in OPTIONS.items() if letter}
_FLAGS = {
    "contiguous", "hold", "ignore-pbs", "no-requeue", "overcommit", "parsable", "quiet", "reboot", "requeue",
    "spread-job", "test-only", "use-min-nodes", "verbose", "wait",
}  # fmt: skip
"""Options without a value."""
_OPTIONAL = {
    "exclusive",
    "export",
    "get-user-env",
    "nice",
    "no-kill",
    "oversubscribe",
    "propagate",
    "resv-ports",
    "wrap",
}
"""Options whose value may be left out."""
_TIME = r"[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}|UNLIMITED|INFINITE"
_MEMORY = r"[0-9]+(K|M|G|T|KB|MB|GB|TB)?"
_COUNT = r"[1-9][0-9]*"
_RANGE = r"[0-9]+(-[0-9]+(:[1-9][0-9]*)?)?"
_GPUS = rf"([a-zA-Z][\w.-]*:)?{_COUNT}(,[a-zA-Z][\w.-]*:{_COUNT})*"
_SIGNALS = "|".join(each.name.removeprefix("SIG") for each in signal.Signals)
FORMATS = {
    "time": (_TIME, "minutes, hours:minutes:seconds or days-hours"),
    "time-min": (_TIME, "minutes, hours:minutes:seconds or days-hours"),
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu", "tmp"), (_MEMORY, "a number and K, M, G or T, e.g. 16G")),
    "array": (rf"{_RANGE}(,{_RANGE})*(%[1-9][0-9]*)?", "e.g. 0-9, 1,3,5, or 0-99%8 for at most 8 at once"),
    **dict.fromkeys(
        ("cpus-per-task", "ntasks", "ntasks-per-node", "cpus-per-gpu", "ntasks-per-gpu", "mincpus", "ntasks-per-core"),
        (_COUNT, "a whole number from 1 on"),
    ),
    "nodes": (r"[1-9][0-9]*(-[1-9][0-9]*)?", "a number, or a least and a most, e.g. 2-4"),
    **dict.fromkeys(("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket"), (_GPUS, "a number, or e.g. a100:2")),
    "gres": (r"[a-zA-Z][\w/.-]*(:[a-zA-Z][\w.-]*)?(:[0-9]+[KMGT]?)?(,.+)?", "e.g. gpu:1 or gpu:a100:2"),
    "signal": (rf"([RB]{{1,2}}:)?([0-9]+|(SIG)?({_SIGNALS}))(@[0-9]+)?", "e.g. B:TERM@90, seconds before the end"),
    "open-mode": ("append|truncate", "append or truncate"),
    "mail-type": (r"[A-Z_0-9]+(,[A-Z_0-9]+)*", "e.g. END,FAIL"),
}
"""Option -> the pattern of its value, and that in words."""
_SLIP = re.compile(r"#+\s*(SBATCH|SBACTH|SBTACH|SABTCH|SBATC|SBATHC|BSATCH|SBATCHS|sbatch|Sbatch)\b(?=\s+-)")


def check_script(path: Path, text: str, asked: Asked, found: Findings) -> None:
    """Add the problems of a batch script to ``found``."""
    given = _check_directives(text, found)
    _check_shell(path, text.count("\n"), found)
    _check_signal(given, text, found)
    rules.check_commands(text, found)
    rules.check_store(text, asked, found, folders=True)
    _check_fits(given, asked, found)
    _ask_controller(path, found)


Given = dict[str, tuple[str, int]]
"""Long option -> its value, and its line."""


def _check_directives(text: str, found: Findings) -> Given:
    given: Given = {}
    lines = text.splitlines()
    if not lines or not lines[0].startswith("#!"):
        found.wrong(1, "first line", "sbatch needs a script that begins with its shell; write #!/bin/bash")
    begun = 0
    for number, line in enumerate(lines, 1):
        code = line.strip()
        if not line.startswith("#SBATCH") or not re.match(r"#SBATCH(\s|$)", line):
            if _SLIP.match(code) or (code.startswith("#SBATCH") and not begun):
                found.wrong(
                    number, shown(code[:40]), "sbatch takes it for a comment; a directive begins with '#SBATCH '"
                )
            begun = begun or (number if code and not code.startswith("#") else 0)
            continue
        if begun:
            found.wrong(
                number, code, f"sbatch reads no directive after the first command, which is in line {begun}; move it up"
            )
        for name, value in _options(rules.words(line.removeprefix("#SBATCH")), number, found):
            given[name] = (value, number)
    if not given:
        found.wrong(1, "#SBATCH", "there is no directive, so nothing is asked of Slurm")
    found.checked.append(f"{len(given)} directives, by the options of sbatch")
    return given


def _options(words: list[str], line: int, found: Findings) -> Iterator[tuple[str, str]]:
    """The options of one directive with their values; those that are wrong are added to ``found``."""
    index = 0
    while index < len(words):
        word, index = words[index], index + 1
        if not word.startswith("-") or word == "-":
            found.wrong(line, shown(word), "it belongs to no option; write --option=value")
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        else:
            name, equals, value = _SHORT.get(word[1:2], word[:2]), word[2:], word[2:].removeprefix("=")
        if name not in OPTIONS:
            found.wrong(
                line, word, unknown(f"--{name.strip('-')}", [f"--{each}" for each in OPTIONS], "option of sbatch")
            )
            continue
        if name in _FLAGS:
            if equals:
                found.wrong(line, f"--{name}", f"{shown(value)} was given, but the option takes no value")
        elif not equals and name not in _OPTIONAL:
            if index < len(words) and not words[index].startswith("-"):
                value, index = words[index], index + 1
            else:
                found.wrong(line, f"--{name}", "its value is missing")
                continue
        pattern, allowed = FORMATS.get(name, ("", ""))
        if pattern and not re.fullmatch(pattern, value):
            found.wrong(line, f"--{name}", f"{shown(value)} was given; allowed: {allowed}")
        yield name, value


def _check_shell(path: Path, lines: int, found: Findings) -> None:
    bash = shutil.which("bash")
    if bash is None:
        found.unchecked.append("the script's syntax: there is no bash here")
        return
    answer = subprocess.run([bash, "-n", str(path)], capture_output=True, text=True, errors="replace", check=False)
    for line, why in re.findall(r"line (\d+): (.+)", answer.stderr):
        found.wrong(min(int(line), max(1, lines)), "bash", why)  # the end of the file is one further
    found.checked.append("bash -n")


def _check_signal(given: Mapping[str, tuple[str, int]], text: str, found: Findings) -> None:
    """Ray's drain must end before the job does."""
    value, _ = given.get("signal", ("", 0))
    before = re.search(r"@(\d+)$", value)
    if before:
        rules.check_drain(text, float(before[1]), "the time before the end at which --signal is sent", found)
    else:
        found.unchecked.append("the partition's GraceTime, which must be above Ray's drain: only Slurm knows it")


def _check_fits(given: Mapping[str, tuple[str, int]], asked: Asked, found: Findings) -> None:
    if not asked.launches:
        return
    if "cpus-per-task" not in given:
        found.unchecked.append("whether runs fit: --cpus-per-task is not given")
        return

    def number(*names: str) -> int:
        for name in names:
            last = re.search(r"(\d+)[^\d]*$", given[name][0]) if name in given else None
            if last:
                return int(last[1])
        return 0

    nodes = number("nodes") or 1
    tasks = number("ntasks-per-node") or max(1, number("ntasks") // nodes)
    gpus = number("gpus-per-node") or number("gpus-per-task") * tasks or number("gpus") // nodes
    if not gpus and given.get("gres", ("", 0))[0].startswith("gpu"):
        gpus = number("gres")
    node = Node("a node of the job", {"CPU": number("cpus-per-task") * tasks, "GPU": gpus}, nodes, False)
    line = given["cpus-per-task"][1]
    rules.check_fits(asked, [(node, line)], found, line)


def _ask_controller(path: Path, found: Findings) -> None:
    """Have Slurm itself check the script, where its controller answers."""
    if shutil.which("sbatch") is None:
        found.unchecked.append("partitions, accounts and limits: there is no sbatch here")
        return
    try:
        answer = subprocess.run(
            ["sbatch", "--test-only", str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        found.unchecked.append("partitions, accounts and limits: sbatch does not answer")
        return
    said = [line.partition("error: ")[2] for line in answer.stderr.splitlines() if "error: " in line]
    away = re.search(r"configuration source|contact slurm controller|Connection refused|connect failure", answer.stderr)
    if away or (answer.returncode and not said):
        found.unchecked.append("partitions, accounts and limits: no controller answers sbatch")
    elif answer.returncode:
        for why in said:
            found.wrong(1, "sbatch --test-only", why)
    else:
        found.checked.append("sbatch --test-only")
