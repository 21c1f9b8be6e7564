"""Pages and tables of synthetic runs: what is written, linked and escaped."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rt_scale.report.analyses.base import Picture, inline_svg
from rt_scale.report.export import numbers_table, verdicts_table
from rt_scale.report.headline import headline
from rt_scale.report.page import Report, caption, same_in_all, titles, to_html, to_markdown
from rt_scale.report.paper import Judged
from rt_scale.report.paper_numbers import departures
from rt_scale.report.report import check_same_data, merged_points
from rt_scale.report.results import ResultRow, probed_runs, result_rows
from rt_scale.report.statistics import Verdict, limits
from rt_scale.report.status import StatusRow
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.store.results import RunResult
from tests.records import run_result

Make = Callable[..., Any]
EVIL = '"><img src=x onerror=alert(1)> | `code` [a](b)'


class Reader(HTMLParser):
    """What a page holds, as a browser would read it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.words += data


HELD = {"device_seconds": {"cpu": 2.5}}


@pytest.fixture
def points(point: Make) -> list[Point]:
    return [point({"student.alpha": alpha}, seed) for seed in (0, 1, 2) for alpha in (0.1, 1.0)]


def linear(points: list[Point], results: dict[str, Any], states: dict[str, str], which: Any, experiment: Any) -> Any:
    runs = {"linear": probed_runs(points, results, states, "linear")}
    return result_rows(points, runs, which, experiment)


@pytest.fixture
def make(points: list[Point], result: Make, tmp_path: Path) -> Make:
    """A report of six runs: at alpha = 0.1 one failed, at alpha = 1 one is finished."""

    def report(experiment: str | None = "fig3", which: Any = "last", reason: str = "out of memory") -> Report:
        done = {0: (0.40, 0.30), 1: (0.2, 0.3), 2: (0.44, 0.31)}
        results = {points[i].spec.name: result(student, teacher, 0.6, student + 0.1).model_copy(update=HELD)
                   for i, (student, teacher) in done.items()}  # fmt: skip
        states = ["done", "done", "done", "missing", "failed", "partial"]
        statuses = [StatusRow(place.label, place.spec.name, state, 1, reason if state == "failed" else "")
                    for place, state in zip(points, states, strict=True)]  # fmt: skip
        verdict = Verdict("fails", f"why {reason}", {"a": limits([0.1, 0.2, 0.3])})
        drawn = tmp_path / "report" / "figure-3.svg"
        drawn.parent.mkdir(exist_ok=True)
        drawn.write_text("<?xml version='1.0'?><!DOCTYPE svg>\n<svg><metadata>x</metadata><text>axis</text></svg>\n")
        return Report(
            title="Locality",
            sweeps=("near",),
            experiment=experiment,
            data=("Digits (digits, sha256 0123)",),
            which=which,
            verdicts=[Judged("A claim.", "The rule.", "somewhere", verdict, (points[0].spec.name,))]
            if experiment
            else [],
            pictures=[Picture("figure-3", "Figure 3.", drawn, drawn.with_suffix(".png"))],
            tables=linear(points, results, {each.name: each.state for each in statuses}, which, experiment),
            statuses=statuses,
            results=results,
            departures=["width = 0.25"],
            folder=tmp_path / "sweeps" / "near" / "report",
            runs=tmp_path / "runs",
        )

    return report


def cells(row: ResultRow) -> list[str]:
    return [row.runs_text, *row.measured_texts()]


def test_rows_have_ours_and_what_is_lacking(make: Make) -> None:
    near, far = make().tables["linear"]
    assert titles([near]) == ["alpha", "runs", "input", "teacher", "student", "gain"]
    assert cells(near) == ["2 of 3 (1 failed)", "60.0 ± 0.0", "30.5 ± 0.7", "42.0 ± 2.8", "+11.5"]
    assert cells(far) == ["1 of 3 (1 partial, 1 missing)", "60.0", "30.0", "20.0", "-10.0"]
    assert cells(make(which="best").tables["linear"][0])[3].startswith("52.0 ± 2.8")


