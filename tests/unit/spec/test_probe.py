"""ProbeSpec: the paper's defaults, and which probes are asked for."""

from __future__ import annotations

from rt_scale.spec.run import RunSpec
from rt_scale.spec.training import ProbeSpec


def test_probe_defaults_are_the_papers() -> None:
    probe = ProbeSpec()
    assert (probe.knn, probe.epochs, probe.batch_size, probe.lr) == (20, 10, 256, 1e-3)
    assert probe.kinds == ("linear", "knn", "linear_standardized", "knn_standardized")


def test_the_probes_that_are_asked_for_by_name() -> None:
    probe = ProbeSpec(linear=False, knn=0, ridge=True, logistic=True)
    assert probe.kinds == ("logistic", "ridge", "logistic_standardized", "ridge_standardized")
    assert ProbeSpec(knn=1, ridge=True, standardized=False).kinds == ("linear", "knn", "ridge")


def test_the_order_of_further_data_sets_is_no_difference() -> None:
    small = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}
    lists = (["stl10", "mnist"], ["mnist", "stl10"], ["mnist"], [])
    names = [RunSpec.model_validate({**small, "probe": {"also": also}}).name for also in lists]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[3] == RunSpec.model_validate(small).name


def test_without_further_data_sets_their_size_is_no_difference() -> None:
    assert ProbeSpec(also_size="own") == ProbeSpec()
    assert ProbeSpec(also_size="own").canonical_text == ProbeSpec().canonical_text
    assert ProbeSpec(also=("mnist",), also_size="own").also_size == "own"
