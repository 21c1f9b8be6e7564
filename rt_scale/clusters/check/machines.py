"""What is wrong with a file of machines that SSH reaches; the machines themselves are asked by ``cluster up``."""

from __future__ import annotations

from pydantic import ValidationError

from rt_scale.clusters.check.document import Asked, Document, Findings
from rt_scale.clusters.hosts import HostsSpec
from rt_scale.spec.document import problem_lines
from rt_scale.spec.errors import InputError


def check_machines(document: Document, asked: Asked, found: Findings) -> None:
    """Add what is wrong with the fields, the variables of this shell, and machines on which no run of a sweep fits."""
    found.checked.append("fields and names")
    found.unchecked.append("the machines themselves (rt-scale cluster up looks at each before it changes anything)")
    try:
        spec = HostsSpec.model_validate(document.value)
    except ValidationError as error:
        for problem, text in zip(error.errors(include_url=False), problem_lines(HostsSpec, error), strict=True):
            keys = tuple(key for key in problem["loc"] if not str(key).startswith("function-"))
            found.wrong_at(document, keys, text.removeprefix(f"{'.'.join(map(str, keys))}: "))
        return
    try:
        found.checked.append(f"{len(spec.secrets)} variables of this shell")
    except InputError as error:
        found.wrong_at(document, ("environment",), str(error))
    for name, launch in asked.launches.items():
        given = [(host.cpus, host.gpus) for host in spec.hosts]
        if not any(
            (cpus is None or cpus >= launch.cpus) and (gpus is None or gpus >= launch.gpus) for cpus, gpus in given
        ):
            text = f"no run of {name} fits on any machine: it needs {launch.cpus} CPUs and {launch.gpus:g} GPUs"
            found.wrong_at(document, ("head",), f"{text} at once; raise cpus and gpus, or lower them in launch")
