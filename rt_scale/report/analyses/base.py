"""What a report shows of an analysis: pictures, tables, interactive views, and the runs that claims are judged on."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from markupsafe import Markup

from rt_scale.spec.errors import RunError
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.grid import Point
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store

if TYPE_CHECKING:
    from rt_scale.report.results import Which

T = TypeVar("T")


@dataclass(frozen=True)
class Analysed(Generic[T]):
    """A run that an analysis reads.

    Attributes:
        at: its configuration: ``analysis``, ``data``, ``probed``, and its axes by dotted field.
        found: what it wrote; None if there is nothing yet.
    """

    point: Point
    at: Mapping[str, Any]
    state: str
    found: T | None = None

    @property
    def run(self) -> str:
        """The name of its directory."""
        return self.point.spec.name

    @property
    def seed(self) -> int:
        """The seed of its point."""
        return self.point.seed


@dataclass(frozen=True)
class Asked:
    """What a report was asked for: the runs of sweeps, and how they stand."""

    points: Sequence[Point]
    results: Mapping[str, RunResult]
    states: Mapping[str, str]
    store: Store
    folder: Path
    which: Which
    experiment: str | None = None

    def artifact(self, point: Point, name: str) -> Path | None:
        """The file of a run, finished or not; None if it has not written it."""
        path = self.store.run(point.spec).artifacts / name
        return path if path.exists() else None


@dataclass(frozen=True)
class Picture:
    """A figure with its title and files; ``name`` is their name without suffix."""

    name: str
    title: str
    svg: Path
    png: Path

    def inline(self, prefix: str) -> Markup:
        """The figure as an HTML element whose ids begin with ``prefix``."""
        drawn = inline_svg(self.svg.read_text(encoding="utf-8"), prefix)
        return drawn.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(self.title), 1)


@dataclass(frozen=True)
class Table:
    """A table; the first row has the titles."""

    name: str
    caption: str
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class View:
    """An interactive view: a figure of Plotly as plain values, and the files of its numbers for other tools."""

    name: str
    title: str
    figure: Mapping[str, Any]
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Analysis:
    """What a report shows of one kind of analysis.

    Attributes:
        said: sentences on what was computed, and how.
        runs: for claims.
    """

    title: str
    said: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    views: Sequence[View] = ()
    runs: Sequence[Analysed[Any]] = ()

    @property
    def files(self) -> list[Path]:
        """Pictures, then what other tools read."""
        drawn = [path for picture in self.pictures for path in (picture.png, picture.svg)]
        return drawn + [path for view in self.views for path in view.files]


@contextlib.contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what reading an artifact raises into a RunError that says what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"'{path}' cannot be read ({error}): it was cut off or changed. Move the run's folder away and run it "
            "again; what it reads of other runs is not computed anew."
        ) from error


def configuration(analysis: str, point: Point, **more: object) -> dict[str, Any]:
    """``Analysed.at`` of a run, without axes that say which network it starts from, as ``more`` says that in a word."""
    data = point.spec.main_set
    axes = {key: value for key, value in point.values.items() if not key.endswith((".start_from", ".start_from.take"))}
    return {"analysis": analysis, "data": data, "probed": data} | axes | more


def start_word(spec: TrainingSpec) -> str:
    """Where a run's student starts: ``init``, ``teacher`` or ``student``, of whichever run."""
    start = spec.student.start_from
    return "init" if start is None else start.take


def listed(words: Iterable[str]) -> str:
    """Different words, in order."""
    return ", ".join(dict.fromkeys(word for word in words if word))


def inline_svg(text: str, prefix: str) -> Markup:
    """The text of a matplotlib SVG file as an HTML element whose ids begin with ``prefix``."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", svg)
    return Markup(re.sub(r'(url\(#|href="#)', lambda found: f"{found[1]}{prefix}", svg))
