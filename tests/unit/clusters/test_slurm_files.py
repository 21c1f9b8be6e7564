"""Scripts for Slurm: what `rt-scale cluster write` fills in."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app

KINDS = ("slurm_array", "slurm_nodes")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(kind: str, launch: dict[str, Any], *options: str, most: int = 2, store: str = "/shared/store") -> str:
    """The script for a sweep with this launch section; the shell finds no error in it."""
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "train": {"epochs": 1}}
    sweep = {"name": "mine", "base": base, "axes": {"student.alpha": [0.5]}, "launch": launch}
    Path("mine.yaml").write_text(yaml.safe_dump(sweep))
    words = ["cluster", "write", kind, "mine.yaml", "--store", store, "--max", str(most), *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.output.splitlines()[-1] == f"sbatch {kind}.sh"
    subprocess.run(["bash", "-n", f"{kind}.sh"], check=True)
    return Path(f"{kind}.sh").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_has_what_a_run_asks_for(kind: str) -> None:
    text = written(kind, {"cpus": 6, "gpus": 2, "accelerator": "A100"}, most=3)
    assert "\n#SBATCH --cpus-per-task=6  # edit" in text
    assert "\n#SBATCH --gres=gpu:a100:2  # edit" in text
    assert "\n#SBATCH --mem=24G  # edit" in text
    assert f"\n#SBATCH {'--array=1-3' if kind == 'slurm_array' else '--nodes=3'}  # edit" in text
    assert "\n#SBATCH --partition=spot  # edit" in text
    assert "CUDA_VISIBLE_DEVICES" not in text
    shared = written(kind, {"cpus": 2, "gpus": 0.25}, "--no-spot", "--replace")
    assert "\n#SBATCH --cpus-per-task=8  # edit" in shared
    assert "\n#SBATCH --gres=gpu:1  # edit" in shared
    assert "\n#SBATCH --partition=batch  # edit" in shared


@pytest.mark.parametrize("kind", KINDS)
def test_who_asks_for_no_gpu_sees_none(kind: str) -> None:
    text = written(kind, {})
    assert "gres" not in text
    assert "\nexport CUDA_VISIBLE_DEVICES=  #" in text
    assert ("--num-gpus=0" in text) is (kind == "slurm_nodes")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_driver_keeps_is_on_a_disk_of_the_node(kind: str) -> None:
    text = written(kind, {})
    assert "RT_SCALE_MIRROR" not in text
    assert "RT_SCALE_DATA_ORIGIN" not in text
    there = written(kind, {}, "--replace", "--data-origin", "s3://it's/data", store="s3://bucket/runs")
    assert "\nexport RT_SCALE_MIRROR=$scratch/store\n" in there
    assert "\nexport RT_SCALE_DATA_ORIGIN='s3://it'\"'\"'s/data' RT_SCALE_DATA=$scratch/data\n" in there
