"""The Ray cluster that runs are scheduled on: a local one that we start, or an existing one."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rt_scale.plugins import Plugin, differences, shipped
from rt_scale.ray_backend.local_ray import adapted_start, check_ray_folder, use_token
from rt_scale.ray_backend.output import log_to
from rt_scale.ray_backend.probe import probe
from rt_scale.ray_backend.resources import (
    MOST,
    NAMED,
    SHARE,
    Node,
    bundle,
    described,
    fits_at_once,
    refuse_mig,
    refuse_unplaceable,
    same_kind,
)
from rt_scale.scheduler.job import asked_address
from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.usage import Unit
from rt_scale.system.machine import allowed_cores, mig_devices

HEAD = "node:__internal_head__"
"""A resource of every head node. A trial with several workers holds a thousandth of it: Tune refuses a trial without
resources, and a hundredth of a CPU would be missing where the workers need all CPUs."""
OWN_GPUS = ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES")
"""Variables by which a process sees its own GPUs alone, and none if it has none; on a local Ray they are inherited."""
SPARE = 64
"""Processes that wait for room beside those that have it, where no nodes are added for them: what ends is followed at
once, and a run that waits for a GPU does not block others."""
LOOK_S = 1.0
"""Seconds for which a list of nodes is used again."""
UNSEEN = 8
"""Least number of concurrent runs if an autoscaler does not report which nodes it can add."""
BUSY = " If the machine is busy, wait until it is less so, and give the same command again."
FOLDER = (
    " If it is the folder of its sockets and logs that Ray cannot use, set RAY_TMPDIR to one of your own with a short, "
    "absolute name, e.g. RAY_TMPDIR=$HOME."
)
ANSWERS_S = 60.0
"""Seconds that a node has to say which plugins it has."""
STARTS_S = 10.0
"""Seconds that a dashboard needs to start, beside its head."""
ROUNDING = 1e-9
"""Tolerance of sums of shares of a cluster."""
LAUNCHED = 2
"""Default of ``max_workers`` in Ray's launcher files."""