def test_the_difference_is_our_student_less_the_papers(point: Make, result: Make) -> None:
    places = [point({"data.name": "cifar10_jpeg", "encoder.name": "vgg11"}, seed) for seed in (0, 1)]
    results = {place.spec.name: result(0.5, 0.3, 0.6) for place in places}
    (row,) = linear(places, results, dict.fromkeys(results, "done"), "last", "fig1")["linear"]
    assert caption([row], "last").startswith("linear probe, CIFAR-10 (re-encoded as JPEG): test accuracy")
    assert row.difference == pytest.approx(50 - 51.98)
    assert dict(row.shown) == {"data.name": "CIFAR-10 (re-encoded as JPEG)", "encoder.name": "vgg11"}


def test_a_configuration_without_results_has_a_row(points: list[Point]) -> None:
    rows = linear(points, {}, {place.spec.name: "missing" for place in points}, "last", "fig3")["linear"]
    assert [cells(row) for row in rows] == [["0 of 3 (3 missing)", *["-"] * 4]] * 2


def test_the_page_is_whole_and_leads_to_runs_that_are_there(make: Make, points: list[Point]) -> None:
    report = make()
    text = to_html(report)
    read = Reader(text)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert text.count("<script>") == 1  # sorts tables; its hash is in the policy
    assert "script-src 'sha256-" in text
    assert not {"img", "iframe", "object", "embed", "metadata"} & set(read.tags)
    assert "link" not in read.tags
    outside = [link for link in read.links if not link.startswith("#")]
    assert all(not re.match(r"[a-z]+:|//", link) for link in outside)
    begun = [place.spec.name for number, place in enumerate(points) if number != 3]
    expected = {f"../../../runs/{name}/" for name in begun} | {f"../../../runs/{name}/spec.json" for name in begun}
    assert set(outside) == expected | {"figure-3.svg", "figure-3.png"}
    inside = {link[1:] for link in read.links if link.startswith("#")}
    assert {row.key for row in report.tables["linear"]} <= inside <= set(read.ids)
    for words in (
        "3 of 6 runs finished",
        "Digits (digits, sha256 0123)",
        "fails",
        "A claim.",
        "The rule.",
        "axis",
        "student after its last epoch",
        "Not the paper's setting: width = 0.25.",
        "out of memory",
    ):
        assert words in read.words, words
    assert read.words.index("A claim.") < read.words.index("axis") < read.words.index("Linear probe")


@pytest.mark.parametrize("write", [to_html, to_markdown])
def test_nothing_that_is_written_becomes_markup(make: Make, write: Callable[[Report], str]) -> None:
    text = write(make(reason=EVIL))
    assert "<img" not in text
    if write is to_html:
        assert Reader(text).words.count(EVIL) == 2
    else:
        rows = [line for line in text.splitlines() if "onerror" in line]
        assert len(rows) == 2
        assert all(r"\| \`code\` \[a\](b)" in row for row in rows)


def test_a_sweep_that_is_no_experiment_has_no_claims_and_no_paper(make: Make) -> None:
    for text in (Reader(to_html(make(None))).words, to_markdown(make(None))):
        assert "paper" not in text.lower()
        assert "+11.5" in text
        assert "at least 3 seeds" in text


@pytest.mark.parametrize(("which", "words"), [("last", "after its last epoch"), ("best", "at its best probed epoch")])
def test_the_epoch_is_told_everywhere(make: Make, which: str, words: str) -> None:
    report = make(which=which)
    assert words in to_html(report)
    assert words in to_markdown(report)
    assert numbers_table(report)["epoch"].to_pylist() == [which, which]
    assert ("--best" in " ".join(report.notes)) is False  # no number of the paper's is beside these


