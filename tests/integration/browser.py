"""A headless browser on TensorBoard, and what is shown in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import axe_core_python
import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")

SERVE = """
import sys
from pathlib import Path
from rt_scale.report.board import open_board
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
store = Store(Path(sys.argv[2]))
sweeps = [SweepRuns(*load_sweep(Path(sys.argv[1])), store)]
tell = lambda line: print(line, flush=True)
open_board(sweeps, store, port=0, host="127.0.0.1", say=tell, interval=1.0)
"""
# Most of TensorBoard is in shadow roots, which neither innerText nor CSS selectors look into.
FIND = """
const found = [];
const visit = node => {
    if (node.matches && node.matches(arguments[0])) found.push(node);
    if (node.shadowRoot) visit(node.shadowRoot);
    node.childNodes.forEach(visit);
};
visit(arguments[1] || document.body);
return found;
"""


@contextlib.contextmanager
def served(file: Path, store: Path) -> Iterator[str]:
    """The address of a TensorBoard on a sweep, as `rt-scale board` opens it but refreshed every second."""
    command = [sys.executable, "-c", SERVE, str(file), str(store)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = server.stdout.readline().removeprefix("TensorBoard: ").partition(" ")[0]
    try:
        assert found.startswith("http://127.0.0.1:"), server.communicate(timeout=240)
        yield found
    finally:
        server.send_signal(signal.SIGINT)
        _, noise = server.communicate(timeout=240)
    # An interrupt is the ordinary way to leave, and nothing but the address was said.
    assert (server.returncode, noise) == (0, "")


class Browser:
    """Chromium without a window."""

    def __init__(self, chrome: webdriver.Chrome, pictures: Path) -> None:
        self.chrome, self.pictures = chrome, pictures

    def open(self, address: str) -> None:
        """Show the page at ``address`` afresh, even where it differs in its fragment alone."""
        self.chrome.get("about:blank")
        self.chrome.get(address)

    def find(self, selector: str, within: WebElement | None = None) -> list[WebElement]:
        """Elements by CSS selector, in shadow roots too."""
        found: list[WebElement] = self.chrome.execute_script(FIND, selector, within)
        return found

    def texts(self, selector: str, within: WebElement | None = None) -> list[str]:
        """What is written, and seen, in the elements."""
        return [text for element in self.find(selector, within) if (text := element.text.strip())]

    def click(self, selector: str, text: str = "", within: WebElement | None = None) -> None:
        """Click on the first such element, with ``text`` in it."""
        element = self.until(
            lambda: [element for element in self.find(selector, within) if text in element.text.lower()], selector
        )[0]
        self.chrome.execute_script("arguments[0].click()", element)

    def until(self, look: Callable[[], T], what: object, every: float = 0.5) -> T:
        """What ``look`` returns once that is true; it looks ``every`` so many seconds."""
        ignored = (Exception,)  # a page that is being built loses elements in the middle of a look
        found: T = WebDriverWait(self.chrome, 60, every, ignored_exceptions=ignored).until(
            lambda _: look(), f"not shown: {what}"
        )
        return found

    def prefer(self, look: str) -> None:
        """Be the browser of somebody who likes pages ``light`` or ``dark``."""
        media = [{"name": "prefers-color-scheme", "value": look}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def fits(self, width: int) -> bool:
        """Whether the page is no wider than a window of that many pixels, which it is shown in from now on."""
        screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        return bool(self.chrome.execute_script("return document.documentElement.scrollWidth") <= width)

    def serious(self) -> list[str]:
        """The findings of axe-core on this page that it calls serious or critical."""
        self.chrome.execute_script(Path(axe_core_python.__file__).with_name("axe.min.js").read_text())
        found = self.chrome.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        assert len(found["passes"]) > 10
        return [each["id"] for each in found["violations"] if each["impact"] in ("serious", "critical")]

    def picture(self, name: str) -> None:
        """Keep a picture; a page that is blank, or one bar above nothing, fails."""
        data = self.chrome.get_screenshot_as_png()
        (self.pictures / f"{name}.png").write_bytes(data)
        pixels = np.asarray(Image.open(BytesIO(data)).convert("L")).astype(float)
        below = pixels[pixels.shape[0] // 6 :, pixels.shape[1] // 5 :]
        assert below.std() > 5, f"{name}.png is blank"


@contextlib.contextmanager
def opened(pictures: Path) -> Iterator[Browser]:
    """A browser whose pictures go to that folder, or to RT_SCALE_SHOTS where that is set."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "this test needs Chromium: apt-get install chromium"
    assert driver, "this test needs its driver: apt-get install chromium-driver"
    folder = Path(os.environ.get("RT_SCALE_SHOTS") or pictures)
    folder.mkdir(parents=True, exist_ok=True)
    options = Options()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        quiet = ["disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"]
        flags = ["headless", "no-sandbox", "disable-gpu", "disable-sync", *quiet, "window-size=1600,1000"]
        for flag in [*flags, f"user-data-dir={profile}"]:
            options.add_argument(f"--{flag}")
        chrome = webdriver.Chrome(options, Service(driver))
        try:
            yield Browser(chrome, folder)
        finally:
            chrome.quit()
