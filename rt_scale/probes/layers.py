"""Statistics of the outputs of every layer of an encoder: how images propagate through it, and how classes separate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.probes.features import Split, ToInputs, evaluation_mode
from rt_scale.probes.statistics import layer_statistics
from rt_scale.spec.metrics import layer_names
from rt_scale.spec.stopping import Stop, never, stop_check
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.precision import arithmetic


@torch.no_grad()
def layer_outputs(encoder: Encoder, inputs: Tensor) -> list[Tensor]:
    """The outputs [B, D] of the layers for inputs [B, C, H, W], flattened, in order; the last is the embedding."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, given: object, output: Tensor) -> None:
        outputs.append(output.flatten(1))

    hooks = [module.register_forward_hook(keep) for module in encoder.layer_modules()]
    try:
        embedding: Tensor = encoder(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [*outputs, embedding]


class LayerProbe:
    """Measures what ``spec.training.LayersSpec`` describes, of networks and of the input.

    Args:
        split: the images, all of them on rank 0, which alone measures.
        precision: in which networks compute.
        stop: called repeatedly; Stopped is raised on all ranks if it is true on rank 0.
    """

    def __init__(
        self, split: Split, to_inputs: ToInputs, group: Group = ALONE, *, precision: str = "float32", stop: Stop = never
    ) -> None:
        self.split, self.to_inputs, self.group, self.precision = split, to_inputs, group, precision
        self.check_stop = stop_check(stop)

    def network(self, encoder: Encoder) -> dict[str, float]:
        """``<statistic>_<layer>`` of every layer, counted from 01, and ``<statistic>_embedding``."""
        return self.group.by_first(lambda: self._network(encoder))

    def input(self) -> dict[str, float]:
        """Each statistic of the flattened normalised pixels."""
        return self.group.by_first(self._input)

    def _network(self, encoder: Encoder) -> dict[str, float]:
        layers: list[list[Tensor]] = []
        labels = []
        with evaluation_mode(encoder):
            for batch in self.split.sequential():
                self.check_stop()
                inputs = self.to_inputs(batch.images)
                with arithmetic(self.precision, inputs.device):
                    layers.append(layer_outputs(encoder, inputs))
                labels.append(batch.labels)
        y, outputs = torch.cat(labels), [torch.cat(parts) for parts in zip(*layers, strict=True)]
        del layers
        values: dict[str, float] = {}
        for layer, x in zip(layer_names(len(outputs) - 1), outputs, strict=True):
            found = layer_statistics(x.float(), y, self.check_stop)
            values |= {f"{name}_{layer}": value for name, value in found.items()}
        return values

    def _input(self) -> dict[str, float]:
        batches = [(self.to_inputs(batch.images).flatten(1), batch.labels) for batch in self.split.sequential()]
        x, y = (torch.cat(each) for each in zip(*batches, strict=True))
        return layer_statistics(x.float(), y, self.check_stop)
