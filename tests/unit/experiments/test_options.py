from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import Sets, experiment_of
from rt_scale.experiments.check import cache_bytes
from rt_scale.experiments.options import Options, find_device, free_memory, resolve
from rt_scale.experiments.runner import run
from rt_scale.models.networks import FeaturesOfViews
from rt_scale.models.plain import ConvNet
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.store.results import BatchSize, Execution
from rt_scale.store.store import Store
from rt_scale.system.machine import allowed_cores
from rt_scale.training import accelerate
from rt_scale.training.distributed import Group
from tests.records import run_record

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]


def resolved(spec: RunSpec, digits: Prepared, options: Options, earlier: Execution | None) -> Execution:
    return resolve(spec, experiment_of(spec).needs(spec, Sets(digits)), options, earlier)


def test_a_numbered_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "empty", lambda *shape, device: torch.zeros(*shape))
    assert [find_device(name) for name in ("cuda:1", "cuda", "cpu")] == [*map(torch.device, ("cuda:1", "cuda", "cpu"))]
    assert current == [torch.device("cuda:1")]


@pytest.mark.parametrize("name", ["cdua", "", "gpu", "cuda:99", "cpu:x", "meta"])
def test_unknown_devices_are_refused_and_those_that_are_here_named(name: str) -> None:
    with pytest.raises(InputError) as caught:
        find_device(name)
    text = str(caught.value)
    assert text.startswith(f"The device '{name}' cannot be used here (")
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    assert f"Here: {', '.join(here)};" in text
    assert "\n" not in text


def test_the_device_is_the_one_named() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("threads", [0, -3])
def test_threads_must_be_positive(tiny: Tiny, settings: Make, digits: Prepared, threads: int) -> None:
    with pytest.raises(InputError, match=f"{threads} threads were asked for; give at least 1"):
        resolved(tiny(), digits, settings(threads=threads), None)


def test_threads_are_those_asked_for_else_all_that_are_allowed(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    assert resolved(tiny(), digits, settings(threads=3), None).threads == 3
    everything = resolved(tiny(), digits, settings(threads=None), None)
    assert everything.threads == allowed_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("asked", "share", "expected"),
    [(None, 0.24, True), (None, 0.26, False), (True, 10.0, True), (False, 0.001, False)],
)
def test_the_cache_is_taken_where_it_is_small_unless_the_user_decides(
    tiny: Tiny,
    settings: Make,
    digits: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    asked: bool | None,
    share: float,
    expected: bool,
) -> None:
    free = int(cache_bytes(tiny(), digits) / share)
    monkeypatch.setattr("rt_scale.experiments.options.free_memory", lambda device: free)
    given = settings(cache_teacher=asked, loader="map")
    assert resolved(tiny(), digits, given, None).cache_teacher is expected


@pytest.mark.parametrize(("threads", "cache", "channels_last"), [(2, True, False), (5, False, True)])
def test_a_resumed_run_keeps_what_its_bits_depend_on(
    tiny: Tiny, settings: Make, digits: Prepared, threads: int, cache: bool, channels_last: bool
) -> None:
    first = {"threads": threads, "cache_teacher": cache, "channels_last": channels_last, "loader_reason": "asked for"}
    kept = run_record(execution={**first, "loader": "map"}).execution
    given = settings(threads=1, cache_teacher=not cache, channels_last=not channels_last, loader="map")
    assert resolved(tiny(), digits, given, kept) == kept


