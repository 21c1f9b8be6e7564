"""Landscapes in a report: maps as in figures 5 and 13 to 16, an interactive view a plane, and what lies between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rt_scale.report.analyses.base import Analysed, Analysis, Asked, Picture, Table, View, configuration, listed
from rt_scale.report.analyses.planes import LINE, PLANE, SIDES, Between, Plane, read_plane
from rt_scale.report.paper_numbers import data_title, value_text
from rt_scale.report.results import NOTHING
from rt_scale.spec.errors import counted
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.experiments.network import NetworkOf
from rt_scale.spec.grid import axis_names, grouped

if TYPE_CHECKING:
    from rt_scale.report.analyses.maps import Column, Coordinates

LANDSCAPE = "landscape"
MOST_PLANES = 12
"""Most planes that a report draws."""
_WHOLE = ("kl_train", "linear", "linear_standardized")
_ENCODER = ("kl_embedding_train", "linear", "linear_standardized")
FIGURES: Mapping[str | None, Mapping[str, tuple[Coordinates, tuple[str, ...]]]] = {
    "fig5": {"figure-5": ("affine", _WHOLE), "figure-13": ("orthonormal", _WHOLE),
             "figure-15": ("orthonormal encoder", _ENCODER)},
    "fig14": {"figure-14": ("orthonormal", _WHOLE), "figure-16": ("orthonormal encoder", _ENCODER)},
    None: {"plane": ("affine", _WHOLE), "plane-orthonormal": ("orthonormal", _WHOLE),
           "plane-encoder": ("orthonormal encoder", _ENCODER)},
}  # fmt: skip
"""Experiment -> its figures: coordinates and measures, a row each."""
_WORDS: Mapping[Coordinates, str] = {
    "affine": "affine coordinates, which keep no angles",
    "orthonormal": "orthonormal coordinates of the whole network, centred at the plane's point of least norm",
    "orthonormal encoder": "orthonormal coordinates of the encoder, centred at the plane's point of least norm",
}

_CAPTION = (
    "On the line from the origin to each trained student, linear between points of the grid: KL divergence to the "
    "origin in nats, at the student and at its highest on the way; that a tenth of the way in the other direction, "
    "divided by that a tenth of the way to the student; and accuracies of linear probes in %."
)


@dataclass(frozen=True)
class Landscape:
    """A plane and those of its networks that are of runs, by ``origin``, ``x`` and ``y``."""

    plane: Plane
    networks: Mapping[str, NetworkOf]

    @property
    def students(self) -> dict[int, NetworkOf]:
        """The trained students among x and y, by their corner."""
        return {number: self.networks[side] for number, side in enumerate(SIDES)
                if number and side in self.networks and self.networks[side].take == "student"}  # fmt: skip


def landscape_runs(asked: Asked) -> list[Analysed[Landscape]]:
    """The runs with their planes, as far as they are computed."""
    found = []
    for point in asked.points:
        assert isinstance(point.spec, LandscapeSpec)
        networks = {side: network for side, network in point.spec.networks.items() if side in SIDES}
        at = configuration(LANDSCAPE, point, view=view_title(networks, point.spec.directions))
        at = {key: value for key, value in at.items() if key.partition(".")[0] not in SIDES}
        path = asked.artifact(point, PLANE) or asked.artifact(point, LINE)
        result = asked.results.get(point.spec.name)
        measured = {} if result is None else result.last
        plane = None if path is None else Landscape(read_plane(path, measured), networks)
        found.append(Analysed(point, at, asked.states[point.spec.name], plane))
    return found


def network_words(network: NetworkOf) -> str:
    """A network in words, e.g. ``student, alpha 1``."""
    if network.take == "teacher":
        return "teacher"
    return f"{'start' if network.take == 'init' else network.take}{_alpha(network, ', alpha ')}"


def network_symbol(network: NetworkOf) -> str:
    """A network as the paper writes it."""
    if network.take == "teacher":
        return r"$\theta_T$"
    star, alpha = "^*" if network.take == "student" else "", _alpha(network, "")
    return rf"$\theta_S{star}{f'({alpha})' if alpha else ''}$"


def _alpha(network: NetworkOf, before: str) -> str:
    """Its locality after ``before``; nothing if it started from another run."""
    start = network.run.student
    if start.start_from is not None or start.epsilon is not None:
        return ""
    return f"{before}{0 if start.alpha < 1e-3 else start.alpha:g}"


def view_title(networks: Mapping[str, NetworkOf], directions: str = "networks") -> str:
    """The paper's name of a view, or the networks and directions."""
    takes = sorted(network.take for side, network in networks.items() if side != "origin")
    if networks["origin"].take == "teacher" and takes in (["student", "student"], ["init", "student"]):
        return "shared view" if takes == ["student", "student"] else "non-local view"
    return ", ".join([*map(network_words, networks.values()), *([] if takes else [f"{directions} directions"])])


def analysis(asked: Asked) -> Analysis:
    """What the report shows of planes and lines."""
    from rt_scale.report.analyses.lines import line_pictures

    runs = landscape_runs(asked)
    begun = [run for run in runs if run.found is not None]
    if not begun:
        return Analysis("Landscapes", ["No point of a plane is computed yet."], runs=runs)
    lines = [run for run in begun if of(run).plane.is_line]
    drawn = [run for run in begun if run not in lines][:MOST_PLANES]
    views = [_view(run, asked) for run in drawn]
    pictures = [*_pictures(asked, drawn), *line_pictures(asked, lines)]
    return Analysis("Landscapes", _said(begun), pictures, _tables(begun), views, runs)


