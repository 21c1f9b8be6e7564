"""What stays what it is over a run: its input and, where it is frozen, its teacher. Shared by runs that agree on it."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from rt_scale.experiments import ingredients
from rt_scale.experiments.check import Sets
from rt_scale.experiments.ingredients import Ingredients, constant_name
from rt_scale.models.pair import Network
from rt_scale.spec.errors import Held, InputError, RtScaleError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import heeding
from rt_scale.store.atomic import read_json, to_json
from rt_scale.store.constants import Constant, Damaged
from rt_scale.store.lease import Lease
from rt_scale.store.store import Store
from rt_scale.training.distributed import Group

if TYPE_CHECKING:
    from rt_scale.experiments.context import Context

T = TypeVar("T")
Values = dict[str, float]

PATIENCE = 600.0
"""Seconds that another process is waited for, which computes what is wanted here."""
PAUSE = 0.2
"""Seconds between two looks at it."""
ABOUT, FEATURES = "about.json", "features.safetensors"


class Constants:
    """The constants of a run that computes its own."""

    def input_probes(self, compute: Callable[[], Values]) -> Values:
        """Metrics of the input, by name."""
        return compute()

    def teacher_probes(self, teacher: Network, compute: Callable[[], Values]) -> Values:
        """Metrics of a frozen teacher, by name."""
        return compute()

    def features(self, teacher: Network, samples: int, compute: Callable[[], Tensor]) -> Tensor:
        """Bottleneck features [samples, k] of a constant teacher, in its dtype and on its device."""
        return compute()


class SharedConstants(Constants):
    """Constants that the store keeps: read where any run computed them before, else computed and kept.

    Of several processes that want one at once the first computes it under a lease, and the others wait: they would need
    as long themselves, and on a device that they share longer. Nothing can wait for ever. Who waits holds no lease, and
    who holds one waits for nobody; a killed owner is replaced at once by a process of its machine, and by any other
    :data:`rt_scale.store.lease.STALE` s after its last heartbeat; and after :data:`PATIENCE` s whoever waits computes
    for himself. A store that refuses or is away, and a constant that is damaged, cost that computation and a warning.

    Args:
        spec: the run.
        data: its data sets.
        context: of the attempt, in whose environment record the constants are named that it used.
        store: where they are kept.
    """

    def __init__(self, spec: RunSpec, data: Sets, context: Context, store: Store) -> None:
        self.spec, self.data, self.context, self.store = spec, data, context, store

    def input_probes(self, compute: Callable[[], Values]) -> Values:
        """As :class:`Constants`."""
        return self._values("input", ingredients.of_input_probes(self.spec, self.data, self.context.execution), compute)

    def teacher_probes(self, teacher: Network, compute: Callable[[], Values]) -> Values:
        """As :class:`Constants`."""
        of = ingredients.of_teacher_probes(self.spec, self.data, self.context.execution, teacher)
        return self._values("teacher", of, compute)

    def features(self, teacher: Network, samples: int, compute: Callable[[], Tensor]) -> Tensor:
        """As :class:`Constants`; what is too large to be kept is computed by every run."""
        of = ingredients.of_features(self.spec, self.data, self.context.execution, teacher)
        weight: Tensor = next(teacher.parameters())
        shape = (samples, teacher.projector.feature_width)

        def load(folder: Path) -> Tensor:
            _check(folder, of)
            found: Tensor = load_file(folder / FEATURES)["features"]
            if (tuple(found.shape), found.dtype) != (shape, weight.dtype):
                raise ValueError(f"features are {found.dtype} {tuple(found.shape)}")
            return found.to(weight.device)

        def save(folder: Path, features: Tensor) -> None:
            save_file({"features": features.cpu().contiguous()}, folder / FEATURES)

        size = samples * shape[1] * weight.element_size()
        # The other ranks have zeros of what rank 0 read: the sum is exact.
        return self._obtain(_Kind("features", of, load, save, size), compute, self.context.group.sum)

    def _values(self, kind: str, of: Ingredients, compute: Callable[[], Values]) -> Values:
        def load(folder: Path) -> Values:
            return dict(_check(folder, of)["values"])

        return self._obtain(_Kind(kind, of, load), compute, lambda values: values)

    def _obtain(self, kind: _Kind[T], compute: Callable[[], T], give: Callable[[T], T]) -> T:
        """The constant; ``give`` makes of what rank 0 found what every rank has."""
        constant = self.store.constant(constant_name(kind.name, kind.of))
        looked: list[tuple[T | None, Lease | None]] = []
        with contextlib.ExitStack() as held:

            def look() -> bool:
                there = self._look(constant, kind)
                looked.append(there)
                held.enter_context(there[1] or contextlib.nullcontext())
                return there[0] is not None

            self.context.group.by_first(look)
            ((found, lease),) = looked
            if found is not None:
                self._record(constant, "read")
                return give(found)
            began = time.monotonic()
            value = compute()
            if lease is not None:
                self._keep(constant, kind, value, lease, time.monotonic() - began)
            return value

    def _look(self, constant: Constant, kind: _Kind[T]) -> tuple[T | None, Lease | None]:
        """What is there, or else the right to compute it for all; neither where it is to be computed for this run."""
        observer, until = self.context.observer, time.monotonic() + PATIENCE
        heed = heeding(self.context.stop)
        waiting = False
        while kind.size <= constant.largest:
            found = self._read(constant, kind, observer.warned)
            if found is not None:
                return found, None
            try:
                lease = constant.claim(lambda attempt: heed())
            except Held:
                if time.monotonic() > until:
                    observer.warned(f"{constant.name} was waited for for {PATIENCE:g} s ({constant.owner} computes "
                                    "it); it is computed here, too.")  # fmt: skip
                    return None, None
                if not waiting:
                    observer.stage(f"waiting for {constant.name}, which {constant.owner} computes")
                waiting = True
                heed()
                time.sleep(PAUSE)
                continue
            except (InputError, RunError) as error:
                observer.warned(f"{error} So {constant.name} is computed, and not kept for other runs.")
                return None, None
            constant.bring(lease)
            return self._read(constant, kind, lambda text: None), lease
        return None, None

    def _read(self, constant: Constant, kind: _Kind[T], warn: Callable[[str], None]) -> T | None:
        try:
            return constant.read(kind.load)
        except Damaged as error:
            warn(f"{error}. It is computed again.")
            return None

    def _keep(self, constant: Constant, kind: _Kind[T], value: T, lease: Lease, seconds: float) -> None:
        made = {"run": self.context.run_dir.name, "host": platform.node(), "time": time.time(), "seconds": seconds}
        about: dict[str, Any] = {"kind": kind.name, "of": kind.of, "made": made}

        def write(folder: Path) -> None:
            if kind.save is None:
                about["values"] = value
            else:
                kind.save(folder, value)
            (folder / ABOUT).write_bytes(to_json(about))

        try:
            constant.write(lease, write)
        except RtScaleError as error:
            self.context.observer.warned(f"{error} So {constant.name} is not kept for other runs.")
            return
        self._record(constant, "computed")

    def _record(self, constant: Constant, how: str) -> None:
        """Name the constant in the record of this attempt."""
        self.context.note("constants", constant.name, how)


class FollowedConstants(Constants):
    """Those of every rank but the first: where rank 0 reads a constant, nobody computes it."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def input_probes(self, compute: Callable[[], Values]) -> Values:
        """Rank 0 has them; empty where it read them."""
        return {} if self._were_read() else compute()

    def teacher_probes(self, teacher: Network, compute: Callable[[], Values]) -> Values:
        """Rank 0 has them; empty where it read them."""
        return {} if self._were_read() else compute()

    def features(self, teacher: Network, samples: int, compute: Callable[[], Tensor]) -> Tensor:
        """As :class:`Constants`; those that rank 0 read, where it did."""
        if not self._were_read():
            return compute()
        weight: Tensor = next(teacher.parameters())
        return self.group.sum(weight.new_zeros(samples, teacher.projector.feature_width))

    def _were_read(self) -> bool:
        return self.group.by_first(lambda: False)  # what rank 0 says


@dataclass(frozen=True)
class _Kind(Generic[T]):
    """How a constant is kept.

    Attributes:
        name: of its kind.
        of: all that decides it.
        load: reads it from a folder; a ValueError or OSError says that it is damaged.
        save: writes it into a folder; None: it is JSON, and kept beside its ingredients.
        size: bytes that it takes, as far as that matters.
    """

    name: str
    of: Ingredients
    load: Callable[[Path], T]
    save: Callable[[Path, T], None] | None = None
    size: int = 0


def _check(folder: Path, of: Ingredients) -> dict[str, Any]:
    """What is written about a constant, once it is known to be the one that was asked for."""
    try:
        about: dict[str, Any] = read_json(folder / ABOUT)
    except RunError as error:
        raise ValueError(str(error)) from error
    if about.get("of") != of:
        raise ValueError("it is not of what gives it its name")
    return about