def test_what_a_run_holds_is_cores_or_gpus(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    assert resolved(tiny(), digits, settings(threads=3, gpus=0.5), None).held == ("cpu", 3)
    held = {"threads": 3, "workers": 2}
    assert run_record(execution=held).execution.held == ("cpu", 6)
    assert run_record(execution={**held, "device": "cuda:1", "gpus": 0.25}).execution.held == ("gpu", 0.5)
    assert run_record(execution={**held, "pack": 3}).execution.held == ("cpu", 2)


def test_gpus_are_recorded_where_the_device_is_one(
    tiny: Tiny, settings: Make, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device, gpus in (("cpu", 0.0), ("cuda", 0.25)):
        monkeypatch.setattr("rt_scale.experiments.options.find_device", lambda name: torch.device(name))
        monkeypatch.setattr("rt_scale.experiments.options.free_memory", lambda device: 10**9)
        assert resolved(tiny(), digits, settings(device=device, gpus=0.25), None).gpus == gpus


@pytest.mark.parametrize("way", ["compile", "graphs"])
def test_students_are_accelerated_where_that_is_asked_for_and_it_is_recorded_and_kept(
    tiny: Tiny, settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Any, way: str
) -> None:
    """With a way that says when it is gone, in place of torch's."""
    passes: list[int] = []

    def gone(module: FeaturesOfViews, views: Sequence[Tensor]) -> Any:
        def made(*given: Tensor) -> Tensor:
            passes.append(len(given[0]))
            features: Tensor = module(*given)
            return features

        return made

    monkeypatch.setattr(accelerate, "WAYS", {"compile": gone, "graphs": gone})
    spec = tiny({"encoder.norm": "batch", "data.samples": 70})
    plain = run(spec, settings(store=Store(tmp_path / "plain")))
    with pytest.raises(Stopped):
        run(spec, settings(accelerate=way, observer=seen, stop=lambda: len(seen.named("stepped")) >= 3))
    assert run(spec, settings()).last == plain.last  # resumed as it began, whatever is asked for then
    assert passes == [32] * 6  # 2 of 3 batches of an epoch are whole; one more is tried in each process
    record = settings().store.run(spec).record()
    assert record is not None
    assert record.execution.accelerate == way
    assert not seen.named("warned")


@pytest.mark.parametrize(
    ("device", "wanted", "earlier", "changes", "expected"),
    [
        ("cpu", {}, None, {}, "none"),
        ("cuda", {}, None, {}, "graphs"),
        ("cuda", {}, None, {"train.batch_size": 61}, "none"),  # no batch is whole
        ("cuda", {"accelerate": "none"}, None, {}, "none"),
        ("cpu", {"accelerate": "compile"}, None, {}, "compile"),
        ("cuda", {"batching": BatchSize(size=2)}, None, {}, "none"),
        ("cuda", {"group": Group(0, 2)}, None, {}, "none"),
        ("cuda", {}, {"accelerate": "none"}, {}, "none"),
        ("cuda", {"accelerate": "none"}, {"accelerate": "compile"}, {}, "compile"),
        ("cuda", {}, {}, {}, "none"),  # begun by a version without a choice
        ("cuda", {}, {"student_pass": "eager"}, {}, "none"),
        ("cpu", {}, {"student_pass": "compiled"}, {}, "compile"),
        ("cuda", {}, {"student_pass": "graphed"}, {}, "graphs"),
    ],
)
def test_how_a_students_pass_is_computed_follows_one_rule(
    tiny: Tiny,
    settings: Make,
    digits: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    wanted: dict[str, Any],
    earlier: dict[str, str] | None,
    changes: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.setattr("rt_scale.experiments.options.find_device", lambda name: torch.device(name))
    monkeypatch.setattr("rt_scale.experiments.options.free_memory", lambda device: 10**9)
    known = None if earlier is None else run_record(execution=earlier).execution
    assert resolved(tiny(changes), digits, settings(device=device, **wanted), known).accelerate == expected


def test_what_cannot_be_accelerated_is_refused(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    with pytest.raises(InputError, match="accelerate compile is for runs of one worker"):
        resolved(tiny(), digits, settings(accelerate="compile", group=Group(0, 2)), None)
    with pytest.raises(InputError, match=r"'graph'.*Did you mean 'graphs'"):
        resolved(tiny(), digits, settings(accelerate="graph"), None)


def test_a_resumed_run_may_have_another_reader(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    earlier = run_record(execution={"loader": "ffcv"}).execution
    for loader in ("map", "resident"):
        assert resolved(tiny(), digits, settings(loader=loader), earlier).loader == loader


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_is_the_one_asked_for(
    tiny: Tiny, settings: Make, digits: Prepared, channels_last: bool
) -> None:
    assert resolved(tiny(), digits, settings(channels_last=channels_last), None).channels_last is channels_last
    assert settings().channels_last


@pytest.mark.parametrize("channels_last", [True, False])
def test_feature_maps_lie_in_memory_as_was_asked(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch, colours: Prepared, channels_last: bool
) -> None:
    layouts = set()
    forward = ConvNet.forward

    def watch(self: ConvNet, images: torch.Tensor) -> torch.Tensor:
        weight = next(parameter for parameter in self.parameters() if parameter.ndim == 4)
        for tensor in (images, weight, self.features(images)):
            layouts.add((tensor.is_contiguous(), tensor.is_contiguous(memory_format=torch.channels_last)))
        return forward(self, images)

    monkeypatch.setattr(ConvNet, "forward", watch)
    run(
        tiny({"data": {"name": colours.info.name}, "encoder.name": "convnet_4_2"}),
        settings(channels_last=channels_last),
    )
    assert layouts == {(not channels_last, channels_last)}


def test_a_resumed_run_may_move_to_another_device(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    earlier = run_record(execution={"device": "cuda:7"}).execution
    assert resolved(tiny(), digits, settings(device="cpu"), earlier).device == "cpu"


def test_tf32_is_refused_where_there_is_none(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    given = settings()
    with pytest.raises(
        InputError, match=r"tf32 is arithmetic of NVIDIA GPUs since Ampere, .* use 'cpu'\. Set precision"
    ):
        resolved(tiny({"precision": "tf32"}), digits, given, None)
    with pytest.raises(InputError, match="tf32"):
        run(tiny({"precision": "tf32"}), given)
    assert not given.store.root.exists()


def test_an_execution_is_recorded_as_plain_values(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    expected: dict[str, Any] = {"device": "cpu", "threads": 2, "cache_teacher": False, "channels_last": True}
    given = settings(threads=2, cache_teacher=False, loader="map", group=Group(0, 3), batching=BatchSize(size=4))
    expected |= {"loader": "map", "loader_reason": "asked for", "workers": 3, "gpus": 0.0, "pack": 4}
    expected |= {"accelerate": "none"}
    assert resolved(tiny(), digits, given, None).to_json() == expected


def test_free_memory_is_less_than_all_there_is() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_memory(torch.device("cpu")) < total


@pytest.mark.parametrize("text", ["MemTotal: 9 kB\nMemFree: 2 kB\nMemAvailable:    7 kB\n", "MemFree: 2 kB\n", None])
def test_free_is_what_the_system_can_make_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """Page cache counts, which a data set that was just prepared has filled; without Linux's word, unused pages do."""
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr("rt_scale.system.machine.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.get)
    assert free_memory(torch.device("cpu")) == (7 * 1024 if text and "Available" in text else 3 * 4096)


def test_the_reader_is_decided_by_the_memory_that_is_free(
    tiny: Tiny, settings: Make, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = 60 * 8 * 8
    for free, expected in ((2 * images, "resident"), (2 * images - 1, "ffcv")):
        monkeypatch.setattr("rt_scale.experiments.options.free_memory", lambda device, free=free: free)
        execution = resolved(tiny(), digits, settings(), None)
        assert (execution.loader, "of the 0.0 GB free" in execution.loader_reason) == (expected, expected == "resident")
    for asked in ("map", "resident", "ffcv"):
        found = resolved(tiny(), digits, settings(loader=asked), None).loader
        assert found == ("host" if asked == "resident" else asked)


def test_ffcv_that_is_not_there_is_refused_before_anything_is_written(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("rt_scale.data.loaders.ffcv.importlib.metadata.version", absent)
    given = settings(loader="ffcv")
    with pytest.raises(InputError, match=r"cluster/bootstrap\.sh.*--loader resident, map or auto"):
        run(tiny(), given)
    assert not given.store.root.exists()
    assert run(tiny(), settings()).steps == 4


def test_an_unknown_reader_is_refused_before_anything_is_written(tiny: Tiny, settings: Make) -> None:
    given = settings(loader="fcv")
    with pytest.raises(InputError, match=r"'fcv'.*Did you mean 'ffcv'"):
        run(tiny(), given)
    assert not given.store.root.exists()


def test_images_that_are_kept_count_as_free(
    tiny: Tiny, settings: Make, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second run on a set that just fits would be read otherwise than the first."""
    monkeypatch.setattr("rt_scale.experiments.options.free_memory", lambda device: 60 * 64)
    given = settings(cache_teacher=False)
    assert resolved(tiny(), digits, given, None).loader != "resident"
    given.resident.rows(digits.train, None, torch.device("cpu"))
    assert resolved(tiny(), digits, given, None).loader == "resident"


def test_a_run_keeps_its_images_for_the_next_unless_it_fails(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings()
    run(tiny(), given)
    held = given.resident.held(torch.device("cpu"))
    assert held > 60 * 64  # those that it trained on, and the test images
    read: list[object] = []
    monkeypatch.setattr("rt_scale.data.beton.Beton.gather", lambda *_: read.append(1))
    monkeypatch.setattr("rt_scale.data.beton.Beton.read_all", lambda *_: read.append(1))
    run(tiny({"student.alpha": 0.25}), given)
    assert read == []
    assert given.resident.held(torch.device("cpu")) == held
    with pytest.raises(RunError):  # of images that are none
        run(tiny({"seeds.data": 1}), given)
    assert given.resident.held(torch.device("cpu")) == 0
