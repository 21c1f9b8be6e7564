"""Summaries of reports: a folder that needs no run directories, and sentences for the demo."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from PIL import Image

from rt_scale.report.page import Report, markdown, to_markdown
from rt_scale.report.results import ResultRow
from rt_scale.report.statistics import Estimate, Word
from rt_scale.spec.errors import counted
from rt_scale.store.atomic import replacing, write_bytes
from rt_scale.store.results import AttemptRecord
from rt_scale.store.store import Store
from rt_scale.system.paths import bundled_sweep

_KEPT = ("report.csv", "beside.csv", "verdicts.csv")
ALPHA, OUT_DIM = "student.alpha", "projector.out_dim"


def write_summary(reports: Sequence[Report], store: Store, command: str, folder: Path) -> list[Path]:
    """Write a page that links all reports, and a folder per report, named after its first sweep.

    Each folder has the report as Markdown, its numbers as CSV and its figures as PNG. The page names the ``command``
    that made them. Existing files are replaced.
    """
    written = []
    for report in reports:
        place = folder / report.sweeps[0]
        written.append(_write(place / "report.md", to_markdown(report, runs=False)))
        tables = [report.folder / name for name in _KEPT]
        written += [Path(shutil.copyfile(path, place / path.name)) for path in tables if path.exists()]
        pictures = [*report.pictures, *(each for analysis in report.analyses for each in analysis.pictures)]
        written += [_small_picture(picture.png, place / picture.png.name) for picture in pictures]
    page = markdown(
        "summary.md",
        date=time.strftime("%Y-%m-%d"),
        command=command,
        machines=machines(reports, store),
        others=list(dict.fromkeys(report.other_data for report in reports if report.other_data)),
        reports=reports,
        words=get_args(Word),
        device_time=_device_time,
    )
    return [_write(folder / "README.md", page), *written]


def _write(path: Path, content: str) -> Path:
    write_bytes(path, content.encode())
    return path


def _small_picture(source: Path, target: Path) -> Path:
    """Copy the figure with 256 colours: it looks the same and has a third of the bytes."""
    with Image.open(source) as picture, replacing(target) as file:
        flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        colours = flat.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours.save(file, format="PNG", optimize=True)
    return target


def _device_time(report: Report) -> str:
    """The device time of all finished runs, e.g. ``12.3 core-minutes``."""
    found: Counter[str] = Counter()
    measured = [result.device_seconds for result in report.results.values() if result.device_seconds]
    for held in measured:
        found.update(held)
    times = [f"{seconds / 60:.1f} {'core' if kind == 'cpu' else kind}-minutes" for kind, seconds in found.items()]
    lacking = len(report.results) - len(measured)
    return " ".join([", ".join(times), *([f"(not measured of {lacking})"] if lacking else [])]).strip()


def machines(reports: Iterable[Report], store: Store) -> list[str]:
    """The machines of all attempts of finished runs, a line each: device, versions, commit."""
    found: Counter[str] = Counter()
    for name in sorted({name for report in reports for name in report.results}):
        if (record := store.run(name).record()) is not None:
            found.update(sorted({_machine(attempt) for attempt in record.attempts}))
    return [f"{counted(count, 'run')} on {machine}" for machine, count in found.most_common()]


def _machine(attempt: AttemptRecord) -> str:
    device = attempt.device if attempt.gpu else attempt.cpu.model or attempt.device
    commit = (attempt.git_commit or "unknown")[:10] + (" (changed)" if attempt.git_dirty else "")
    return f"{device}, torch {attempt.versions.get('torch')}, rt-scale commit {commit}"


def demo_notes(tables: Mapping[str, Sequence[ResultRow]]) -> str:
    """What the demo shows, with its numbers, and what so small a set cannot show.

    ``tables`` holds measured rows by probe; ``linear`` is required, others are optional.
    """
    grid = {(row.values[ALPHA], row.values[OUT_DIM]): row for row in tables["linear"]}
    alphas, dims = sorted({key[0] for key in grid}), sorted({key[1] for key in grid})
    local = grid[alphas[0], dims[-1]]
    gain, far, narrow = (grid[key].measured["gain"] for key in ((alphas[0], dims[-1]), (alphas[-1], dims[-1]),
                                                                (alphas[0], dims[0])))  # fmt: skip
    seen = (
        f"What to see. With {dims[-1]} outputs, a student that starts at its random teacher (alpha = {alphas[0]:g}) "
        f"ends {_against(gain)} its teacher in the linear probe: {gain.points} points over "
        f"{gain.n} seeds, from {_percent(local, 'teacher')} to {_percent(local, 'student')} %. "
        f"One that starts independently of it (alpha = {alphas[-1]:g}): {far.points}. "
        f"With {dims[0]} outputs: {narrow.points}."
    )
    others = []
    for probe, name in (("linear_standardized", "the linear probe of standardised embeddings"), ("knn", "kNN")):
        row = next((row for row in tables.get(probe, ()) if row.key == local.key), None)
        if row is not None:
            others.append(f"{name} changes by {row.measured['gain'].points} from {_percent(row, 'teacher')} %")
    unseen = (
        f"What this set cannot show. For the same runs {' and '.join(others)}; pixels alone reach "
        f"{_percent(local, 'input')} % in the linear probe. So on 8 x 8 digits the gain lies in what ten epochs "
        "of a linear probe can use, the scale and conditioning of the embedding, not in new information about "
        f"digits. For photographs see {bundled_sweep('cifar10_small')}."
        if others
        else "What this set cannot show: that the gain is more than scale; probe with standardized and knn, too."
    )
    return f"{seen}\n\n{unseen}"


def _percent(row: ResultRow, role: str) -> str:
    return f"{100 * row.measured[role].mean:.0f}"


def _against(gain: Estimate) -> str:
    if gain.low is None or gain.high is None or gain.low < 0 < gain.high:
        return "within seed noise of"
    return "above" if gain.mean > 0 else "below"
