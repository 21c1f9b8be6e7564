"""What a sweep used, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.bill import Bill, bill_of
from rt_scale.report.report import make_report
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store, SweepDir
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.store.usage import NodeRate, NodeUse, Planned, Usage, write_usage
from tests.records import finish_run, run_result

HOUR = 3600.0
RATES = [
    NodeRate(
        name="g5.2xlarge", gpus=1, cpus=8, accelerator="A10G", on_demand=2.0, spot=0.5, currency="USD", known="page"
    ),
    NodeRate(name="other", gpus=1, cpus=8, accelerator="L4", on_demand=9.0, currency="USD", known="page"),
]


def node(name: str, hours: float, used: float, **more: Any) -> NodeUse:
    """A node with one GPU, of which runs held ``used`` hours."""
    given = {"has": {"gpu": 1, "cpu": 8}, "accelerator": "A10G", "held": {"gpu": used * HOUR, "cpu": used * HOUR}}
    return NodeUse(node=name, name=name, start=0.0, end=hours * HOUR, **{**given, **more})


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return Store(tmp_path / "store").sweep("s")


def record(folder: SweepDir, *nodes: NodeUse, session: str = "aa", **more: Any) -> None:
    given = {"sweeps": ("s",), "start": 0.0, "end": 4 * HOUR, **more}
    write_usage(folder, Usage(session=session, nodes=nodes, **given))


def test_used_idle_and_lost_are_counted_in_gpu_hours_if_runs_held_gpus(folder: SweepDir) -> None:
    cpus = node("c", 4, 0, has={"gpu": 0, "cpu": 8}, accelerator="", held={"cpu": HOUR})
    record(folder, node("a", 4, 3), node("b", 2, 0.5), cpus, lost={"gpu": 0.25 * HOUR}, interruptions=2)
    bill = bill_of([folder])
    assert bill is not None
    assert (bill.unit, bill.used, bill.idle, bill.lost, bill.interruptions) == ("gpu", 3.5, 2.5, 0.25, 2)
    assert bill.summary == (
        "Runs held 3.5 GPU-hours, 0.25 of them computed twice after 2 interruptions; 2.5 were idle, on 3 nodes in "
        "4h 00m."
    )
    assert [(line.kind, line.nodes, line.hours, line.on_demand) for line in bill.lines] == [
        ("8 CPUs, 1 GPU (A10G)", 2, 6.0, None),
        ("8 CPUs", 1, 4.0, None),
    ]
    assert (bill.on_demand, bill.spot) == (None, None)
    assert "No price is known" in bill.notes[-1]


def test_without_gpus_cores_are_counted(folder: SweepDir) -> None:
    record(folder, node("a", 4, 0, has={"gpu": 1, "cpu": 8}, held={"gpu": 0.0, "cpu": 8 * HOUR}))
    bill = bill_of([folder])
    assert bill is not None
    assert (bill.unit, bill.used, bill.idle) == ("cpu", 8, 24)
    assert bill.summary.startswith("Runs held 8 core-hours; 24 were idle, on 1 node")


def test_nodes_cost_what_their_kind_costs_from_the_plan_or_as_named(folder: SweepDir) -> None:
    record(folder, node("a", 4, 3), planned=Planned(hours=3.0, device_hours={"gpu": 2.5}, rates=tuple(RATES)))
    bill = bill_of([folder])
    assert bill is not None
    assert (bill.on_demand, bill.spot, bill.currency) == (8.0, 2.0, "USD")
    assert bill.summary.endswith("Cost: 8.00 USD on demand, 2.00 USD at spot prices.")
    assert bill.notes[0] == "The plan at the start: 3h 00m, 2.5 GPU-hours of runs."
    assert bill.table[1] == ["g5.2xlarge", "1", "4", "3", "1", "8.00 USD", "2.00 USD", "page"]
    dearer = [RATES[0].model_copy(update={"on_demand": 3.0, "spot": None})]
    other = bill_of([folder], dearer)
    assert other is not None
    assert (other.on_demand, other.spot) == (12.0, None)
    assert other.summary.endswith("Cost: 12.00 USD on demand.")
    unknown = bill_of([folder], RATES[1:])
    assert unknown is not None
    assert unknown.cost == ""


def test_drivers_add_up(folder: SweepDir) -> None:
    record(folder, node("a", 1, 1), end=HOUR)
    record(folder, node("a", 1, 0.5).model_copy(update={"start": HOUR, "end": 2 * HOUR}), session="bb", end=3 * HOUR)
    bill = bill_of([folder])
    assert bill is not None
    assert (bill.drivers, bill.used, bill.idle, bill.seconds) == (2, 1.5, 0.5, 3 * HOUR)


def test_nothing_recorded_is_no_bill(folder: SweepDir) -> None:
    assert bill_of([folder]) is None
    record(folder)
    assert bill_of([folder]) is None


def test_the_report_has_it_in_every_form(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    spec = SweepSpec(name="s", base={"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}})
    points = expand(spec)
    finish_run(store, points[0], run_result(name=points[0].spec.name))
    record(store.sweep("s"), node("a", 4, 3))
    report = make_report([SweepRuns(spec, points, store)], "last", DataHere(tmp_path / "data"), RATES)
    assert isinstance(report.bill, Bill)
    kept = json.loads((report.folder / "tables.json").read_text())["bill"]
    assert (kept["used"], kept["on_demand"], kept["lines"][0]["kind"]) == (3, 8.0, "g5.2xlarge")
    for name in ("report.md", "report.html"):
        text = (report.folder / name).read_text()
        assert "What it used" in text
        assert "Runs held 3 GPU-hours; 1 were idle, on 1 node in 4h 00m. Cost: 8.00 USD on demand" in text
        assert "g5.2xlarge" in text
