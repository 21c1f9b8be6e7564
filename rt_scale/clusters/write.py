"""Cluster files: what a sweep asks of a cluster, filled into the template of a kind of cluster."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import math
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from rt_scale.clusters.shape import NodeShape
from rt_scale.plan.costs import Price
from rt_scale.plan.nodes import IDLE
from rt_scale.spec.errors import InputError, printable, shown, unknown_name
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.atomic import write_bytes
from rt_scale.store.objects.uri import is_address
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names

NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"
"""Names of clusters: valid for Kubernetes, cloud providers, Slurm and SkyPilot alike."""
MOUNTED = "/etc/rt-scale/sweeps"
"""Folder of the sweep files in Kubernetes pods."""
EDIT = 'edit the lines marked "# edit"; '


class Kind(NamedTuple):
    """A kind of cluster.

    Attributes:
        template: its file in ``templates/``.
        start: the line of a shell that starts it, with ``{file}``, ``{name}``, ``{nodes}`` and ``{command}``.
        shared: whether its nodes may share a folder, so that the store may be one.
        mounted: whether the sweep files are in the cluster file itself; otherwise nodes have them at the same paths.
        whole: whether all workers of a run are on one node.
        equal: whether the file describes its nodes, each for a worker; otherwise machines, which may hold several.
        grows: whether nodes come and go as runs need them.
        told: whether Ray is told the type of its nodes' GPUs; by itself it finds an A100-80G to be an A100.
        provider: whose machines they are, in a price sheet; None: anyone's.
        options: of the ``rt-scale sweep`` that runs there.
    """

    template: str
    start: str
    shared: bool = False
    mounted: bool = False
    whole: bool = False
    equal: bool = False
    grows: bool = False
    told: bool = True
    provider: str | None = None
    options: tuple[str, ...] = ()


LAUNCH = "ray up --yes {file} && ray exec --tmux {file} {command}"
"""Starts a cluster of Ray's launcher, and the sweeps on its head, in a terminal that stays."""

KINDS = {
    "aws": Kind("aws.yaml.j2", LAUNCH, grows=True, provider="aws", options=("--address", "auto")),
    "gcp": Kind("gcp.yaml.j2", LAUNCH, grows=True, provider="gcp", options=("--address", "auto")),
    "kuberay": Kind("kuberay.yaml.j2", "kubectl apply -f {file}", mounted=True, equal=True, grows=True),
    "slurm_array": Kind(
        "slurm_array.sh.j2", "sbatch {file}", shared=True, whole=True, told=False, options=("--leave-others",)
    ),
    "slurm_nodes": Kind("slurm_nodes.sh.j2", "sbatch {file}", shared=True, equal=True, told=False),
    "hosts": Kind("hosts.yaml.j2", "rt-scale cluster up {file}", shared=True),
    "sky": Kind(
        "sky.yaml.j2",
        "for job in $(seq {nodes}); do sky jobs launch --yes --detach-run --name {name}-$job {file}; done",
        whole=True,
        told=False,
        options=("--leave-others",),
    ),
}
"""Kinds of clusters by name."""


SIZES = {"A100-40G": "A100", "A100-80G": "A100"}
"""Ray's names of GPUs of one size of memory -> the type that it finds them to be."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a cluster is for; every template is given these fields and properties, and those of ``shape.launch``.

    Attributes:
        name: of the cluster, as ``NAME``.
        sweeps: paths of the sweep files, as typed.
        texts: name of each sweep -> text of its file.
        store: address, or absolute path, of the store.
        data: names of the data sets that runs need.
        data_origin: address or folder of prepared data sets, if nodes fetch them.
        shape: the smallest node that suits.
        machine: a machine of a price sheet that suits, if one was found there.
        max_nodes: nodes besides a head, at most.
        spot: whether nodes may be interrupted.
        deadline: hours after which all should be done.
        command: the line of a shell that runs the sweeps there.
    """

    name: str
    sweeps: tuple[str, ...]
    texts: Mapping[str, str]
    store: str
    data: tuple[str, ...]
    data_origin: str | None
    shape: NodeShape
    machine: Price | None
    max_nodes: int
    spot: bool
    deadline: float | None
    ray_version: str
    python_version: str
    command: str

    @property
    def node_gpus(self) -> int:
        """GPUs of the smallest node that suits."""
        return self.shape.gpus

    @property
    def node_cpus(self) -> int:
        """Cores of that node."""
        return self.shape.cpus

    @property
    def node_memory(self) -> int | None:
        """GiB of memory of that node, if a worker's is known."""
        return self.shape.memory

    @property
    def files(self) -> dict[str, str]:
        """Name of each sweep file, where a cluster file holds them -> its text."""
        return {f"{name}.yaml": text for name, text in self.texts.items()}


