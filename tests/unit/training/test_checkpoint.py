"""Checkpoints of training: everything comes back, bitwise, and nothing is unpickled."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from rt_scale.training.checkpoint import STATE, STUDENT, Spent, load_training, read_weights, save_training, save_weights
from rt_scale.training.loop import Progress
from rt_scale.training.teacher import Sharpening


def network(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return model.to(memory_format=torch.channels_last)


def trained(steps: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(3, 1, 4, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def test_training_goes_on_bitwise_from_a_checkpoint(tmp_path: Path) -> None:
    model = network(0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    trained(3, model, optimizer)
    save_training(tmp_path, model, optimizer, Progress(2, 3), sharpenings={})

    other = network(1)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.5, fused=True)
    progress, spent = load_training(tmp_path, other, other_optimizer, {})
    assert (progress.epoch, progress.step, spent) == (2, 3, None)
    trained(2, model, optimizer)
    trained(2, other, other_optimizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_time_is_counted_by_what_was_held_meanwhile() -> None:
    spent = Spent().plus(2.0, "cpu", 4).plus(3.0, "gpu", 0.25).plus(1.0, "cpu", 2)
    assert spent == Spent(6.0, {"cpu": 10.0, "gpu": 0.75})


def test_the_time_that_earlier_versions_kept_with_the_optimiser_is_read(tmp_path: Path) -> None:
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_training(tmp_path, model, optimizer, Progress(), sharpenings={})
    state = torch.load(tmp_path / STATE, weights_only=True)
    torch.save({**state, "elapsed": 12.5}, tmp_path / STATE)
    assert load_training(tmp_path, model, optimizer, {})[1] == Spent(12.5)
    torch.save({**state, "elapsed": 12.5, "devices": {"gpu": 3.5}}, tmp_path / STATE)
    assert load_training(tmp_path, model, optimizer, {})[1] == Spent(12.5, {"gpu": 3.5})


def test_every_random_generator_comes_back(tmp_path: Path) -> None:
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_training(tmp_path, model, optimizer, Progress(), sharpenings={})
    drawn = (torch.rand(3), np.random.rand(3), random.random())
    load_training(tmp_path, model, optimizer, {})
    again = (torch.rand(3), np.random.rand(3), random.random())
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2] == again[2]


def test_weights_are_safetensors_and_keep_buffers(tmp_path: Path) -> None:
    model, other = network(0), network(1)
    save_weights(tmp_path / "w", model)
    other.load_state_dict(read_weights(tmp_path / "w"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    (tmp_path / "w").write_bytes(b"no weights")
    with pytest.raises(SafetensorError):
        read_weights(tmp_path / "w")


def centred() -> dict[str, Sharpening]:
    return {"teacher": Sharpening(center=0.9), "student": Sharpening(temperature=0.1)}


def test_centres_come_back_bitwise_in_dtype_and_on_the_device(tmp_path: Path) -> None:
    model, before, after = network(0), centred(), centred()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for role in before:
        before[role](logits, 0)
    save_training(tmp_path, model, optimizer, Progress(), before)
    load_training(tmp_path, model, optimizer, after)
    assert torch.equal(after["teacher"].centre, before["teacher"].centre)
    assert after["teacher"].centre.dtype == torch.float64
    assert after["teacher"].centre.device == next(model.parameters()).device
    assert after["student"].centre is None
    torch.testing.assert_close(after["teacher"](logits, 1), before["teacher"](logits, 1), rtol=0, atol=0)


def test_before_the_first_batch_there_is_no_centre_and_one_that_is_there_goes(tmp_path: Path) -> None:
    """Of the checkpoint that holds the start."""
    model, after = network(0), centred()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_training(tmp_path, model, optimizer, Progress(), centred())
    after["teacher"](torch.ones(3, 4), 0)
    load_training(tmp_path, model, optimizer, after)
    assert after["teacher"].centre is None


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("pwned"),))  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_training(tmp_path, network(1), optimizer, Progress(), sharpenings={})
    torch.save({"optimizer": Evil()}, tmp_path / STATE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(pickle.UnpicklingError):
        load_training(tmp_path, model, optimizer, {})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_cut_weight_file_changes_nothing(tmp_path: Path) -> None:
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_training(tmp_path, network(1), optimizer, Progress(), sharpenings={})
    content = (tmp_path / STUDENT).read_bytes()
    (tmp_path / STUDENT).write_bytes(content[: len(content) // 2])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SafetensorError):
        load_training(tmp_path, model, optimizer, {})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
