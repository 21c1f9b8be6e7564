"""What a cluster holds, from what Ray says of its nodes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import ray

from rt_scale.ray_backend import cluster
from rt_scale.ray_backend.cluster import HEAD, Cluster, connect, kinds_of_launcher, possible_nodes
from rt_scale.ray_backend.resources import MOST, Node
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec


def node(address: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    """A node as ``ray.nodes`` tells of it."""
    return {"Alive": alive, "NodeManagerAddress": address, "Resources": {"memory": 1e9, **resources}}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two nodes of two CPUs each; a third one is dead."""
    nodes = [node("10.0.0.1", CPU=2), node("10.0.0.2", CPU=2), node("10.0.0.3", alive=False, CPU=64)]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    return Cluster("10.0.0.1:6379", local=True)


def growing(
    monkeypatch: pytest.MonkeyPatch, kinds: list[Node] | None, *there: dict[str, Any], most: int | None = None
) -> Cluster:
    nodes = [*there] or [node("10.0.0.1", CPU=2)]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "node_kinds", lambda address: kinds)
    monkeypatch.setattr(cluster, "LOOK_S", 0.0)
    return Cluster("10.0.0.1:6379", local=False, max_nodes=most)


def test_only_living_nodes_count(two: Cluster) -> None:
    assert two.describe() == "a local Ray: 2 nodes, 4 CPUs"
    assert not two.unused_gpus([LaunchSpec()])
    assert two.at_once(LaunchSpec(workers=2, cpus=1)) == 2
    with pytest.raises(InputError, match="no node of this machine can ever give"):
        two.refuse_impossible(LaunchSpec(cpus=4))
    two.refuse_impossible(LaunchSpec(workers=2, cpus=2))


def test_workers_on_mig_devices_are_refused_and_unused_gpus_told(two: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("10.0.0.1", CPU=2, GPU=2)]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    two.refuse_impossible(LaunchSpec(gpus=1))
    with pytest.raises(InputError, match="this machine has MIG devices"):
        two.refuse_impossible(LaunchSpec(gpus=1, workers=2))
    assert two.unused_gpus([LaunchSpec()]).startswith("launch.gpus is 0")
    assert not two.unused_gpus([LaunchSpec(), LaunchSpec(gpus=0.5)])
    there = growing(monkeypatch, None, *nodes)
    asked: list[dict[str, Any]] = []

    def ask(look: Any, **options: Any) -> Any:
        asked.append(options)
        yield "10.0.0.1", look()

    monkeypatch.setattr(cluster, "_asked_of_nodes", ask)
    with pytest.raises(InputError, match=r"node 10\.0\.0\.1 has MIG devices"):
        there.refuse_impossible(LaunchSpec(gpus=1, workers=2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    there.refuse_impossible(LaunchSpec(gpus=1, workers=2))
    there.refuse_impossible(LaunchSpec(gpus=1))
    assert [options["resource"] for options in asked] == ["GPU", "GPU"]


def test_what_a_trial_holds(two: Cluster) -> None:
    assert two.trial_resources(LaunchSpec(cpus=2)) == {"CPU": 2}
    wanted = LaunchSpec(cpus=2, gpus=0.5, accelerator="H100")
    assert two.trial_resources(wanted) == {"CPU": 2, "GPU": 0.5, "accelerator_type:H100": 0.001}
    assert two.trial_resources(LaunchSpec(cpus=2, workers=2)) == {HEAD: 0.001}


def test_an_autoscaler_is_judged_by_what_it_could_add(monkeypatch: pytest.MonkeyPatch) -> None:
    grows = growing(monkeypatch, [Node("big", {"CPU": 8}, 3, False)])
    assert grows.autoscaling
    grows.refuse_impossible(LaunchSpec(cpus=8, workers=3))
    assert grows.at_once(LaunchSpec(cpus=4, workers=2)) == 3
    with pytest.raises(InputError, match=r"the cluster at 10.0.0.1:6379.*1 node of 2 CPUs: 10.0.0.1; up to 3 nodes of"):
        grows.refuse_impossible(LaunchSpec(cpus=9))


def room(asked: Cluster, launch: LaunchSpec, **more: int) -> int:
    """How many processes of a section get room, beside those of others."""
    others = {LaunchSpec(cpus=int(name[1:])): count for name, count in more.items()}
    running = next(count for count in range(200) if not asked.has_room(launch, {**others, launch: count}))
    return running


def test_demand_is_what_can_run_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [Node("big", {"CPU": 8}, 3, False), Node("small", {"CPU": 4}, 5, False)]
    head = node("10.0.0.1", CPU=0)
    assert room(growing(monkeypatch, kinds, head), LaunchSpec(cpus=4)) == 11
    # Which kind comes is not known: two of the small one hold two.
    limited = growing(monkeypatch, kinds, head, most=2)
    assert room(limited, LaunchSpec(cpus=4)) == 2
    assert room(limited, LaunchSpec(cpus=2)) == 4
    assert room(limited, LaunchSpec(cpus=2), c4=1) == 2
    big = [node(f"10.0.0.{number}", CPU=8) for number in range(2, 5)]
    assert room(growing(monkeypatch, kinds, head, big[0], most=2), LaunchSpec(cpus=4)) == 3
    assert room(growing(monkeypatch, kinds, head, *big, most=2), LaunchSpec(cpus=4)) == 4
    assert limited.capacity() == {"gpu": 0, "cpu": 16}
    limited.refuse_impossible(LaunchSpec(cpus=8, workers=2))
    with pytest.raises(InputError, match=r"3 workers of 8 CPUs each.*with --max-nodes 2, has room for 2"):
        limited.refuse_impossible(LaunchSpec(cpus=8, workers=3))
    assert room(growing(monkeypatch, [], head, most=3), LaunchSpec(cpus=4)) == 3


def test_where_no_nodes_are_added_some_runs_wait_beside_those_that_have_room(two: Cluster) -> None:
    assert room(two, LaunchSpec()) == 4 + cluster.SPARE
    assert room(two, LaunchSpec(workers=2)) == 2
    with pytest.raises(InputError, match="--max-nodes 2 limits what an autoscaler adds, but a local Ray has none"):
        Cluster("10.0.0.1:6379", local=True, max_nodes=2)


def test_nodes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, said, sleeps, asked = [node("head", CPU=0)], list[str](), list[float](), list[Any]()
    grows = growing(monkeypatch, [Node("big", {"CPU": 8}, 3, False)], *nodes)
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "placement_group", lambda *given, **more: asked.append((given, more)) or "group")
    monkeypatch.setattr(cluster, "remove_placement_group", asked.append)

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        nodes.append(node(f"10.0.0.{len(nodes)}", alive=len(nodes) != 2, CPU=8))

    monkeypatch.setattr(cluster.time, "sleep", sleep)
    launches = [LaunchSpec(cpus=4)]
    grows.wait_for(2, launches, said.append, lambda: False)
    assert [text.split(" with room")[0] for text in said] == ["0 nodes of 2", "1 node of 2", "2 nodes of 2"]
    assert "waiting since" in said[0]
    assert asked == [(([{"CPU": 4}] * 2,), {"strategy": "STRICT_SPREAD"}), "group"]
    nodes[:] = nodes[:1]
    grows.wait_for(2, launches, said.append, lambda: len(sleeps) > 4)
    assert len(sleeps) == 5
    with pytest.raises(InputError, match=r"--wait-nodes 4 .*10.0.0.1:6379 gets at most 3"):
        grows.wait_for(4, launches, said.append, lambda: False)
    with pytest.raises(InputError, match="a local Ray is one node"):
        Cluster("10.0.0.1:6379", local=True).wait_for(1, launches, said.append, lambda: False)


def test_an_autoscaler_that_says_nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    grows = growing(monkeypatch, [])
    grows.refuse_impossible(LaunchSpec(cpus=64))
    assert grows.at_once(LaunchSpec(cpus=64, workers=2)) == cluster.UNSEEN
    assert "more nodes may be added" in grows.describe()
    assert not growing(monkeypatch, None).autoscaling


def test_a_cluster_is_not_asked_without_the_token_that_was_demanded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setattr(cluster, "probe", lambda address: pytest.fail("asked"))
    with pytest.raises(InputError, match="RAY_AUTH_MODE is token, but there is no token"), connect("10.0.0.1:6379"):
        pass


def test_an_address_of_the_environment_that_cannot_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    for address in (None, "auto"):
        with pytest.raises(InputError, match=r"^RAY_ADDRESS is set to 'http"), connect(address):
            pass


@pytest.mark.parametrize(("folder", "words"), [("x" * 100, "AF_UNIX path length"), ("file", "Not a directory")])
def test_a_folder_that_ray_cannot_use_is_told_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, folder: str, words: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / folder))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    with (
        pytest.raises(InputError, match=rf"^A local Ray could not be started .*{words}.* set RAY_TMPDIR"),
        connect("local"),
    ):
        pass