def find_kind(name: str) -> Kind:
    """The kind of cluster of that name; InputError names the nearest if there is none."""
    if name not in KINDS:
        raise unknown_name("kind of cluster", name, KINDS)
    return KINDS[name]


def wanted_for(
    kind: str,
    sweeps: Sequence[SweepRuns],
    files: Sequence[str],
    max_nodes: int,
    *,
    machine: Price | None = None,
    spot: bool = True,
    data_origin: str | None = None,
    deadline: float | None = None,
    name: str | None = None,
    options: Sequence[str] = (),
) -> Wanted:
    """What a cluster of a kind needs for sweeps of one store.

    Args:
        files: paths of the sweep files, as typed.
        max_nodes, machine, spot, data_origin, deadline: as in ``Wanted``.
        name: of the cluster; None: from the first sweep's.
        options: more words for ``rt-scale sweep``.

    Raises:
        InputError: as ``shape_of``; a name or a store that is not valid there, or too few nodes for a run.
    """
    found, shape = find_kind(kind), shape_of(kind, sweeps)
    launch, store = shape.launch, sweeps[0].store.place
    _refuse_folders(kind, {"--store": store, "--data-origin": data_origin})
    if found.equal and max_nodes < launch.workers:
        raise InputError(
            f"--max {max_nodes} is too few: a run has {launch.workers} workers, and in a file of kind {kind} each has "
            f"a node of its own. Give --max {launch.workers} or more."
        )
    places = [f"{MOUNTED}/{sweep.name}.yaml" for sweep in sweeps] if found.mounted else files
    limits = [*(["--max-nodes", str(max_nodes)] if found.grows else []), *_limits(found, launch, deadline)]
    command = ["rt-scale", "sweep", *places, "--store", store, *options, *limits, *found.options]
    return Wanted(
        name=_name(name, sweeps[0].name),
        sweeps=tuple(files),
        texts={sweep.name: sweep.text for sweep in sweeps},
        store=store,
        data=tuple(sorted({name for sweep in sweeps for point in sweep.grid for name in point.spec.data_sets})),
        data_origin=data_origin,
        shape=shape,
        machine=machine,
        max_nodes=max_nodes,
        spot=spot,
        deadline=deadline,
        ray_version=importlib.metadata.version("ray"),
        python_version=".".join(platform.python_version_tuple()[:2]),
        command=shlex.join(command),
    )


def _limits(kind: Kind, launch: LaunchSpec, deadline: float | None) -> list[str]:
    """The deadline in hours and the type of GPU, as words for ``rt-scale sweep``."""
    words = [] if deadline is None else ["--deadline", f"{deadline:g}h"]
    if not kind.told and launch.accelerator in SIZES:
        words += ["--accelerator", SIZES[launch.accelerator]]
    return words


def shape_of(kind: str, sweeps: Sequence[SweepRuns]) -> NodeShape:
    """The smallest node that suits all the sweeps; InputError: as ``largest``, or an unknown kind."""
    refuse_equal_names(sweeps, "run on one cluster")
    launch = largest([sweep.spec.launch for sweep in sweeps], [sweep.name for sweep in sweeps])
    return NodeShape(launch, find_kind(kind).whole)


def _refuse_folders(kind: str, places: Mapping[str, str | None]) -> None:
    for option, place in places.items():
        if place is not None and not find_kind(kind).shared and not is_address(place):
            raise InputError(
                f"{option} is the folder '{place}' of this machine, which nodes of kind {kind} cannot reach. Give the "
                "address of a bucket: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX."
            )


