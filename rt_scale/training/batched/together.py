"""Several training runs in one process, whose steps are computed together."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from rt_scale.models.networks import Network
from rt_scale.training.batched.network import BatchedNetwork
from rt_scale.training.loop import Gradients, Measured, Step

T = TypeVar("T")


def train_together(
    runs: Sequence[Callable[[Gradients], T]],
    *,
    same_images: bool = False,
    ended: Callable[[int, T | BaseException], None] = lambda number, outcome: None,
) -> list[T | BaseException]:
    """Call every run with a function that computes all runs' gradients at once; returns their results or exceptions.

    Every run has a thread. One thread runs at a time, in the order of the runs, until its run requests gradients or
    ends: results do not depend on the scheduling of threads.

    Args:
        runs: train networks that a :class:`BatchedNetwork` takes. When one returns or raises, the others continue.
        same_images: see :class:`BatchedNetwork`.
        ended: called in the caller's thread with the position of an ended run, and what it returned or raised.
    """
    members = [_Member(run, functools.partial(ended, number)) for number, run in enumerate(runs)]
    try:
        for member in members:
            member.go_on(None)
        _rounds(members, same_images)
    except BaseException as error:
        for member in members:
            while member.started and not member.over:
                member.go_on(error)
        raise
    return [member.outcome for member in members]


def _rounds(members: Sequence[_Member[T]], same_images: bool) -> None:
    """Compute the step that every run waits for and let each continue, until all have ended."""
    waiting: list[_Member[T]] = []
    while left := [member for member in members if not member.over]:
        steps = [member.step for member in left if member.step is not None]
        answers: Sequence[Measured | Exception]
        try:
            if waiting != left:
                waiting = left
                networks: list[Network] = [step.model for step in steps]  # type: ignore[misc]
                batched = BatchedNetwork(networks, same_images=same_images)
            answers = batched.gradients(steps)
        except Exception as error:
            answers = [error] * len(steps)  # the common pass failed, for all
        for member, answer in zip(left, answers, strict=True):
            member.go_on(answer)


class _Member(Generic[T]):
    """A run in a thread, which runs only while :meth:`go_on` waits for it.

    Attributes:
        step: whose gradients it waits for; None while it runs and after its end.
        outcome: what the run returned or raised; set when it is ``over``.
    """

    outcome: T | BaseException

    def __init__(self, run: Callable[[Gradients], T], ended: Callable[[T | BaseException], None]) -> None:
        self.step: Step | None = None
        self.started = self.over = False
        self._ended = ended
        self._answers: SimpleQueue[Measured | BaseException] = SimpleQueue()
        self._requests: SimpleQueue[Step | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)

    def go_on(self, answer: Measured | BaseException | None) -> None:
        """Let it run until its next step or its end, with the values or the exception of ``step``; None to start."""
        if answer is None:
            self.started = True
            self._thread.start()
        elif self.step is not None:
            self.step = None
            self._answers.put(answer)
        # Else the caller was interrupted while the run was running: wait for the run.
        self.step = self._requests.get()
        if self.step is None:
            self._thread.join()
            self.over = True
            self._ended(self.outcome)

    def _work(self, run: Callable[[Gradients], T]) -> None:
        try:
            self.outcome = run(self._gradients)
        except BaseException as error:
            self.outcome = error
        self._requests.put(None)

    def _gradients(self, step: Step) -> Measured:
        self._requests.put(step)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer
