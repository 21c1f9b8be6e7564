"""The node agent: drains a Ray node when its cloud gives notice that the machine will be taken away.

Ray reads no such notices. It runs beside Ray on every node that may be taken away, so it imports little.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

METADATA = "http://169.254.169.254"
"""Where both clouds tell a machine about itself."""
ANSWER_S = 2.0
"""Time limit for an answer of it, in seconds."""
AWS_S, GCP_S, MAINTENANCE_S = 120, 30, 3600
"""Seconds between the notice and the end: of AWS spot, of GCP spot, of a GCP machine with a GPU."""
MARGIN_S = 5
"""Seconds before the end at which Ray is told that it comes."""
DRAIN_S = 60.0
"""Time limit of Ray's command, in seconds."""


@dataclass(frozen=True)
class Notice:
    """This machine will be taken away in ``seconds``; ``reason`` is told to Ray."""

    seconds: int
    reason: str


def notice_of_aws(address: str = METADATA) -> Notice | None:
    """The notice of EC2 that this spot machine is interrupted, if there is one; a rebalance recommendation is none.

    Raises:
        OSError, HTTPException, ValueError, KeyError, TypeError: if the metadata server (IMDSv2) does not answer, or
            answers something else.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(Request(f"{address}/latest/api/token", headers=lifetime, method="PUT"))
    where = f"{address}/latest/meta-data/spot/instance-action"
    try:
        answer = json.loads(_ask(Request(where, headers={"X-aws-ec2-metadata-token": token})))
    except HTTPError as error:
        if error.code == 404:
            return None
        raise
    left = (datetime.fromisoformat(answer["time"]) - datetime.now(UTC)).total_seconds()
    # The machine's clock may be wrong.
    return Notice(_told(left if 0 < left < AWS_S else AWS_S), f"AWS spot interruption: {answer['action']}")


def notice_of_gcp(address: str = METADATA) -> Notice | None:
    """The notice of GCP that this machine is preempted, or ended for maintenance of its host, if there is one.

    Raises:
        OSError, HTTPException, ValueError: if the metadata server does not answer, or answers something else.
    """
    instance, header = f"{address}/computeMetadata/v1/instance", {"Metadata-Flavor": "Google"}
    preempted = _ask(Request(f"{instance}/preempted", headers=header))
    if preempted not in ("TRUE", "FALSE"):
        raise ValueError(f"'{preempted[:40]}' is no answer of GCP")
    if preempted == "TRUE":
        return Notice(_told(GCP_S), "GCP preemption")
    event = _ask(Request(f"{instance}/maintenance-event", headers=header))
    return Notice(_told(MAINTENANCE_S), f"GCP {event}") if event == "TERMINATE_ON_HOST_MAINTENANCE" else None


CLOUDS: Mapping[str, Callable[[str], Notice | None]] = {"aws": notice_of_aws, "gcp": notice_of_gcp}
"""Clouds by name, with what asks each for its notice."""


def watch(cloud: str, every: float, say: Callable[[str], None], address: str = METADATA) -> None:
    """Ask for a notice every ``every`` seconds; returns when the node of this machine has been drained, or ended.

    ``cloud``: a key of CLOUDS, or ``auto`` for the one that answers. Whatever the metadata server or Ray answer, it
    goes on; ``say`` gets what changed, one line at a time.
    """
    said = ""

    def tell(text: str) -> None:
        nonlocal said
        if text != said:
            say(text)
        said = text

    asked = [name for name in CLOUDS if cloud in (name, "auto")]
    while (notice := _look(asked, address, tell)) is None:
        time.sleep(every)
    say(f"{notice.reason}; Ray is told that its node ends in {notice.seconds} s")
    node = before = raylet()
    while before is None or node == before:
        if (why := drain(notice, node)) is None:
            say("the node is drained: its runs write checkpoints and go on elsewhere")
            return
        tell(f"{why}; trying on")
        time.sleep(every)
        before, node = node, raylet()
    say("the node has ended")  # a node that ends at once may leave Ray's command without an answer


def _look(asked: Sequence[str], address: str, tell: Callable[[str], None]) -> Notice | None:
    silent = []
    for name in asked:
        try:
            notice = CLOUDS[name](address)
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            silent.append(f"{name}: {error}")
        else:
            tell(f"notices of {name} are watched")
            return notice
    tell(f"no notices can be read ({'; '.join(silent)}); trying on")
    return None


def drain(notice: Notice, node: str | None) -> str | None:
    """Drain the Ray node of this machine, by its id; returns why it could not be."""
    if node is None:
        return "no Ray node runs on this machine"
    words = [
        sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--node-id", node,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.reason,
        "--deadline-remaining-seconds", str(notice.seconds),
    ]  # fmt: skip
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=DRAIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Ray could not be told: {error}"
    output = " ".join((done.stderr or done.stdout).split())[-300:]
    return f"Ray could not be told: {output}" if done.returncode else None


def raylet(processes: Path = Path("/proc")) -> str | None:
    """Ray's id of the node that runs on this machine."""
    for process in processes.glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = process.read_text(encoding="utf-8", errors="replace").split("\0")
            if Path(words[0]).name == "raylet":
                return next((word.partition("=")[2] for word in words if word.startswith("--node_id=")), None)
    return None


def _told(seconds: float) -> int:
    return max(1, int(seconds) - MARGIN_S)


def _ask(request: Request) -> str:
    """The answer of a metadata server, which is never behind a proxy."""
    with build_opener(ProxyHandler({})).open(request, timeout=ANSWER_S) as answer:
        return str(answer.read().decode())