def test_a_ray_that_is_slow_to_start_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TimeoutError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    with pytest.raises(InputError, match=r"timed out .* busy, wait .* again\. If it is the folder"), connect("local"):
        pass


def test_its_capacity_is_that_of_living_nodes_and_those_that_may_come(
    two: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two.capacity() == {"gpu": 0, "cpu": 4}
    assert growing(monkeypatch, [Node("big", {"CPU": 8, "GPU": 2}, 3, False)]).capacity() == {
        "gpu": 6,
        "cpu": 2 + 3 * 8,
    }
    assert growing(monkeypatch, [Node("any", {"CPU": 8}, math.inf, False)]).capacity() == {
        "gpu": 0,
        "cpu": 2 + 8 * MOST,
    }
    # Which nodes it could add it does not say.
    assert growing(monkeypatch, []).capacity() == {"gpu": 0, "cpu": 2}


CONFIG: dict[str, Any] = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 9},
        "cpu": {"resources": {"CPU": 16}},
    },
}


def test_kinds_of_a_launcher() -> None:
    assert kinds_of_launcher(CONFIG) == [
        Node("head", {"CPU": 4}, 0, False),
        Node("gpu", {"CPU": 8, "GPU": 2}, 5, False),
        Node("cpu", {"CPU": 16}, 5, False),
    ]


def test_two_are_the_most_where_nothing_is_said() -> None:
    without = {key: value for key, value in CONFIG.items() if key != "max_workers"}
    assert [kind.count for kind in kinds_of_launcher(without)] == [0, 2, 2]


def test_a_kind_that_does_not_say_what_it_has_leaves_all_open() -> None:
    assert kinds_of_launcher({**CONFIG, "available_node_types": {"gpu": {"node_config": {}}}}) == []


def test_living_nodes_are_counted_once() -> None:
    kinds = kinds_of_launcher(CONFIG)
    head, gpu, other = Node("1", {"CPU": 4}), Node("2", {"CPU": 8, "GPU": 2}), Node("3", {"CPU": 2})
    assert [(node.name, node.count) for node in possible_nodes([head, gpu, other], kinds)] == [
        ("3", 1),
        ("head", 1),
        ("gpu", 5),
        ("cpu", 5),
    ]
    assert [(node.name, node.count) for node in possible_nodes([gpu] * 7, kinds)] == [("gpu", 7), ("cpu", 5)]
