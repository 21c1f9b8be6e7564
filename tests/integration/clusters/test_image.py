"""cluster/Dockerfile built by buildah, which needs no daemon, and the demo in the image as its user.

The Python packages are this machine's, mounted: pip finds them there and installs rt-scale alone. FFCV's stage, 338
packages of Debian for a compiler and OpenCV, is left out.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import machines
from tests.integration.machines import PROJECT
from tests.integration.test_wheel import SMALL

Buildah = Callable[..., str]
BASE = "FROM scratch\nADD base.tar /\n"


def packages() -> list[str]:
    """Mount this machine's Python packages, and let Python find them."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return ["--volume", f"{Path(spec.origin).parents[1]}:/host:ro", "--env", "PYTHONPATH=/host"]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """The program, with a storage of its own."""
    machines.required("buildah", "mmdebstrap")
    folder = tmp_path_factory.mktemp("images")

    def command(*words: str | Path, cwd: Path = PROJECT) -> str:
        storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        # As in a container, and unlike in buildah's, no other process of this machine is seen: other tests have Rays.
        alone = ["unshare", "--pid", "--fork", "--mount-proc", "buildah"]
        done = subprocess.run([*alone, *storage, *map(str, words)], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    yield command
    command("rm", "--all")
    command("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image for GPUs, whose packages of PyPI are this machine's, without FFCV."""
    folder = tmp_path_factory.mktemp("base")
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", "bookworm", "base.tar"]
    made = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no base image can be had: {made.stderr.strip().splitlines()[-1]}")
    (folder / "Containerfile").write_text(BASE)
    build = ["build", "--isolation", "chroot", "--format", "docker"]
    buildah(*build, "--tag", "base", ".", cwd=folder)
    given = {"BASE": "localhost/base", "DEVICE": "cuda", "WITH": "python"}
    arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    buildah(*build, *packages(), *arguments, "--file", "cluster/Dockerfile", "--tag", "rt-scale", ".")
    return buildah("from", "localhost/rt-scale")


def test_the_demo_runs_in_the_image_as_a_user_without_rights(buildah: Buildah, image: str) -> None:
    inside = ["run", "--isolation", "chroot", *packages(), image, "--"]
    assert buildah(*inside, "sh", "-c", "id -u; pwd; touch /opt/rt-scale/new || echo refused").split() == [
        "1000",
        "/home/rt",
        "refused",
    ]
    assert "demo" in buildah(*inside, "rt-scale", "--help")
    sets = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    assert "2 of 2 runs finished" in buildah(*inside, "rt-scale", "demo", *sets)
    assert "report.html" in buildah(*inside, "ls", "rt-store/sweeps/demo/report")


def test_the_image_says_how_it_is_run_and_whether_it_is_healthy(buildah: Buildah, image: str) -> None:
    config = json.loads(buildah("inspect", image))["Docker"]["config"]
    assert (config["User"], config["Cmd"]) == ("1000", ["rt-scale", "--help"])
    _, *words = config["Healthcheck"]["Test"]
    inside = ["run", "--isolation", "chroot", image, "--"]
    buildah(*inside, *words)
    with pytest.raises(AssertionError):  # a Ray that does not answer
        buildah(*inside, "sh", "-c", f"cp /bin/sleep /tmp/raylet; /tmp/raylet 20 & sleep 0.2; {words[-1]}")