def _view(run: Analysed[Landscape], asked: Asked) -> View:
    """The interactive view of a plane, and its files."""
    from rt_scale.report.analyses.surfaces import surface, write_planes

    column = _column(run, network_words)
    shown = dict.fromkeys([*_WHOLE, *_ENCODER, *column.plane.values])
    files = write_planes(column.plane, asked.folder / f"plane-{run.run}")
    return View(f"view-{run.run}", f"{column.title}, seed {run.seed}", surface(column, list(shown)), files)


def title_of(run: Analysed[Landscape]) -> str:
    """The view, the axes of the sweep besides the networks, and how much is computed."""
    done, size = int(of(run).plane.computed.sum()), of(run).plane.computed.size
    axes = [f"{name} {value_text(key, run.at[key])}" for key, name in axis_names(_axes(run)).items()]
    part = f"{done:,} of {size:,} points" if done < size else ""
    return ", ".join(word for word in (run.at["view"], *axes, part) if word)


def _column(run: Analysed[Landscape], name: Callable[[NetworkOf], str]) -> Column:
    """A plane with its title."""
    from rt_scale.report.analyses.maps import Column

    found = of(run)
    names = [name(found.networks[side]) if side in found.networks else side for side in SIDES]
    return Column(title_of(run), found.plane, names)


def of(run: Analysed[Landscape]) -> Landscape:
    """What a begun run has found."""
    assert run.found is not None
    return run.found


def _axes(run: Analysed[Landscape]) -> list[str]:
    """The axes of its sweep besides the networks."""
    return [key for key in run.at if key not in ("analysis", "data", "probed", "view")]


def _said(runs: Sequence[Analysed[Landscape]]) -> list[str]:
    """What was computed, on how many images, how far."""
    done = sum(int(of(run).plane.computed.sum()) for run in runs)
    size = sum(of(run).plane.computed.size for run in runs)
    statistics = listed(map(str, _field(runs, "statistics")))
    found = [
        f"{counted(len(runs), 'plane')}, {done:,} of {size:,} points computed, losses on {_images(runs, 'images')} "
        f"and probes on {_images(runs, 'probe_images')} of each split. Statistics of batch norms at a point, if there "
        f"are any: {statistics}.",
        "A point (a, b) is origin + a (x - origin) + b (y - origin). Contours: the parameters' norm. Colours span "
        "the paper's range (KL 1e-7 to 1e-3, of embeddings 1e-6 to 1, accuracy 10 to 50 %) if nearly all values are on "
        "it, else their own.",
    ]
    if done < size:
        found.append("Where a point is not computed yet, the maps show the nearest one that is; views leave a hole.")
    if len(runs) > MOST_PLANES:
        found.append(f"The first {MOST_PLANES} are drawn.")
    return found


def _images(runs: Sequence[Analysed[Landscape]], name: str) -> str:
    return listed("all images" if number is None else f"{number:,} images" for number in _field(runs, name))


def _field(runs: Sequence[Analysed[Landscape]], name: str) -> list[object]:
    return list(dict.fromkeys(getattr(run.point.spec, name) for run in runs))


def _pictures(asked: Asked, runs: Sequence[Analysed[Landscape]]) -> list[Picture]:
    """Each figure once a seed, the seed's planes side by side."""
    from rt_scale.report.analyses.maps import draw_maps
    from rt_scale.report.figures.drawing import save

    found, seeds = [], grouped(runs, lambda run: run.seed)
    for name, (coordinates, measures) in FIGURES.get(asked.experiment, FIGURES[None]).items():
        for seed, members in seeds.items():
            columns = [_column(run, network_symbol) for run in members]
            rows = [each for each in measures if any(each in column.plane.values for column in columns)]
            if not rows:
                continue
            data = listed(data_title(run.at["data"]) for run in members)
            several = f", seed {seed}" if len(seeds) > 1 else ""
            title = f"{name.capitalize().replace('-', ' ')}, {data}{several}"
            file = f"{name}-seed-{seed}" if several else name
            svg, png = (asked.folder / f"{file}.{form}" for form in ("svg", "png"))
            save(draw_maps(columns, rows, coordinates, title), svg, png)
            found.append(Picture(file, f"{title}: {_WORDS[coordinates]}.", svg, png))
    return found


def _tables(runs: Sequence[Analysed[Landscape]]) -> list[Table]:
    """What lies between the origin and each trained student, without columns of what was not measured."""
    probes = [f"{words}, {where}" for words in ("linear", "standardised") for where in ("origin", "there")]
    rows = [["plane", "seed", "to", "KL there", "highest on the way", "highest / there", "KL(-0.1) / KL(0.1)", *probes]]
    for run in runs:
        found = of(run)
        for corner, network in found.students.items():
            between = Between.of(found.plane, corner)
            numbers = [between.end, between.highest, between.barrier, between.asymmetry]
            probed = [100 * found.plane.at(name, place) for name in _WHOLE[1:] for place in (0, corner)]
            texts = [_text(value, "{:.3g}") for value in numbers] + [_text(value, "{:.1f}") for value in probed]
            rows.append([run.at["view"], str(run.seed), network_words(network), *texts])
    known = [place for place, cells in enumerate(zip(*rows[1:], strict=True)) if set(cells) != {NOTHING}]
    return [Table("landscapes", _CAPTION, [[row[place] for place in known] for row in rows])] if known else []


def _text(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else NOTHING