def test_tables_for_programs_have_every_number(make: Make, points: list[Point]) -> None:
    near, far = numbers_table(make()).to_pylist()
    assert (near["alpha"], near["n"], near["done"], near["failed"], near["missing"]) == ("0.1", 2, 2, 1, 0)
    assert near["student_mean"] == pytest.approx(0.42)
    assert (near["gain_mean"], near["gain_low"], near["gain_high"]) == (pytest.approx(0.115), None, None)  # two seeds
    assert (far["student_std"], far["student_low"], far["paper_student"], far["difference"]) == (None,) * 4
    assert (near["device_seconds_cpu"], near["device_seconds_gpu"]) == (5.0, None)
    assert (near["distilled_on"], near["probed_on"]) == ("Digits", "Digits")
    assert near["runs"].split() == [points[i].spec.name for i in (0, 2, 4)]
    (verdict,) = verdicts_table(make()).to_pylist()
    assert (verdict["verdict"], verdict["of"], verdict["n"]) == ("fails", "a", 3)
    assert verdict["mean"] == pytest.approx(0.2)


def test_markdown_has_links_and_figures(make: Make, points: list[Point]) -> None:
    text = to_markdown(make())
    assert "![Figure 3.](figure-3.png)" in text
    name = points[0].spec.name
    assert f"[seed 0](../../../runs/{name}/) ([spec](../../../runs/{name}/spec.json))" in text
    assert "seed 1 (missing)" in text
    assert "| fails | A claim. | somewhere | why out of memory |" in text


def test_ids_of_figures_do_not_meet() -> None:
    text = '<?xml?><svg id="top"><path id="p"/><use xlink:href="#p"/><g clip-path="url(#c)"/><clipPath id="c"/></svg>'
    assert inline_svg(text, "f1-") == (
        '<svg><path id="f1-p"/><use xlink:href="#f1-p"/><g clip-path="url(#f1-c)"/><clipPath id="f1-c"/></svg>'
    )


def test_departures_from_the_papers_setting_are_told(point: Make) -> None:
    places = [point({"student.alpha": 0.3, "encoder.width": width}) for width in (0.5, 1.0)]
    base = [Point({"student.alpha": 0.3}, 0, place.spec) for place in places]
    assert departures(places) == []
    assert departures(base) == ["width = 0.5 or 1"]
    assert [departures([replace(point({"train.epochs": epochs}), values={})]) for epochs in (100, 150, 7)] == [
        [], [], ["train.epochs = 7"],
    ]  # fmt: skip


def test_a_run_that_only_probes_its_teacher_departs_in_nothing_of_a_student(point: Make) -> None:
    probed, moved = (
        replace(point({"student.alpha": alpha, "train.stop": "0ep", "encoder.width": 0.5}), values={})
        for alpha in (0.0, 0.3)
    )
    assert departures([probed]) == ["width = 0.5"]
    assert departures([moved]) == ["width = 0.5", "alpha = 0.3", "stop = 0ep"]


def test_an_address_leads_to_a_folder_of_any_name(make: Make, tmp_path: Path) -> None:
    report = replace(make(), runs=tmp_path / "my #1 (runs)")
    assert report.link("distill-0", "spec.json") == "../../../my%20%231%20%28runs%29/distill-0/spec.json"


def on(point: Point, name: str, sha: str) -> dict[str, RunResult]:
    """The result of a run on data with that checksum, by name."""
    return {point.spec.name: run_result(data={"name": name, "title": name, "sha256": sha})}


def test_different_data_are_not_merged(point: Make) -> None:
    ours, again = (point({"data.name": "digits"}, seed) for seed in (0, 1))
    first = on(ours, "digits", "1")
    check_same_data({"a": [ours], "b": [again]}, first | on(again, "digits", "1"))
    for key, value, words in (("samples", 50, "digits samples 50"), ("size", 8, "digits size 8")):
        with pytest.raises(InputError, match=f"'a' has digits, 'b' has {words}.*one by one"):
            check_same_data({"a": [ours], "b": [point({f"data.{key}": value})]}, {})
    names = rf"{ours.spec.name} of 'a'.*{again.spec.name} of 'b'"
    with pytest.raises(InputError, match=rf"'digits' had different contents.*{names}"):
        check_same_data({"a": [ours], "b": [again]}, first | on(again, "digits", "2"))