def _name(given: str | None, sweep: str) -> str:
    if given is None:
        return re.sub("[^a-z0-9]+", "-", f"rt-{sweep.lower()}")[:40].strip("-")
    if not re.fullmatch(NAME, given):
        raise InputError(
            f"--name is {shown(given)}; allowed are 1 to 40 lower-case letters, digits and '-', a letter first and no "
            "'-' last."
        )
    return given


def largest(launches: Sequence[LaunchSpec], names: Sequence[str]) -> LaunchSpec:
    """A launch section whose nodes hold the runs of every given one; ``names`` are those of the sweeps.

    InputError: some ask for GPUs and others for none, or for different types, so that one kind of node is a waste.
    """
    for what, values in (
        ("launch.accelerator", [launch.accelerator for launch in launches]),
        ("GPUs", ["some" if launch.gpus else "none" for launch in launches]),
    ):
        if len(set(values)) > 1:
            listed = ", ".join(f"{name}: {value or 'any'}" for name, value in zip(names, values, strict=True))
            raise InputError(
                f"The sweeps differ in {what} ({listed}), so no kind of node suits them all. Write a file for each; "
                "they can share the store."
            )
    fields = ("cpus", "gpus", "workers", "memory")
    most = {field: max(getattr(launch, field) or 0 for launch in launches) or None for field in fields}
    if most["workers"] != 1 and most["gpus"]:
        most["gpus"] = math.ceil(most["gpus"])
    return launches[0].model_copy(update=most | {"gpus": most["gpus"] or 0.0})


@functools.cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("rt_scale.clusters"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, finalize=_not_none,
    )  # fmt: skip
    found.filters |= {"yaml": yaml_scalar, "sh": shlex.quote, "block": yaml_block}
    return found


def _not_none(value: object) -> object:
    if value is None:
        raise TypeError("a template prints a field that is not given")
    return value


def yaml_scalar(value: str) -> str:
    """A text as one double-quoted YAML scalar in one line."""
    return yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True).rstrip("\n")


class _Block(yaml.SafeDumper):
    """Writes texts as they are, where YAML allows it."""


_Block.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def yaml_block(texts: Mapping[str, str], indent: int) -> str:
    """A mapping of texts by plain names in YAML, its lines indented; texts are literal blocks where YAML allows it."""
    lines = "".join(
        f"{name}: {yaml.dump(text, Dumper=_Block, width=math.inf, allow_unicode=True)}" for name, text in texts.items()
    )
    return "\n".join(" " * indent + line if line else "" for line in lines.splitlines())


def render(kind: str, wanted: Wanted, written: Iterable[str]) -> str:
    """The text of a cluster file; its head has ``written``, the words of the command that writes it."""
    fields = dict(wanted.shape.launch) | {name: getattr(wanted, name) for name in dir(wanted) if name[0] != "_"}
    text = _templates().get_template(find_kind(kind).template).render(fields, mounted=MOUNTED, idle=round(IDLE))
    first = text[: text.index("\n") + 1] if text.startswith("#!") else ""
    head = f"# Written by: {printable(shlex.join(written))}\n# As written ({EDIT}checksum {_checksum(text)})\n"
    return first + head + text.removeprefix(first)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_HEAD = re.compile(r"# Written by: .*\n# As written \(.*checksum ([0-9a-f]{12})\)\n")


def is_edited(text: str) -> bool:
    """Whether the text of a cluster file is not as ``render`` made it."""
    head = _HEAD.search(text)
    return head is None or _checksum(text.replace(head[0], "", 1)) != head[1]


def write_file(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a cluster file; InputError if another one stands there that was edited, unless it is to be replaced."""
    if path.is_dir():
        raise InputError(f"'{path}' is a folder. Name a file with --out.")
    if path.exists() and not replace and is_edited(path.read_text(encoding="utf-8", errors="replace")):
        raise InputError(
            f"'{path}' was edited, or not written by rt-scale. Name another file with --out, or give --replace to lose "
            "what it says."
        )
    write_bytes(path, text.encode())


def start_command(kind: str, wanted: Wanted, path: Path) -> str:
    """The line of a shell that starts the cluster of that file."""
    words = {"file": str(path), "name": wanted.name, "nodes": str(wanted.max_nodes), "command": wanted.command}
    return find_kind(kind).start.format(**{word: shlex.quote(value) for word, value in words.items()})
