"""What is measured at points of parameter space: reference and points by the same bits, whatever else is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.analyses import measures
from rt_scale.analyses.measures import NAMES, Images, PointMeasures, ProbeRecipe
from rt_scale.models.networks import Network, build_network
from rt_scale.probes.convex import fit_ridge
from rt_scale.probes.evaluator import screen
from rt_scale.probes.features import Features, standardise
from rt_scale.probes.knn import knn_accuracy
from rt_scale.probes.linear import LinearProbes, Problem
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import training
from rt_scale.spec.run import RunSpec

CLASSES = 3
RECIPE = ProbeRecipe(images=30, steps=17, batch_size=8, lr=1e-2, neighbours=3, seed=5)


def network(seed: int, norm: str = "batch", out_dim: int = 40) -> Network:
    document = {
        "data": {"name": "digits"},
        "encoder": {"name": "convnet_8_2", "norm": norm},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": out_dim},
    }
    made = build_network(training(RunSpec.model_validate(document)), 1, 8, torch.Generator().manual_seed(seed))
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_(generator=torch.Generator().manual_seed(seed))
    return made


def images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (count,), generator=generator)
    return Images(torch.randn(count, 1, 8, 8, generator=generator) + y[:, None, None, None], y)


TRAIN, TEST = images(50, 1), images(40, 2)


def weights(seed: int, norm: str = "batch") -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network(seed, norm).state_dict().items()}


def between(one: Mapping[str, Tensor], other: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: value.lerp(other[name], share) if value.is_floating_point() else value for name, value in one.items()}


def made(names: tuple[str, ...] = NAMES, norm: str = "batch", **changed: Any) -> PointMeasures:
    given: dict[str, Any] = {"classes": CLASSES, "losses": 25, "probe": RECIPE, "batch_size": 10} | changed
    return PointMeasures(network(0, norm), weights(0, norm), TRAIN, TEST, names, **given)


def plain(at: Mapping[str, Tensor], reference: Mapping[str, Tensor], split: Images, losses: int) -> dict[str, float]:
    """The formulas in float64, of two networks in evaluation mode."""
    ours, theirs = network(0).double(), network(0).double()
    found = []
    for each, given in ((ours, at), (theirs, reference)):
        each.load_state_dict(given)
        each.eval()
        with torch.no_grad():
            x = split.x[:losses].double()
            found.append((torch.log_softmax(each(x), 1), torch.log_softmax(each.encoder(x), 1)))
    (s, s_embedding), (t, t_embedding) = found
    return {
        "kl": float((t.exp() * (t - s)).sum(1).mean()),
        "cross_entropy": float(-(t.exp() * s).sum(1).mean()),
        "entropy": float(-(s.exp() * s).sum(1).mean()),
        "kl_embedding": float((t_embedding.exp() * (t_embedding - s_embedding)).sum(1).mean()),
    }


@pytest.mark.parametrize("share", [1e-3, 0.3, 1.0])
def test_losses_are_those_of_their_formulas(share: float) -> None:
    at = between(weights(0), weights(1), share)
    (found,) = made().measure([at])
    for name, split in (("train", TRAIN), ("test", TEST)):
        for loss, value in plain(at, weights(0), split, 25).items():
            assert found[f"{loss}_{name}"] == pytest.approx(value, rel=2e-3), loss


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_kl_is_exactly_0_at_the_reference(norm: str) -> None:
    (found,) = made(norm=norm).measure([weights(0, norm)])
    for name in ("kl_train", "kl_test", "kl_embedding_train", "kl_embedding_test"):
        assert found[name] == 0.0
    assert found["cross_entropy_test"] == pytest.approx(found["entropy_test"], rel=1e-6)


def test_probes_are_those_of_the_embeddings_with_the_steps_of_the_recipe() -> None:
    at = between(weights(0), weights(1), 0.5)
    (found,) = made().measure([at])
    encoder = network(0)
    encoder.load_state_dict(at)
    encoder.eval()
    with torch.no_grad():
        # In the same batches: up to those for the losses, then the others.
        parts = [
            [x for some in (split.x[:25], split.x[25:30]) for x in torch.split(some, 10)] for split in (TRAIN, TEST)
        ]
        x, test_x = (torch.cat([encoder.encoder(each) for each in part]) for part in parts)
    train, test = Features(x, TRAIN.y[:30]), Features(test_x, TEST.y[:30])
    ((raw, scaled),) = LinearProbes(CLASSES, standardized=True, steps=17, batch_size=8, lr=1e-2).fit(
        [Problem(*train, 5)]
    )
    standard = standardise(x, test_x)
    assert found["linear"] == raw.accuracy(*test)
    assert found["linear_standardized"] == scaled.accuracy(standard[1], test.y)
    assert found["ridge"] == screen(fit_ridge, train, test, classes=CLASSES)
    assert found["knn"] == knn_accuracy(*train, *test, k=3, classes=CLASSES)
    assert found["knn_standardized"] == knn_accuracy(standard[0], train.y, standard[1], test.y, k=3, classes=CLASSES)


@pytest.mark.parametrize("statistics", ["given", "batch"])
def test_a_value_does_not_depend_on_what_else_is_measured_and_where(statistics: str) -> None:
    points = [between(weights(0), weights(1), share) for share in (0.2, 0.4, 0.6, 0.8)]
    together = made(statistics=statistics).measure(points)
    assert made(statistics=statistics).measure(points[::-1]) == together[::-1]
    for name in NAMES:
        assert [each[name] for each in made((name,), statistics=statistics).measure(points[1:3])] == pytest.approx(
            [each[name] for each in together[1:3]], rel=0 if "linear" not in name else 1e-6
        )


def test_weights_and_network_stay_as_they_are() -> None:
    for statistics in ("given", "batch"):
        own, before, at = network(0), weights(0), weights(1)
        measured = PointMeasures(own, before, TRAIN, TEST, ("kl_test",), classes=CLASSES, statistics=statistics)
        first = measured.measure([at])
        assert all(torch.equal(value, weights(1)[name]) for name, value in at.items())
        assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
        assert measured.measure([at]) == first


def test_statistics_of_the_batch_are_not_those_given() -> None:
    at = weights(1)
    given, batch = (made(("kl_test",), statistics=each).measure([at])[0]["kl_test"] for each in ("given", "batch"))
    assert given != batch
    for name in at:
        if "running" in name:
            at[name] = torch.rand_like(at[name]) + 0.5
    assert made(("kl_test",), statistics="batch").measure([at])[0]["kl_test"] == batch
    assert made(("kl_test",)).measure([at])[0]["kl_test"] != given


def test_a_reference_too_large_to_keep_is_computed_again_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [between(weights(0), weights(1), share) for share in (0.0, 0.5)]
    kept = made(NAMES[:8]).measure(points)
    monkeypatch.setattr(measures, "KEPT_BYTES", 0)
    assert made(NAMES[:8]).measure(points) == kept
    assert kept[0]["kl_train"] == 0.0


def test_a_point_may_be_an_encoder_alone() -> None:
    at = {name: value for name, value in weights(1).items() if name.startswith("encoder.")}
    whole = weights(0) | at
    assert made().measure([at]) == made().measure([whole])


def test_what_is_not_finite_is_said_and_leaves_others_alone() -> None:
    good, bad = between(weights(0), weights(1), 0.5), weights(1)
    bad["encoder.0.weight" if "encoder.0.weight" in bad else next(iter(bad))].fill_(math.nan)
    alone, (first, second) = made().measure([good, good])[0], made().measure([good, bad])
    assert first == alone
    assert not any(math.isfinite(value) for value in second.values())


@pytest.mark.parametrize(("changed", "column"), [({"losses": 20}, "kl_test"), ({"batch_size": 7}, "kl_train")])
def test_few_images_for_losses_leave_probes_alone(changed: dict[str, Any], column: str) -> None:
    at = between(weights(0), weights(1), 0.5)
    (found,), (other,) = made().measure([at]), made(**changed).measure([at])
    assert found["ridge"] == other["ridge"]
    assert (found[column] != other[column]) == ("losses" in changed)


@pytest.mark.parametrize("changed", [{"images": 20}, {"steps": 200}, {"lr": 1.0}, {"seed": 6}, {"batch_size": 30}])
def test_every_field_of_the_recipe_changes_the_classifier(changed: dict[str, Any]) -> None:
    fitted = [LinearProbes(CLASSES, steps=each.steps, batch_size=each.batch_size, lr=each.lr).fit(
        [Problem(TRAIN.x.flatten(1)[: each.images], TRAIN.y[: each.images], each.seed)]
    )[0][0].weight for each in (RECIPE, RECIPE._replace(**changed))]  # fmt: skip
    assert not torch.equal(*fitted)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"kl_tset.*kl_test"):
        made(("kl_tset",))
    with pytest.raises(InputError, match="estimated"):
        made(statistics="estimated")
