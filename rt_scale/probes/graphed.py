"""A step over a static buffer, replayed as one CUDA graph: small steps take a GPU less time than issuing them takes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from rt_scale.spec.errors import first_line

WARM_UP = 3
"""Plain steps before a capture: libraries and the optimiser allocate what they need in the first ones."""

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""From work, which is recorded and not done, to what does it."""


class GraphedStep:
    """Calls ``step``, or on CUDA, for batches of the full size, replays one graph of it.

    The first replay is checked against the plain step from the same state. Where that or the capture fails, steps stay
    plain, with the reason in ``plain_because``. No number depends on it beyond rounding.

    Args:
        step: takes rows int64 [P, B], works on the same memory every time and waits for nothing.
        shape: (P, B) of a full batch.
        state: gives the tensors that a step changes, once there was one.
        capture: None: a CUDA graph on CUDA, and nowhere else.

    Attributes:
        plain_because: why no graph is used although one was to be; None while there is no reason.
    """

    def __init__(
        self,
        step: Callable[[Tensor], None],
        shape: tuple[int, int],
        state: Callable[[], list[Tensor]],
        capture: Capture | None = None,
    ) -> None:
        self._step, self._shape, self._state, self._capture = step, shape, state, capture
        self._plain_steps = 0
        self._index = torch.empty(0, dtype=torch.int64)
        self._replay: Replay | None = None
        self.plain_because: str | None = None

    def __call__(self, index: Tensor) -> None:
        """Do the step on rows int64 [P, B'], where B' is smaller in an epoch's last batch."""
        if index.shape != self._shape:
            self._step(index)
        elif self._replay is not None:
            self._index.copy_(index)
            self._replay()
        elif (capture := self._wanted(index)) is not None:
            self._adopt(capture, index)
        else:
            self._step(index)
            self._plain_steps += 1

    def _wanted(self, index: Tensor) -> Capture | None:
        if self._plain_steps < WARM_UP or self.plain_because is not None:
            return None
        return self._capture or (functools.partial(capture_on_cuda, index.device) if index.is_cuda else None)

    def _adopt(self, capture: Capture, index: Tensor) -> None:
        """Do the step on ``index`` plainly, and replay from now on if a replay does the same."""
        self._index = torch.zeros_like(index)
        try:
            replay = capture(lambda: self._step(self._index))
        except RuntimeError as error:
            self._step(index)
            self.plain_because = f"its capture failed ({first_line(error)})"
            return
        before = _copies(self._state())
        self._step(index)
        plain = _copies(self._state())
        _write(self._state(), before)
        self._index.copy_(index)
        replay()
        if all(
            torch.allclose(*pair, rtol=1e-4, atol=1e-6, equal_nan=True)
            for pair in zip(self._state(), plain, strict=True)
        ):
            self._replay = replay
        else:
            _write(self._state(), plain)
            self.plain_because = "its first replay differed from the plain step"


def capture_on_cuda(device: torch.device, work: Callable[[], None]) -> Replay:
    """Record ``work`` on a CUDA device; calls of other threads do not disturb it."""
    graph = torch.cuda.CUDAGraph()
    # A stream of its own: the one that torch would share belongs to the device of the process's first capture.
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
    return graph.replay


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def _write(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
