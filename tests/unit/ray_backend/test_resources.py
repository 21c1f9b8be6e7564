"""Whether made-up nodes can ever hold a run."""

from __future__ import annotations

import math

import pytest

from rt_scale.ray_backend.resources import (
    MOST,
    Node,
    bundle,
    described,
    fits_at_once,
    listed,
    refuse_mig,
    refuse_unplaceable,
    short_name,
    slots,
)
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec

SMALL = [Node("a", {"CPU": 2}), Node("b", {"CPU": 2})]
GPUS = [
    Node("head", {"CPU": 4}),
    Node("x", {"CPU": 16, "GPU": 4, "accelerator_type:A100": 1}),
    Node("y", {"CPU": 16, "GPU": 4, "accelerator_type:A100": 1}),
    Node("z", {"CPU": 8, "GPU": 1, "accelerator_type:H100": 1}),
]


def refusal(launch: LaunchSpec, nodes: list[Node]) -> str:
    with pytest.raises(InputError) as error:
        refuse_unplaceable(launch, nodes, "the cluster")
    return str(error.value)


def test_a_run_has_to_fit_on_one_node() -> None:
    said = refusal(LaunchSpec(cpus=4), SMALL)
    assert said.startswith("A run asks for 4 CPUs on one node, which no node of the cluster can ever give.")
    assert "Available: 2 nodes of 2 CPUs: a, b." in said
    assert "Lower launch.cpus" in said
    refuse_unplaceable(LaunchSpec(cpus=2), SMALL, "the cluster")


def test_cpus_and_gpus_have_to_be_on_the_same_node() -> None:
    nodes = [Node("a", {"CPU": 64}), Node("b", {"CPU": 1, "GPU": 8})]
    assert "asks for 2 CPUs, 1 GPU on one node" in refusal(LaunchSpec(cpus=2, gpus=1), nodes)


def test_workers_are_counted_node_by_node() -> None:
    # 10 CPUs in all, but three on each: one worker of two CPUs a node.
    nodes = [Node(name, {"CPU": 3}) for name in "abc"] + [Node("d", {"CPU": 1})]
    assert slots(LaunchSpec(cpus=2), nodes) == 3
    refuse_unplaceable(LaunchSpec(cpus=2, workers=3), nodes, "the cluster")
    said = refusal(LaunchSpec(cpus=2, workers=4), nodes)
    assert said.startswith("A run asks for 4 workers of 2 CPUs each, but the cluster has room for 3 of them")
    assert "1 node of 1 CPU: d" in said


def test_too_large_a_worker_is_told_from_too_many() -> None:
    assert refusal(LaunchSpec(cpus=3, workers=2), SMALL).startswith("Each of the 2 workers of a run asks for 3 CPUs")


@pytest.mark.parametrize(("gpus", "workers", "held"), [(0.5, 1, 18), (0.3, 1, 27), (2, 2, 4), (4, 2, 2), (1, 9, 9)])
def test_gpus(gpus: float, workers: int, held: int) -> None:
    launch = LaunchSpec(gpus=gpus, workers=workers)
    assert slots(launch, GPUS) == held
    refuse_unplaceable(launch, GPUS, "the cluster")


def test_a_tenth_fits_ten_times() -> None:
    assert slots(LaunchSpec(gpus=0.1), [Node("a", {"CPU": 99, "GPU": 1})]) == 10


def test_an_accelerator_that_no_node_has() -> None:
    assert "Did you mean 'H100'? Known: A100, H100." in refusal(LaunchSpec(gpus=1, accelerator="h100"), GPUS)
    assert "no node of the cluster has an accelerator" in refusal(LaunchSpec(accelerator="H100"), SMALL)


def test_an_accelerator_narrows_the_nodes() -> None:
    wanted = LaunchSpec(gpus=1, accelerator="H100")
    assert bundle(wanted) == {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}
    refuse_unplaceable(wanted, GPUS, "the cluster")
    said = refusal(LaunchSpec(gpus=2, accelerator="H100"), GPUS)
    assert "2 nodes of 16 CPUs, 4 GPUs (A100): x, y; 1 node of 8 CPUs, 1 GPU (H100): z" in said
    assert slots(LaunchSpec(gpus=1, accelerator="A100"), GPUS) == 8


