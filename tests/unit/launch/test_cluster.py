from __future__ import annotations

import pytest

from rt_scale.launch import cluster
from rt_scale.launch.cluster import at_once, check_workers, refuse_impossible
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    resources = {"CPU": 16.0, "GPU": 4.0}
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: resources)
    return resources


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "said"),
    [
        (2, 1, 0.5, "two workers of one run would share a GPU"),
        (5, 1, 1, "5 workers of 1 gpus each need 5, but there are 4"),
        (2, 9, 0, "2 workers of 9 cpus each need 18, but there are 16"),
    ],
)
def test_workers_that_never_find_room_are_refused(
    has: dict[str, float], workers: int, cpus: int, gpus: float, said: str
) -> None:
    for refuse in (
        lambda: check_workers(workers, cpus, gpus, has),
        lambda: refuse_impossible(LaunchSpec(workers=workers, cpus=cpus, gpus=gpus)),
    ):
        with pytest.raises(InputError, match=said):
            refuse()


def test_others_are_not(has: dict[str, float]) -> None:
    check_workers(1, 1, 0.5, has)
    check_workers(4, 4, 1, has)
    refuse_impossible(LaunchSpec(workers=4, cpus=4, gpus=1))
    with pytest.raises(InputError, match="asks for 5 a run"):
        refuse_impossible(LaunchSpec(gpus=5))


@pytest.mark.parametrize(
    ("launch", "runs"),
    [
        (LaunchSpec(workers=2, cpus=1), 8),
        (LaunchSpec(workers=3, cpus=2), 2),
        (LaunchSpec(workers=2, cpus=1, gpus=1), 2),
        (LaunchSpec(workers=2, cpus=8, gpus=1), 1),
    ],
)
@pytest.mark.usefixtures("has")
def test_no_more_runs_start_than_have_room_for_all_their_workers(launch: LaunchSpec, runs: int) -> None:
    assert at_once(launch) == runs
