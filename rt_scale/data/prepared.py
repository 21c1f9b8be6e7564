"""Prepared data sets, in ``<data_dir>/<name>/{train.beton, test.beton, meta.json}``, and sets of Gaussian inputs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rt_scale.data.beton import Beton, open_beton, verify
from rt_scale.data.catalogue import BUNDLED, DATASETS, prepare_command
from rt_scale.data.files import writing
from rt_scale.data.meta import META, TEST, TRAIN, DataInfo, Meta, Request, parse_meta
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.system.files import TEMPORARY, replace_file, sync_folder

NOISE_MEAN = 0.0
"""With this mean and ``NOISE_STD``, ``to_inputs`` leaves the values of noise unchanged, bit for bit."""
NOISE_STD = 1 / 255
_PAUSE = 0.1


@dataclass(frozen=True)
class Prepared:
    """An open prepared data set."""

    info: DataInfo
    train: Beton
    test: Beton
    sha256: str
    """``Meta.digest``, as recorded when the files were written."""
    folder: Path
    notes: dict[str, str]
    request: Request


def load(name: str, data_dir: Path) -> Prepared | None:
    """Open the prepared set ``name``; None if there is none, InputError if it is damaged."""
    folder = data_dir / name
    if not (folder / META).is_file():
        return None
    meta = _read_meta(folder / META)
    train, test = open_beton(folder / TRAIN), open_beton(folder / TEST)
    info = meta.info
    shape = (info.size, info.size, info.channels)
    for beton, expected in ((train, info.train), (test, info.test)):
        if beton.samples != expected or beton.image_shape != shape or beton.labels.max() >= len(info.classes):
            raise _damaged(beton.path, "it does not fit its meta.json")
    return Prepared(info, train, test, meta.digest, folder, meta.notes, meta.request)


def load_verified(name: str, data_dir: Path) -> Prepared | None:
    """Like ``load``, but verify the checksums of both files: InputError if one differs."""
    prepared = load(name, data_dir)
    if prepared is not None:
        recorded = _read_meta(prepared.folder / META).sha256
        for file in (TRAIN, TEST):
            if (actual := verify(prepared.folder / file)) != recorded[file]:
                reason = f"its contents have SHA-256 {actual}, written was {recorded[file]}"
                raise _damaged(prepared.folder / file, reason)
    return prepared


def _read_meta(path: Path) -> Meta:
    try:
        return parse_meta(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> InputError:
    folder = path.parent
    return InputError(
        f"The prepared data set '{folder.name}' is damaged or of another version: '{path}', {reason}. Delete the "
        f"folder '{folder}' and make it again with '{prepare_command(folder.name, folder.parent)}'."
    )


def check_target(target: Path) -> None:
    """InputError if the folder holds anything but prepared data."""
    with writing(target):
        names = sorted(each.name for each in target.iterdir()) if target.exists() else []
    if foreign := [name for name in names if name not in (META, TRAIN, TEST) and not name.startswith(TEMPORARY)]:
        raise InputError(
            f"'{target}' exists and holds other files than prepared data ('{foreign[0]}'). Choose "
            "another name for the data set, or another folder with --data-dir."
        )


@contextlib.contextmanager
def workplace(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target`` in which a prepared set is written, removed at the end."""
    folder = target.with_name(f".{target.name}.tmp")
    try:
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)  # from a killed process
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(meta: Meta, folder: Path, target: Path) -> None:
    """Move the files into place; meta.json is removed first and written last, so that half a set is never opened."""
    with writing(target):
        target.mkdir(exist_ok=True)
        (target / META).unlink(missing_ok=True)
        for file in (TRAIN, TEST):
            os.replace(folder / file, target / file)
        replace_file(target / META, json.dumps(asdict(meta), indent=1).encode())
        sync_folder(target.parent)


