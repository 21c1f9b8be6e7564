"""A Slurm of three hosts: its real daemons, a partition that can be preempted and one that preempts."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration.machines import Host, World

NODES = 3
CORES, GPUS = 4, 2
GRACE_S = 30
AGAIN_S = 5
"""Seconds that Slurm holds a job back which is requeued: as long as its credentials are valid, 120 s by default."""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={nodes[0].name}({nodes[0].ip})
AuthInfo=cred_expire={again}
SlurmUser=root
SlurmdUser=root
MailProg=/bin/true
StateSaveLocation=/var/lib/slurm-test
SlurmdSpoolDir=/var/spool/slurm-test
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PartitionName=spot Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """A running Slurm, whose first node also has its controller and is where jobs are submitted.

    Attributes:
        shared: the folder that all nodes see, and where jobs are submitted.
        environment: of who submits.
    """

    def __init__(self, world: World) -> None:
        self.shared = world.shared
        folder = world.shared / "slurm"
        folder.mkdir()
        self.nodes = [world.host(f"s{number}") for number in range(NODES)]
        nodes = "".join(
            f"NodeName={node.name} NodeAddr={node.ip} CPUs={CORES} RealMemory=64000 Gres=gpu:{GPUS}\n"
            for node in self.nodes
        )
        text = CONFIGURATION.format(nodes=self.nodes, again=AGAIN_S, grace=GRACE_S)
        (folder / "slurm.conf").write_text(text.replace("PartitionName", f"{nodes}PartitionName", 1))
        # 22.05 does not start without naming a kind of control groups, which nothing of the above uses.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        # Slurm hands out the numbers of these devices, and wants them to exist.
        (folder / "gres.conf").write_text("Name=gpu File=/dev/tty[1-2]\n")
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        key = secrets.token_hex(64)
        for node in self.nodes:
            self._start(node, key)
        until(lambda: self.client("sinfo", "-h", "-t", "idle", "-p", "spot", "-o", "%D") == str(NODES), 60)

    def _start(self, node: Host, key: str) -> None:
        made = node.run(
            ["bash", "-c", "install -o munge -m 400 /dev/stdin /etc/munge/munge.key; install -d -o munge /run/munge"],
            input=key,
        )
        assert made.returncode == 0, made.stderr
        node.run(["setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged", "--force"])
        daemons = [["slurmctld", "-D"]] if node is self.nodes[0] else []
        for words in [*daemons, ["slurmd", "-D", "-N", node.name]]:
            log = (self.shared / "slurm" / f"{words[0]}-{node.name}.log").open("w")
            node.start(words, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def client(self, *words: str, **variables: str) -> str:
        """What a command of Slurm's prints on the first node, in the shared folder."""
        done = self.nodes[0].run(words, env={**self.environment, **variables}, cwd=self.shared)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def submit(self, script: Path, **variables: str) -> str:
        """Submit a script with these variables; the id of its job."""
        return self.client("sbatch", "--parsable", script.name, **variables)

    def preempt(self, node: int) -> None:
        """Take a node away for a second, from whoever is there."""
        name = self.nodes[node].name
        self.client("sbatch", "-p", "urgent", "-w", name, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")

    def state(self, job: str) -> str:
        """A job's state in Slurm's words, e.g. ``RUNNING 0 0:0``: with how often it was requeued, and its exit code."""
        told = self.client("scontrol", "--oneliner", "show", "job", job)
        fields = dict(word.partition("=")[::2] for word in told.split())
        return f"{fields['JobState']} {fields['Restarts']} {fields['ExitCode']}"


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    """Wait for a condition; asking Slurm costs a process each time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.1)
