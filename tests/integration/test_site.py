"""The site of docs/: it builds without a warning, its search works from files, and it asks no network for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.browser import opened

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    built = subprocess.run([sys.executable, "docs/build.py", folder], cwd=ROOT, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    assert built.stdout == f"open {(folder / 'docs' / 'index.html').as_uri()}\n"
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    loads = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*(?:https?:)?//[^>]*>")
    assert [(page.name, found) for page in pages for found in loads.findall(page.read_text())] == []
    assert [path for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", path.read_text())] == []


def test_a_search_without_network_finds_pages(site: Path, tmp_path: Path) -> None:
    with opened(tmp_path) as browser:
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.chrome.execute_cdp_cmd("Network.enable", {})
        browser.chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.open((site / "docs" / "index.html").as_uri())
        (box,) = browser.find("input[name=q]")
        box.send_keys("asymmetric\n")
        found = browser.until(lambda: browser.texts("#search-results li a"), "results")
        assert "Analyses" in found
        browser.click("#search-results li a", "analyses")
        browser.until(lambda: "Landscapes" in browser.chrome.page_source, "the page")
        browser.picture("site")


@pytest.mark.parametrize("width", [400, 1400])
def test_no_page_is_wider_than_its_window(site: Path, tmp_path: Path, width: int) -> None:
    with opened(tmp_path) as browser:
        for name in ("index", "fields", "paper", "start", "clusters/aws"):
            browser.open((site / "docs" / f"{name}.html").as_uri())
            assert browser.fits(width), name
            browser.picture(f"{name.replace('/', '-')}-{width}")
