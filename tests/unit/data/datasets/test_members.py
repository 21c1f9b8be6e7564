"""Links inside archives lead inside of the archive, or nowhere."""

from __future__ import annotations

import pytest

from rt_scale.data.datasets.tree import Link, clean, follow

FILES = {("all", "1.png"): 1, ("all", "2.png"): 2, ("top.png",): 3}


def _soft(target: str) -> Link:
    return Link(target, hard=False)


@pytest.mark.parametrize(
    ("path", "link", "paths"),
    [
        ("cat/1.png", _soft("../all/1.png"), {"cat/1.png": 1}),
        ("cat/1.png", Link("all/1.png", hard=True), {"cat/1.png": 1}),
        ("cat/1.png", Link("./all/1.png", hard=True), {"cat/1.png": 1}),
        ("cat", _soft("all"), {"cat/1.png": 1, "cat/2.png": 2}),
        ("deep/er/cat", _soft("../../all/"), {"deep/er/cat/1.png": 1, "deep/er/cat/2.png": 2}),
        ("all/again.png", _soft("2.png"), {"all/again.png": 2}),
    ],
)
def test_links_are_files_at_their_own_path(path: str, link: Link, paths: dict[str, int]) -> None:
    found, odd = follow(FILES, {tuple(path.split("/")): link})
    expected = {tuple(each.split("/")): member for each, member in paths.items()}
    assert found == FILES | expected
    assert not odd


def test_links_lead_through_links() -> None:
    links = {("a",): _soft("b"), ("b",): _soft("all"), ("c.png",): _soft("a/1.png"), ("d.png",): _soft("a/../top.png")}
    found, odd = follow(FILES, links)
    assert found[("c.png",)] == 1
    assert found[("d.png",)] == 3  # all/.. is the top, where a points
    assert found[("a", "2.png")] == found[("b", "2.png")] == 2
    assert not odd


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (_soft("/etc/passwd"), "out of the archive"),
        (_soft("../../etc/passwd"), "out of the archive"),
        (_soft("../../cat/../all/1.png"), "out of the archive"),
        (Link("../all/1.png", hard=True), "out of the archive"),
        (_soft("3.png"), "does not have"),
        (_soft("x.png"), "circle"),
    ],
)
def test_links_that_lead_to_no_file_are_told(link: Link, why: str) -> None:
    found, odd = follow(FILES, {("cat", "x.png"): link})
    assert found == FILES
    assert list(odd) == [("cat", "x.png")]
    assert why in odd["cat", "x.png"]
    assert link.target in odd["cat", "x.png"]


def test_folders_that_link_around_end() -> None:
    links = {
        ("all", "up"): _soft(".."),
        ("all", "self"): _soft("."),
        ("one", "to"): _soft("../two"),
        ("two", "to"): _soft("../one"),
    }
    found, odd = follow(FILES, links)
    assert found == FILES
    assert all("lies in" in why for why in odd.values())
    assert {("all", "up"), ("all", "self"), ("one", "to", "to")} <= odd.keys()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./a/b", ("a", "b")),
        ("/a//b", ("a", "b")),
        ("a/../b", ("b",)),
        ("../a", None),
        ("a/../../b", None),
        ("a\\b", ("a", "b")),
    ],
)
def test_names_stay_inside(name: str, path: tuple[str, ...] | None) -> None:
    assert clean(name) == path