def test_a_kind_that_does_not_tell_its_accelerator_may_have_it() -> None:
    kind = Node("gpu", {"CPU": 8, "GPU": 2}, math.inf, told=False)
    refuse_unplaceable(LaunchSpec(gpus=1, accelerator="H100", workers=5), [kind], "the cluster")
    assert "any number of nodes of 8 CPUs, 2 GPUs: gpu" in refusal(LaunchSpec(gpus=3), [kind])
    telling = Node("gpu", {"CPU": 8, "GPU": 2, "accelerator_type:A100": 1}, math.inf, told=False)
    assert "Unknown accelerator 'H100'" in refusal(LaunchSpec(gpus=1, accelerator="H100"), [telling])


def test_memory_is_on_the_node_of_the_cpus() -> None:
    nodes = [Node("a", {"CPU": 64, "memory": 4 * 2**30}), Node("b", {"CPU": 2, "memory": 33 * 2**30})]
    wanted = LaunchSpec(memory=16)
    assert bundle(wanted) == {"CPU": 1, "memory": 16 * 2**30}
    assert slots(wanted, nodes) == 2
    said = refusal(LaunchSpec(memory=16, cpus=3), nodes)
    assert said.startswith("A run asks for 3 CPUs, 16 GiB of memory on one node")
    assert "1 node of 64 CPUs, 4 GiB of memory: a; 1 node of 2 CPUs, 33 GiB of memory: b. Lower launch.memory" in said
    assert "GiB" not in refusal(LaunchSpec(cpus=65), nodes)


def test_no_node_at_all() -> None:
    assert "Available: no node." in refusal(LaunchSpec(), [])


@pytest.mark.parametrize(
    ("launch", "runs"),
    [
        (LaunchSpec(workers=2, cpus=1), 22),
        (LaunchSpec(workers=2, gpus=1), 4),
        (LaunchSpec(workers=9, gpus=1), 1),
        (LaunchSpec(workers=50), 1),
        (LaunchSpec(gpus=0.001, cpus=1), 40),
    ],
)
def test_runs_at_once(launch: LaunchSpec, runs: int) -> None:
    assert fits_at_once(launch, GPUS) == runs


def test_no_more_than_most_at_once() -> None:
    assert fits_at_once(LaunchSpec(), [Node("any", {"CPU": 8}, math.inf)]) == MOST


def test_in_words() -> None:
    assert described(GPUS) == "4 nodes, 44 CPUs, 9 GPUs (A100, H100)"
    assert described([Node("a", {"CPU": 1})]) == "1 node, 1 CPU"
    many = [Node(f"n{index}", {"CPU": 2}) for index in range(6)]
    assert listed(many) == ["6 nodes of 2 CPUs: n0, n1, n2, n3, ..."]


MIG = ["MIG-41b35014-f64a-5f6b-9b62-c0ffee012345", "MIG-GPU-5c1fb2a7-0d8e-11ee-be56-0242ac120002/1/0"]


def test_gpus_have_short_names() -> None:
    assert [short_name(gpu) for gpu in (3, "3", *MIG)] == ["3", "3", "MIG-41b35014", "MIG-GPU-5c1fb2a7/1/0"]


def test_several_workers_do_not_run_on_mig_devices() -> None:
    both = LaunchSpec(gpus=1, workers=2)
    with pytest.raises(InputError, match=r"2 workers with GPUs, but node a has MIG devices \(MIG-41b35014\)"):
        refuse_mig(both, ["0", MIG[0]], "node a")
    refuse_mig(both, ["0", "GPU-5c1fb2a7-0d8e-11ee-be56-0242ac120002"], "node a")
    refuse_mig(LaunchSpec(gpus=1), MIG, "node a")
    refuse_mig(LaunchSpec(workers=2), MIG, "node a")