class Cluster:
    """The Ray that this process is connected to, with its GCS at ``address``, ``host:port``.

    ``local``: we started it on this machine, and it ends with this process. ``autoscaling``: nodes may be added.
    ``max_nodes``: runs ask for no more than so many nodes hold; InputError if no nodes are added to this Ray.
    """

    def __init__(self, address: str, *, local: bool, max_nodes: int | None = None) -> None:
        self.address = address
        self.local = local
        self._kinds = None if local else node_kinds(address)
        self.autoscaling = self._kinds is not None
        self._most = max_nodes
        self._looked, self._alive = -LOOK_S, list[Node]()
        if max_nodes is not None and not self.autoscaling:
            raise InputError(
                f"--max-nodes {max_nodes} limits what an autoscaler adds, but "
                f"{'a local Ray' if local else f'the cluster at {address}'} has none. Limit runs with --concurrency."
            )

    def nodes(self) -> list[Node]:
        """The living nodes."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._alive = [Node(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
            self._looked = time.monotonic()
        return self._alive

    def describe(self) -> str:
        """One line: nodes, CPUs, GPUs, accelerators."""
        more = "; more nodes may be added" if self.autoscaling else ""
        return f"{'a local Ray' if self.local else f'Ray at {self.address}'}: {described(self.nodes())}{more}"

    def refuse_impossible(self, launch: LaunchSpec) -> None:
        """Refuse a run whose workers can never fit on the nodes (InputError)."""
        nodes = self._possible_nodes()
        if nodes is None:
            return
        where = "this machine" if self.local else f"the cluster at {self.address}"
        refuse_unplaceable(launch, nodes, where)
        if self._most is not None:
            refuse_unplaceable(launch, _largest(launch, nodes, self._most), f"{where}, with --max-nodes {self._most},")
        if self.local:
            refuse_mig(launch, mig_devices(), where)
        elif launch.workers > 1 and launch.gpus:
            # A task without GPUs that they are not hidden from sees those that its node has.
            shown = {"env_vars": {OWN_GPUS[0]: "0"}}
            for name, gpus in _asked_of_nodes(mig_devices, resource="GPU", runtime_env=shown):
                refuse_mig(launch, gpus, f"node {name}")

    def unused_gpus(self, launches: Iterable[LaunchSpec]) -> str:
        """A note if there are GPUs and no run asks for one; else empty."""
        if any(launch.gpus for launch in launches) or not self.capacity()["gpu"]:
            return ""
        return "launch.gpus is 0: these runs use no GPU, though there are some; --gpus 1 gives each run one"

    def at_once(self, launch: LaunchSpec) -> int:
        """How many runs, with all their workers, fit at once."""
        if self._most is not None:
            return fits_at_once(launch, self._limited(launch, self._most))
        nodes = self._possible_nodes()
        return fits_at_once(launch, nodes) if nodes else max(UNSEEN, fits_at_once(launch, self.nodes()))

    def _limited(self, launch: LaunchSpec, most: int) -> list[Node]:
        """The nodes that runs may use of ``most``: living ones first, then the smallest kinds.

        Which kind an autoscaler adds is its own choice; of unknown kinds each is taken to hold one worker.
        """
        wanted, there = bundle(launch), _largest(launch, self.nodes(), most)
        kinds = [kind for kind in self._kinds or [Node("", wanted, math.inf)] if kind.holds(wanted)]
        return [*there, *most_of(sorted(kinds, key=lambda kind: kind.holds(wanted)), most - len(there))]

    def has_room(self, launch: LaunchSpec, running: Mapping[LaunchSpec, int]) -> bool:
        """Whether to give Tune another process; on a cluster that grows, it asks for its node at once.

        With ``max_nodes``, all sections share those nodes.
        """
        if self._most is not None:
            taken = {each: count / self.at_once(each) for each, count in running.items() if count}
            return sum(taken.values()) + 1 / self.at_once(launch) <= 1 + ROUNDING
        if self.autoscaling and self._kinds:
            return running.get(launch, 0) < self.at_once(launch)
        # Tune queues runs of one worker, but does not see the workers of others.
        return running.get(launch, 0) < self.at_once(launch) + (SPARE if launch.workers == 1 else 0)

    def capacity(self) -> dict[Unit, float]:
        """GPUs and CPUs of all possible nodes, as far as known."""
        nodes = self._possible_nodes() or self.nodes()
        if self._most is not None:
            nodes = most_of(sorted(nodes, key=_size, reverse=True), self._most)
        counted = [(node.resources, min(node.count, MOST)) for node in nodes]
        return {
            "gpu": sum(count * has.get("GPU", 0) for has, count in counted),
            "cpu": sum(count * has.get("CPU", 0) for has, count in counted),
        }

    def wait_for(
        self, count: int, launches: Sequence[LaunchSpec], say: Callable[[str], None], stopping: Callable[[], bool]
    ) -> None:
        """Wait until ``count`` nodes with room for a worker are there, or ``stopping``; ``say`` is told how many are.

        An autoscaler is asked for them until then.

        Raises:
            InputError: if so many never come.
        """
        possible = self._possible_nodes()
        most = math.inf if possible is None else sum(node.count for node in possible if _holds_any(node, launches))
        if self.local or (self.autoscaling and most < count):
            has = "a local Ray is one node" if self.local else f"the cluster at {self.address} gets at most {most:g}"
            raise InputError(f"--wait-nodes {count} waits for nodes with room for a run, but {has}.")
        since, told, asked = datetime.now(), -1, None
        try:
            while not stopping():
                there = sum(_holds_any(node, launches) for node in self.nodes())
                if there != told:
                    told = there
                    say(f"{counted(there, 'node')} of {count} with room for a run; waiting since {since:%H:%M:%S}")
                if there >= count:
                    return
                if asked is None and self.autoscaling:
                    # Unlike ``request_resources`` it ends with this process, so that no node is rented for ever.
                    asked = placement_group([bundle(launches[0])] * count, strategy="STRICT_SPREAD")
                time.sleep(LOOK_S)
        finally:
            if asked is not None:
                remove_placement_group(asked)

    def trial_resources(self, launch: LaunchSpec) -> dict[str, float]:
        """The one bundle of a trial: that of its worker, or a tiny share of the head if Ray Train starts workers."""
        return bundle(launch) if launch.workers == 1 else {HEAD: SHARE}

    def _possible_nodes(self) -> list[Node] | None:
        """All possible nodes; None if an autoscaler does not report which it can add."""
        if self._kinds is None:
            return self.nodes()
        return possible_nodes(self.nodes(), self._kinds) if self._kinds else None


@contextmanager
def connect(
    address: str | None = None,
    *,
    train: bool = False,
    log_dir: Path | None = None,
    plugins: Iterable[Plugin] = (),
    max_nodes: int | None = None,
) -> Iterator[Cluster]:
    """Connect this process to Ray, quietly, and disconnect afterwards.

    Args:
        address: ``host:port`` of a cluster, ``auto`` for the one that this machine belongs to, or ``local`` for a new
            Ray on localhost that ends with this call. None: RAY_ADDRESS, which is set inside a Ray job; else ``local``.
        train: whether Ray Train is used. It needs the dashboard's State API: without it, placement groups of trainings
            that were killed stay forever.
        log_dir: folder of ``ray.log``, which gets the output of Ray and its workers; None: dropped.
        plugins: those that runs use. Those that are not installed are sent to the machines of a cluster, and what its
            nodes then have is compared; workers of a local Ray find them where this process does.
        max_nodes: of the cluster.

    Raises:
        InputError: if no cluster answers, it cannot be joined, a plugin cannot be sent, a node has another or none, or
            ``train`` lacks the dashboard.
    """
    plugins = [*dict.fromkeys(plugins)]
    asked, by_variable = asked_address(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    local = asked == "local"
    if local:
        check_ray_folder()
    use_token(local)
    asked = asked if local else probe(asked, by_variable=by_variable)
    given = _for_local(train) if local else {"runtime_env": _environment(plugins)}
    try:
        _init(asked, given, logged=log_dir is not None)
        if not local and (plugins or train):
            with log_to(None):  # a run or sweep that is refused leaves no log
                if plugins:
                    _refuse_other_plugins(plugins)
                if train:
                    _refuse_no_dashboard()
        with log_to(log_dir):
            yield Cluster(ray.get_runtime_context().gcs_address, local=local, max_nodes=max_nodes)
    finally:
        ray.shutdown()


def _for_local(train: bool) -> dict[str, Any]:
    """What ``ray.init`` is given for a local Ray."""
    given: dict[str, Any] = {"num_cpus": allowed_cores(), "include_dashboard": train, "dashboard_host": "127.0.0.1"}
    if mig := mig_devices():
        given["num_gpus"] = len(mig)  # Ray would count whole GPUs
    return given


def _init(address: str, given: Mapping[str, Any], *, logged: bool) -> None:
    """Start a ``local`` Ray, or join the one at ``address``, without Ray's warnings; InputError if that fails."""
    local = address == "local"
    with warnings.catch_warnings(), adapted_start(local):
        warnings.simplefilter("ignore")
        try:
            ray.init(address, **given, log_to_driver=logged, logging_level="ERROR")
        except Exception as error:  # Ray's classes differ by what failed
            what = "A local Ray could not be started" if local else f"The Ray cluster at {address} could not be joined"
            why = " ".join(str(error.__cause__ or error).split())[:300]
            busy = BUSY if "timed out" in why else ""
            raise InputError(f"{what} ({why}).{busy}{FOLDER if local else ''}") from error