def test_a_set_is_not_its_variant_nor_another_size_of_it(point: Make) -> None:
    ours, jpeg = (point({"data.name": name}) for name in ("cifar10", "cifar10_jpeg"))
    with pytest.raises(InputError, match=r"on different data, .* 'a' has cifar10, 'b' has cifar10_jpeg\."):
        check_same_data({"a": [ours], "b": [jpeg]}, {})
    resized, own = (point({"probe.also": ["stl10"], "probe.also_size": size}) for size in ("encoder", "own"))
    with pytest.raises(InputError, match=r"'b' has digits probed on stl10 at their own size\."):
        check_same_data({"a": [resized], "b": [own]}, {})


def test_what_sweeps_have_otherwise_tells_their_runs_apart(point: Make) -> None:
    short = [Point({"student.alpha": alpha}, 0, point({"student.alpha": alpha, "train.epochs": 5}).spec)
             for alpha in (0.1, 0.5)]  # fmt: skip
    long = [point({"student.alpha": 0.1})]
    merged = merged_points([short, [*long, short[0]]])
    assert [dict(each.values) for each in merged] == [
        {"student.alpha": 0.1, "train.epochs": 5},
        {"student.alpha": 0.5, "train.epochs": 5},
        {"student.alpha": 0.1, "train.epochs": 100},
    ]
    assert merged_points([short]) == short


def test_the_headline_follows_from_the_numbers(point: Make, result: Make, make: Make) -> None:
    places = [point({"student.alpha": alpha, "projector.out_dim": 1024}, seed) for alpha in (0.1, 1.0)
              for seed in range(3)]  # fmt: skip
    gains = [0.2, 0.21, 0.22, 0.0, 0.3, -0.2]
    results = {place.spec.name: result(0.3 + gain, 0.3, 0.6) for place, gain in zip(places, gains, strict=True)}
    tables = linear(places, results, dict.fromkeys(results, "done"), "last", None)
    assert headline(tables, []) == (
        "Best of 2 configurations: alpha 0.1, 1,024 outputs: +21.0 [+18.5, +23.5] points over its teacher "
        "(linear probe, 3 seeds)."
    )
    assert headline({"linear": tables["linear"][1:]}, []).startswith("alpha 1, 1,024 outputs: +3.3 [")
    spread = {
        place.spec.name: result(0.3 + seed, 0.3, 0.6) for place, seed in zip(places, [0.4, -0.2, 0] * 2, strict=True)
    }
    none = linear(places, spread, dict.fromkeys(spread, "done"), "last", None)
    assert headline(none, []).startswith("None of 2 configurations is clear of its teacher; the largest gain is ")
    assert headline({}, make().verdicts) == "1 claim of the paper judged: 1 fails."
    assert headline({}, []) == ""


def test_a_clear_gain_has_a_sign_and_what_rows_share_is_told_once(point: Make, result: Make, make: Make) -> None:
    places = [point({"student.alpha": alpha}, seed) for alpha in (0.1, 1.0) for seed in range(3)]
    gains = [0.2, 0.21, 0.22, -0.1, -0.11, -0.12]
    results = {place.spec.name: result(0.3 + gain, 0.3, 0.6) for place, gain in zip(places, gains, strict=True)}
    tables = linear(places, results, dict.fromkeys(results, "done"), "last", None)
    shared = same_in_all(tables["linear"])
    assert shared == {"input": "60.0 ± 0.0 [60.0, 60.0]", "teacher": "30.0 ± 0.0 [30.0, 30.0]"}
    text = to_html(replace(make(None), tables=tables))
    assert (text.count(">▲ <"), text.count(">▼ <"), text.count("(clear of 0)")) == (1, 1, 2)
    assert '<th scope="col">teacher</th>' not in text
    assert same_in_all(make().tables["linear"]) == {}


def test_the_contents_lead_to_what_is_there(make: Make) -> None:
    report = make()
    read = Reader(to_html(report))
    assert [name for name, _ in report.sections] == ["claims", "figures", "tables", "without", "behind"]
    assert {name for name, _ in report.sections} <= set(read.ids)
    assert set(read.ids) >= {"base", "finished", "data"}
