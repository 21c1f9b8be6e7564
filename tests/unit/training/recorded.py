"""CUDA graphs as far as a CPU has them: operations are recorded, and done again in the same memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class Recorded:
    """A stand-in for ``torch.cuda.CUDAGraph``: what was done inside ``torch.cuda.graph`` can be done again."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    @torch.no_grad()
    def replay(self) -> None:
        """Every operation again, its results into the memory of the first ones."""
        self.replays += 1
        for operation, args, kwargs, results in self.done:
            again = operation(*args, **kwargs)
            for own, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(own, torch.Tensor) and own.data_ptr() != new.data_ptr():
                    own.copy_(new)


class Recording(TorchDispatchMode):
    """Inside, operations are done and noted, as CUDA notes them without doing them."""

    def __init__(self, graph: Recorded) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operation(*args, **(kwargs or {}))
        # Memory is all that a graph keeps of them.
        kept = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, results))
        self.graph.done.append((operation, *kept))
        return results


class FakeCuda:
    """What a capture asks of ``torch.cuda``.

    Attributes:
        graphs: that were made.
        asked: keywords of every recording, in their order.
        devices: that were current for captures.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graphs: list[Recorded] = []
        self.asked: list[dict[str, Any]] = []
        self.devices: list[torch.device] = []
        fakes: dict[str, Callable[..., Any]] = {
            "graph": self._record, "device": self._device, "Stream": object, "stream": contextlib.nullcontext,
            "synchronize": lambda: None,
        }  # fmt: skip
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self._graph)
        monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", object)

    def _graph(self) -> Recorded:
        self.graphs.append(Recorded())
        return self.graphs[-1]

    def _device(self, device: torch.device) -> Any:
        self.devices.append(device)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _record(self, graph: Recorded, **options: Any) -> Iterator[None]:
        self.asked.append(options)
        with Recording(graph):
            yield