def _environment(plugins: Iterable[Plugin]) -> dict[str, Any]:
    """What processes on the nodes of a cluster need: the plugins' files, and their own GPUs."""
    modules = [str(path) for path in shipped(reference for reference, _ in plugins)]
    variables = {"env_vars": {name: os.environ[name] for name in OWN_GPUS}}
    return variables | ({"py_modules": modules} if modules else {})


def _refuse_other_plugins(plugins: Iterable[Plugin]) -> None:
    """Refuse plugins that a node of the connected cluster lacks, or has from another source (InputError).

    Nodes without CPUs execute no run. Of one that is silent, or that an autoscaler adds later, nothing is known here:
    there each run refuses the plugin before it writes anything.
    """
    wrong = defaultdict[tuple[str, str], list[str]](list)
    for name, found in _asked_of_nodes(differences, plugins):
        for what in found.items():
            wrong[what].append(name)
    if wrong:
        each = [
            f"'{reference}' {how} on {', '.join(nodes[:NAMED])}{', ...' if len(nodes) > NAMED else ''}"
            for (reference, how), nodes in wrong.items()
        ]
        raise InputError(
            f"The cluster does not have the plugins of this machine: {'; '.join(each)}. Install the same package on "
            "every node; or put the plugin into a file or package that is not installed: it is sent with the runs."
        )


def _refuse_no_dashboard() -> None:
    """Refuse a head without the dashboard's State API, by which Ray Train frees what dead workers had (InputError)."""
    for _, why in _asked_of_nodes(_without_state_api, ray.get_runtime_context().gcs_address, resource=HEAD):
        if why:
            raise InputError(
                f"The head of the Ray cluster has no dashboard that answers ({why}), and runs of several workers need "
                "one: without it the CPUs and GPUs of workers stay taken for ever once their run was killed. Start the "
                "head with --include-dashboard=true (--dashboard-host=127.0.0.1 is enough), or give launch.workers: 1."
            )


def _without_state_api(address: str) -> str:
    """Why the State API of the Ray at ``address`` does not answer here; empty if it does."""
    from ray.util.state import list_nodes

    end = time.monotonic() + STARTS_S
    while True:
        try:
            list_nodes(address, limit=1, timeout=int(STARTS_S))
            return ""
        except Exception as error:  # Ray's classes differ by what is missing
            if time.monotonic() > end:
                return " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        time.sleep(LOOK_S)