@contextlib.contextmanager
def lock(name: str, data_dir: Path, wait: bool, check_stop: StopCheck = no_check) -> Iterator[None]:
    """Hold the lock of the set ``name``; the system frees it when this process ends.

    If another process holds it, wait and call ``check_stop`` repeatedly, or raise InputError without ``wait``.
    """
    path = data_dir / f".{name}.lock"
    with writing(path):
        data_dir.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115 - closed below
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not wait:
                    raise InputError(
                        f"'{name}' is being prepared in '{data_dir}' by another process. Wait until it is done; then "
                        "the same command returns at once."
                    ) from error
            check_stop()
            time.sleep(_PAUSE)
        yield


def another(prepared: Prepared, asked: Request, command: str) -> InputError:
    """The error for a request ``asked`` that differs from that of ``prepared``, with all differences.

    ``command`` prepares the set again; empty: the command that the user has just typed.
    """
    name, before, now = prepared.info.name, asdict(prepared.request), asdict(asked)
    differs = []
    for what in ("source", "size", "split_seed"):
        was, wanted = ("the default" if each[what] is None else repr(each[what]) for each in (before, now))
        if was != wanted:
            differs.append(f"its {what.replace('_', ' ')} is {was}, not {wanted}")
    if now["source"] == before["source"] and now["fingerprint"] != before["fingerprint"]:
        differs.append(f"files of {now['source'] or 'the original'} have changed since")
    again = f"'{command}'" if command else "this command"
    return InputError(
        f"'{name}' is prepared already in '{prepared.folder}', but differently: {'; '.join(differs)}. Choose another "
        f"name, or add --replace to {again} to replace it; runs on it would then use other images."
    )


@dataclass(frozen=True)
class NoiseSet:
    """A data set of Gaussian inputs, without files."""

    info: DataInfo
    sigma: float
    sha256: str
    """Of the description of its samples."""


def noise_set(name: str, samples: int, size: int, channels: int, sigma: float) -> NoiseSet:
    """A set of ``samples`` Gaussian inputs [size, size, channels] of standard deviation ``sigma``."""
    info = DataInfo(
        name=name,
        title=f"Gaussian noise (sigma {sigma:g})",
        classes=(),
        size=size,
        channels=channels,
        train=samples,
        test=0,
        mean=(NOISE_MEAN,) * channels,
        std=(NOISE_STD,) * channels,
        stats_source="network inputs as they are drawn",
        origin="a pure function of seed and index (Philox-4x32-10, Box-Muller)",
        labelled=False,
    )
    return NoiseSet(info, sigma, hashlib.sha256(f"{info.origin} {sigma!r}".encode()).hexdigest())


@dataclass(frozen=True)
class KnownData:
    """What is known of the data sets of some runs, without preparing any."""

    infos: dict[str, DataInfo] = field(default_factory=dict)
    """By name: from the prepared set, else from the catalogue."""
    missing: dict[str, str] = field(default_factory=dict)
    """Name of each set that is not prepared -> the command that prepares it."""

    def main(self, spec: TrainingSpec) -> DataInfo | None:
        """The set that ``spec`` trains on, Gaussian inputs included; None if it is unknown."""
        data = spec.data
        if data.name != GAUSSIAN:
            return self.infos.get(data.name)
        return noise_set(data.name, data.samples or 1, data.size or 1, data.channels or 3, data.sigma or 1.0).info

    def unknown(self, spec: RunSpec) -> list[str]:
        """Names of the sets of ``spec`` that are unknown."""
        return [name for name in spec.data_sets if name not in self.infos]


def known_data(specs: Iterable[RunSpec], data_dir: Path) -> KnownData:
    """Look up the data sets of ``specs`` and of the runs in them; InputError if a prepared one is damaged."""
    known = KnownData()
    specs = all_runs(specs, drawn=True)
    made = BUNDLED | {data.name for spec in specs for data in spec.readers}  # by the runs themselves
    for name in dict.fromkeys(name for spec in specs for name in spec.data_sets):
        prepared = load(name, data_dir)
        if info := prepared.info if prepared else DATASETS.get(name):
            known.infos[name] = info
        if prepared is None and name not in made:
            known.missing[name] = prepare_command(name, data_dir)
    return known
