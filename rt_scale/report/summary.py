"""Reports without their run directories, small enough to be kept beside code or sent to somebody."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from rt_scale.report.contents import unfinished
from rt_scale.report.evidence import Word
from rt_scale.report.page_markdown import table_lines, text, to_markdown
from rt_scale.report.sweep_report import SweepReport
from rt_scale.store.atomic import replacing, write_bytes
from rt_scale.store.results import AttemptRecord
from rt_scale.store.store import Store

_KEPT = ("report.csv", "verdicts.csv")
_WORDS: tuple[Word, ...] = ("holds", "fails", "undecided")


def write_summary(reports: Sequence[SweepReport], store: Store, command: str, folder: Path) -> list[Path]:
    """Copy what reports say into ``folder``: a page that leads to all, and a folder a report.

    Each has its page in Markdown without the table of run directories, its numbers as CSV, and its figures as PNG.

    Args:
        reports: as they were written; a report's folder takes the name of its first sweep.
        store: where the runs are.
        command: that made them, for the page.
        folder: it is made if need be; files of these names are replaced.

    Raises:
        InputError, RunError: where it cannot be written, see :func:`rt_scale.store.atomic.disk_errors`.
    """
    written = []
    for report in reports:
        place, contents = folder / report.contents.sweeps[0], report.contents
        written.append(_write(place / "report.md", to_markdown(contents, runs=False)))
        tables = [contents.folder / name for name in _KEPT]
        written += [Path(shutil.copyfile(path, place / path.name)) for path in tables if path.exists()]
        written += [_small_picture(picture.png, place / picture.png.name) for picture in contents.pictures]
    return [_write(folder / "README.md", _page(reports, store, command)), *written]


def _small_picture(source: Path, target: Path) -> Path:
    """The figure with a palette of 256 colours, which looks the same and takes a third of the bytes."""
    with Image.open(source) as picture, replacing(target) as file:
        flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        colours = flat.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours.save(file, format="PNG", optimize=True)
    return target


def _page(reports: Sequence[SweepReport], store: Store, command: str) -> str:
    today = time.strftime("%Y-%m-%d")
    rows = [_row(report) for report in reports]
    lines = ["# Experiments at a glance", "", f"Made on {today} by", "", f"    {command}", ""]
    lines += [f"{text(line)}  " for line in machines(reports, store)]
    for other in dict.fromkeys(report.contents.other_data for report in reports if report.contents.other_data):
        lines += ["", f"**{text(other)}**"]
    lines += ["", *table_lines(["experiment", "runs", "device time", *_WORDS], rows, ":---")]
    for report in reports:
        if report.contents.verdicts:
            lines += [f"## {_link(report)}", ""]
            judged = [[text(part) for part in (each.verdict.word, each.claim, each.where, each.verdict.why)]
                      for each in report.contents.verdicts]  # fmt: skip
            lines += table_lines(["verdict", "claim", "where", "why"], judged, ":---")
    return "\n".join(lines).rstrip() + "\n"


def _row(report: SweepReport) -> list[str]:
    contents = report.contents
    total = len(contents.statuses)
    words = [each.verdict.word for each in contents.verdicts]
    return [_link(report), f"{total - len(unfinished(contents))} of {total}", _spent(report), *_counts(words)]


def _counts(words: Sequence[Word]) -> list[str]:
    return [str(words.count(word)) for word in _WORDS] if words else ["-"] * len(_WORDS)


def _link(report: SweepReport) -> str:
    return f"[{text(report.contents.title)}]({report.contents.sweeps[0]}/report.md)"


def _spent(report: SweepReport) -> str:
    """What all finished runs held, and for how long, e.g. ``12.3 core-minutes``."""
    found: dict[str, float] = {}
    measured = [result.device_seconds for result in report.results if result.device_seconds]
    for kind, seconds in (each for held in measured for each in held.items()):
        found[kind] = found.get(kind, 0.0) + seconds
    told = [f"{seconds / 60:.1f} {'core' if kind == 'cpu' else kind}-minutes" for kind, seconds in found.items()]
    lacking = len(report.results) - len(measured)
    return " ".join([", ".join(told), *([f"(not measured of {lacking})"] if lacking else [])]).strip()


def machines(reports: Iterable[SweepReport], store: Store) -> list[str]:
    """What the finished runs were computed on, a line each: device, versions, commit; every attempt counts."""
    found: dict[str, int] = {}
    names = {status.name for report in reports for status in report.contents.statuses if status.state == "done"}
    for name in sorted(names):
        record = store.run(name).record()
        for machine in {_machine(attempt) for attempt in record.attempts} if record else ():
            found[machine] = found.get(machine, 0) + 1
    return [
        f"{count} run{'s' if count > 1 else ''} on {machine}"
        for machine, count in sorted(found.items(), key=lambda item: -item[1])
    ]


def _machine(attempt: AttemptRecord) -> str:
    device = attempt.device if attempt.gpu else attempt.cpu.model or attempt.device
    commit = (attempt.git_commit or "unknown")[:10] + (" (changed)" if attempt.git_dirty else "")
    return f"{device}, torch {attempt.versions.get('torch')}, rt-scale commit {commit}"


def _write(path: Path, content: str) -> Path:
    write_bytes(path, content.encode())
    return path
