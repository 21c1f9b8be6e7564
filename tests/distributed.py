"""Ranks on this machine: processes of plain torch.distributed over gloo, ended when they take too long."""

from __future__ import annotations

import datetime
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist
import torch.multiprocessing as mp

from rt_scale.training.distributed import Group

TIMEOUT = 480.0
"""Seconds after which ranks hang."""
IMPORTED = ["pytest", "torch", "torch.testing", "rt_scale.experiments.runner"]
"""What all ranks need, imported once for all of them: it takes longer than what they compute."""


def _rank(rank: int, world: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch_dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    torch_dist.barrier()  # a rank that ends at once does so after all others have met it
    try:
        torch.save(work(Group.current(), *arguments), folder / f"{rank}.pt")
    except Exception as error:
        (folder / f"{rank}.txt").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        os._exit(1)  # as a process that ends in the middle of a step
    torch_dist.destroy_process_group()


class Ranks:
    """``world`` processes that each call ``work(group, *arguments)``, a function of a module."""

    def __init__(self, folder: Path, world: int, work: Callable[..., Any], *arguments: Any) -> None:
        folder.mkdir(parents=True)
        self.folder, self.world = folder, world
        # Ranks are forks of a server without threads, that has computed nothing.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self.processes = [
            context.Process(target=_rank, args=(rank, world, folder, work, arguments)) for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> list[int | None]:
        """Exit codes; None of a rank that hung and was killed."""
        for process in self.processes:
            process.join(TIMEOUT)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        return codes

    def results(self) -> list[Any]:
        """What each rank returned; fails where one did not."""
        codes = self.wait()
        assert codes == [0] * self.world, (codes, self.errors())
        return [torch.load(self.folder / f"{rank}.pt", weights_only=True) for rank in range(self.world)]

    def errors(self) -> list[str]:
        """What ended each rank; empty for those that ended well."""
        paths = [self.folder / f"{rank}.txt" for rank in range(self.world)]
        return [path.read_text() if path.exists() else "" for path in paths]
