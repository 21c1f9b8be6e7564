"""Several runs inside one Ray worker, trained as one batched network where that pays."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rt_scale.ray_backend.control import PREEMPTED, ControlClient
from rt_scale.ray_backend.trial import how_it_ended, settings_for, where_it_is
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import Packing, RunResult

if TYPE_CHECKING:
    from rt_scale.experiments.options import Options

Report = Callable[[dict[str, Any]], None]


def run_packed_trial(given: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Execute the runs that a trial was given, as many of them as train together, and say of each how it ended.

    Args:
        given: as for :func:`ray_backend.trial.run_trial`; ``specs`` in place of ``spec``, and ``packing``, what
            was measured for their shape before, or None.
        report: takes what is to be known at once: ``runs``, how single ones ended (:class:`JobOutcome` by name;
            ``spare`` of those that are not executed here after all), and ``packing``, what was measured.

    Returns:
        ``state``: ``packed``, when all is over.
    """
    from rt_scale.experiments.batched import run_pack

    launch = LaunchSpec.model_validate(given["launch"])
    specs = [RunSpec.model_validate(each) for each in given["specs"]]
    clients = [ControlClient(spec.name, where_it_is(launch, given)) for spec in specs]
    settings = [settings_for(launch, given, client) for client in clients]
    leading = contextlib.ExitStack()
    clients[0].begin()
    leading.enter_context(clients[0].reporting())  # a stop is heard while it is measured, too
    packing = _packing(specs, settings[0], launch, given["packing"])
    specs, spare = specs[: packing.size], specs[packing.size :]
    runs = {spec.name: {"state": "spare", "why": "", "values": {}} for spec in spare}
    report({"state": "running", "runs": runs, "packing": packing.to_json() if packing.seconds else None})
    reporting = [leading, *(contextlib.ExitStack() for _ in specs[1:])]

    def ended(number: int, outcome: RunResult | BaseException) -> None:
        client = clients[number]
        reporting[number].close()
        if client.told != PREEMPTED:
            runs = {specs[number].name: how_it_ended(outcome, client)}
            report({"state": "running", "runs": runs})

    for stack, client in zip(reporting[1:], clients[1:], strict=False):
        client.begin()
        stack.enter_context(client.reporting())
    chosen = [dataclasses.replace(each, packing=packing) for each in settings[: len(specs)]]
    run_pack(specs, chosen, ended)
    if any(client.told == PREEMPTED for client in clients):
        os._exit(0)  # nothing else is to start in this process: its node is about to go
    return {"state": "packed"}


def _packing(specs: list[RunSpec], settings: Options, launch: LaunchSpec, known: Mapping[str, Any] | None) -> Packing:
    from rt_scale.experiments.batched import choose_packing

    if known is not None:
        return Packing.model_validate(known)
    if len(specs) == 1:
        return Packing(reason="no other run of its shape was waiting")
    try:
        return choose_packing(specs, settings, None if launch.pack == "auto" else launch.pack)
    except Stopped:
        return Packing(reason="asked to stop while it was measured")
    except Exception as error:  # which the first run will meet, too, and record
        return Packing(reason=f"could not be measured: {error}")
