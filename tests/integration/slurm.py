"""A Slurm of three hosts: its real daemons, a partition that can be preempted and one that preempts."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration import machines
from tests.integration.machines import Host, World

NODES = 3
CORES = GPUS = 2
GRACE_S = 120
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
        until(lambda: self.client("sinfo", "-h", "-t", "idle", "-p", "spot", "-o", "%D") == str(NODES))

    def _start(self, node: Host, key: str) -> None:
        made = node.run(
            ["bash", "-c", "install -o munge -m 400 /dev/stdin /etc/munge/munge.key; install -d -o munge /run/munge"],
            input=key,
        )
        assert made.returncode == 0, made.stderr
        node.run(["setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged", "--force"])
        daemons = [["slurmctld", "-D"]] if node is self.nodes[0] else []
        for words in [*daemons, ["slurmd", "-D", "-N", node.name]]:
            with (self.shared / "slurm" / f"{words[0]}-{node.name}.log").open("w") as log:
                node.start(words, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def client(self, *words: str, **variables: str) -> str:
        """What a command of Slurm's prints on the first node, in the shared folder."""
        done = self.nodes[0].run(words, env={**self.environment, **variables}, cwd=self.shared)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.strip()

    def submit(self, script: Path, **variables: str) -> str:
        """Submit a script with these variables; the id of its job."""
        return self.client("sbatch", "--parsable", script.name, **variables)

    def preempt(self, node: str) -> None:
        """Take a node away for a second, from whoever is there."""
        self.client("sbatch", "-p", "urgent", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")

    def node(self, job: str) -> str:
        """The node, or the list of nodes, where a job is executed; empty if nowhere."""
        return self.client("squeue", "-h", "-t", "R", "-j", job, "-o", "%N")

    def steps(self, job: str) -> list[str]:
        """Names of a job's running steps."""
        return self.client("squeue", "--steps", "-h", "-j", job, "-o", "%j").split()

    def state(self, job: str) -> str:
        """A job's state and exit code in Slurm's words, e.g. ``COMPLETED 0:0``."""
        return "{JobState} {ExitCode}".format_map(self._shown(job))

    def restarts(self, job: str) -> int:
        """How often a job was requeued."""
        return int(self._shown(job)["Restarts"])

    def _shown(self, job: str) -> dict[str, str]:
        told = self.client("scontrol", "--oneliner", "show", "job", job)
        return {name: value for name, _, value in (word.partition("=") for word in told.split())}


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A Slurm, in a world of its own (see :func:`machines.world`)."""
    with machines.world("/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/sbin/munged", "sbatch") as world:
        yield Slurm(world)


def until(condition: Callable[[], object], seconds: float = 480) -> None:
    """Wait for a condition; asking Slurm costs a process each time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.1)