def _asked_of_nodes(
    look: Callable[..., Any], *given: Any, resource: str = "CPU", **options: Any
) -> Iterator[tuple[str, Any]]:
    """The addresses of living nodes with some of ``resource``, and what ``look`` returns there; not of silent ones."""
    task, asked = ray.remote(num_cpus=0)(look), {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get(resource):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(**options, scheduling_strategy=there).remote(*given)] = node["NodeManagerAddress"]
    for answer in ray.wait([*asked], num_returns=len(asked), timeout=ANSWERS_S)[0] if asked else ():
        with suppress(ray.exceptions.RayError):  # the node is lost or shuts down
            yield asked[answer], ray.get(answer)


def node_kinds(address: str) -> list[Node] | None:
    """The kinds of node that may be added to the connected cluster, from the several places where Ray 2.60 keeps them.

    Empty if the autoscaler does not report them; None if there is no autoscaler.
    """
    file = _launcher_file(address)
    if file is not None:
        with suppress(OSError, yaml.YAMLError, TypeError, ValueError):
            return kinds_of_launcher(yaml.safe_load(file.read_text(encoding="utf-8")))
        return []
    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        groups = config.node_group_configs
        return [Node(g.name, dict(g.resources), math.inf if g.max_count < 0 else g.max_count, False) for g in groups]
    return [] if _has_autoscaler() else None


def kinds_of_launcher(config: Mapping[str, Any]) -> list[Node]:
    """The kinds of node in a file of Ray's cluster launcher; empty if one does not state its resources."""
    most = config.get("max_workers", LAUNCHED)
    kinds = []
    for name, kind in config["available_node_types"].items():
        if not kind.get("resources"):
            return []
        count = min(most, kind.get("max_workers", 0 if name == config.get("head_node_type") else most))
        kinds.append(Node(name, {key: float(amount) for key, amount in kind["resources"].items()}, count, False))
    return kinds


def possible_nodes(alive: Sequence[Node], kinds: Sequence[Node]) -> list[Node]:
    """All possible nodes: each kind with its largest count, and the living nodes of no kind."""
    there = [replace(kind, count=max(kind.count, sum(same_kind(node, kind) for node in alive))) for kind in kinds]
    others = [node for node in alive if not any(same_kind(node, kind) for kind in kinds)]
    return others + [kind for kind in there if kind.count]


def _size(node: Node) -> tuple[float, float]:
    return node.resources.get("GPU", 0), node.resources.get("CPU", 0)


def _holds_any(node: Node, launches: Sequence[LaunchSpec]) -> bool:
    """Whether a worker of one of the sections fits on a node."""
    return any(node.holds(bundle(launch)) for launch in launches)


def _largest(launch: LaunchSpec, nodes: Iterable[Node], most: int) -> list[Node]:
    """The ``most`` nodes that hold most workers, of those that hold one."""
    held = {id(node): node.holds(bundle(launch)) for node in nodes}
    return most_of(sorted((node for node in nodes if held[id(node)]), key=lambda node: -held[id(node)]), most)


def most_of(nodes: Iterable[Node], most: int) -> list[Node]:
    """The first ``most`` nodes; of kinds as many as are left."""
    taken: list[Node] = []
    for node in nodes:
        count = min(node.count, most - sum(each.count for each in taken))
        if count > 0:
            taken.append(replace(node, count=count))
    return taken


def _launcher_file(address: str) -> Path | None:
    """The file that the cluster's autoscaler was started with, if this machine is its head."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = process.read_text(encoding="utf-8", errors="replace").split("\0")
            if f"--gcs-address={address}" in words and any(word.endswith("monitor.py") for word in words):
                for word in words:
                    option, _, file = word.partition("=")
                    if option == "--autoscaling-config" and file:
                        return Path(file).expanduser()
    return None


def _has_autoscaler() -> bool:
    """Whether the cluster has an autoscaler: version 1 reports its kinds of node, version 2 sets a flag.

    Without one, the report gives every node its own kind (``node_<hex>``).
    """
    report = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    if report is None:
        known = ray._raylet
        space, key = known.GCS_AUTOSCALER_STATE_NAMESPACE.encode(), known.GCS_AUTOSCALER_V2_ENABLED_KEY.encode()
        return bool(_internal_kv_get(key, namespace=space) == b"1")
    kinds = (json.loads(report).get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not re.fullmatch(r"node_[0-9a-f]+", kind) for kind in kinds)
