"""Encoders as folders: each is loaded by the code of its card in a process without rt-scale, and embeds as the run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rt_scale.data.inputs import to_inputs
from rt_scale.experiments.networks import load_network
from rt_scale.models import own
from rt_scale.models.networks import build_network, to_device
from rt_scale.plugins import find_source
from rt_scale.report.weights import write_weights
from rt_scale.spec.document import set_dotted
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.training.checkpoint import save_weights
from rt_scale.training.precision import parameter_dtype
from tests.records import DATA, run_record, run_result

NOWHERE = Path("nowhere")
TINY = """from torch import nn

class Tiny(nn.Module):
    def __init__(self, width, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3)

    def forward(self, images):
        return self.first(images).relu().mean((2, 3))
"""
TINY_SHA256 = hashlib.sha256(TINY.encode()).hexdigest()
ENCODERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vgg11 grey": ("torchvision", 1, {"encoder.name": "vgg11"}),
    "vgg13_bn": ("torchvision", 3, {"encoder.name": "vgg13", "encoder.norm": "batch"}),
    "resnet18": ("torchvision", 3, {"encoder.name": "resnet18"}),
    "resnet18 group8, float64": (
        "torchvision", 1, {"encoder.name": "resnet18", "encoder.norm": "group8", "precision": "float64"},
    ),
    "resnet18 layer": ("huggingface", 3, {"encoder.name": "resnet18", "encoder.norm": "layer"}),
    "resnet50 instance": ("safetensors", 3, {"encoder.name": "resnet50", "encoder.norm": "instance"}),
    "resnet18 none": ("huggingface", 3, {"encoder.name": "resnet18", "encoder.norm": "none"}),
    "vgg11 group8": ("safetensors", 3, {"encoder.name": "vgg11", "encoder.norm": "group8"}),
    "convnet, resized": ("huggingface", 3, {"encoder.name": "convnet_8_3", "encoder.norm": "layer", "data.size": 24}),
    "mlp": ("safetensors", 1, {"encoder.name": "mlp_16_2"}),
    "flatten": ("safetensors", 1, {"encoder.name": "flatten"}),
    "resnet20": ("safetensors", 3, {"encoder.name": "resnet20"}),
    "resnet18 narrow": ("huggingface", 3, {"encoder.name": "resnet18", "encoder.width": 0.25}),
    "preresnet18": ("safetensors", 3, {"encoder.name": "preresnet18", "encoder.width": 0.25}),
    "vit": ("huggingface", 3, {"encoder.name": "vit_tiny", "encoder.width": 0.5}),
    "vit_shared": (
        "safetensors", 3, {"encoder.name": "vit_tiny_shared", "encoder.width": 0.5, "encoder.attention": "heads"},
    ),
    "a plugin": (
        "safetensors", 3,
        {"encoder": {"name": "nets_of_mine:Tiny", "args": {"width": 6}, "source": TINY_SHA256}},
    ),
    "torchvision's, small stem": (
        "torchvision", 1,
        {"encoder": {"name": "torchvision.models:resnet18", "args": {"stem": "small", "zero_init_residual": False}}},
    ),
    "torchvision's": ("torchvision", 3, {"encoder": {"name": "torchvision.models:squeezenet1_1"}, "data.size": 64}),
}  # fmt: skip
CHILD = """
import os, sys
class Refuse:
    def find_spec(self, name, *_):
        assert not name.startswith("rt_scale"), name
sys.meta_path.insert(0, Refuse())
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    os.chdir(folder)
    sys.path[0] = folder
    sys.modules.pop("encoder", None)
    names = {}
    exec(open("code.py").read(), names)
    assert len(names["embeddings"]) == 2
    with torch.inference_mode():
        inputs = names["preprocess"](load_file("images")["images"])
        save_file({"inputs": inputs.contiguous(), "embeddings": names["encoder"](inputs).clone()}, "got")
assert "rt_scale" not in sys.modules
"""


def spec_of(changes: Mapping[str, Any]) -> RunSpec:
    document: dict[str, Any] = {"data": {"name": "digits"}, "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 8}}
    for key, value in changes.items():
        document = set_dotted(document, key, value)
    encoder = document["encoder"]
    if encoder["name"].startswith("torchvision"):
        document = {**document, "encoder": {**encoder, "source": find_source(encoder["name"]).sha256}}
    return RunSpec.model_validate(document)


def begun(
    store: Store, changes: Mapping[str, Any], channels: int = 3, size: int = 32, steps: tuple[int, ...] = (0, 7)
) -> RunDir:
    """A run with checkpoints of random networks, whose running statistics are random, too."""
    spec = spec_of(changes)
    run_dir = store.run(spec)
    images = {
        "channels": channels,
        "size": size,
        "mean": [0.4, 0.5, 0.3][:channels],
        "std": [0.2, 0.3, 0.25][:channels],
    }

    def network(seed: int) -> torch.nn.Module:
        draw = torch.Generator().manual_seed(seed)
        made = build_network(spec, channels, spec.data.size or size, draw).to(parameter_dtype(spec.precision))
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=draw), alpha=0.01)
        return made

    def write(step: int) -> Any:
        def into(folder: Path) -> None:
            save_weights(folder / "student.safetensors", network(step))
            if not step:
                save_weights(folder / "teacher.safetensors", network(100))

        return into

    with run_dir.acquire():
        run_dir.write_spec(spec)
        run_dir.write_record(run_record({}, data={**DATA, "images": images}))
        for step in steps:
            run_dir.checkpoints.save(step, write(step), lambda: None)
    return run_dir


def code_of(folder: Path) -> str:
    """The Python code of the card."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return str(code)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def loaded(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[RunDir, Path]]]:
    """Every encoder's run and its folder, where one process without rt-scale has embedded random images."""
    place, mine = tmp_path_factory.mktemp("written"), tmp_path_factory.mktemp("mine")
    (mine / "nets_of_mine.py").write_text(TINY)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(mine)
    found = {}
    for number, (label, (form, channels, changes)) in enumerate(ENCODERS.items()):
        run_dir, folder = begun(store, changes, channels, steps=(7,)), place / str(number)
        write_weights(run_dir, folder, form, NOWHERE)  # type: ignore[arg-type]
        pixels = torch.randint(0, 256, (5, 32, 32, channels), generator=torch.Generator().manual_seed(number))
        save_file({"images": pixels.to(torch.uint8)}, folder / "images")
        (folder / "code.py").write_text(code_of(folder))
        found[label] = run_dir, folder
    folders = [str(folder) for _, folder in found.values()]
    environment = {**os.environ, "PYTHONPATH": str(mine)}
    subprocess.run([sys.executable, "-c", CHILD, *folders], check=True, timeout=300, env=environment)
    yield found
    monkeypatch.undo()


def embedded(run_dir: RunDir, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and embeddings as the run computes them."""
    spec, record = run_dir.spec(), run_dir.record()
    assert spec is not None
    assert record is not None
    images = record.data.images
    assert images is not None
    value = RunSpec.model_validate(spec)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = to_device(load_network(run_dir, "student", NOWHERE), "cpu", channels_last=True)
        inputs = to_inputs(pixels, images.mean, images.std, value.data.size, parameter_dtype(value.precision))
        with torch.inference_mode():
            return inputs, network.encoder(inputs)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("label", ENCODERS)
def test_the_card_loads_what_the_run_has(loaded: dict[str, tuple[RunDir, Path]], label: str) -> None:
    run_dir, folder = loaded[label]
    inputs, embeddings = embedded(run_dir, load_file(folder / "images")["images"])
    got = load_file(folder / "got")
    assert torch.equal(got["inputs"], inputs)
    assert got["embeddings"].dtype == embeddings.dtype
    assert torch.equal(got["embeddings"], embeddings)
    if label != "flatten":
        assert len(torch.unique(embeddings)) > 5


@pytest.mark.parametrize("label", ENCODERS)
def test_a_folder_holds_no_pickle_and_says_what_it_is(loaded: dict[str, tuple[RunDir, Path]], label: str) -> None:
    run_dir, folder = loaded[label]
    form, channels, changes = ENCODERS[label]
    names = {path.name for path in folder.iterdir()} - {"images", "got", "code.py", "__pycache__"}
    assert names - {"encoder.py"} == {"model.safetensors", "config.json", "README.md"}
    card = (folder / "README.md").read_text()
    needs = "nets_of_mine" if label == "a plugin" else "torchvision"
    assert ("encoder.py" in names) != (needs in code_of(folder))
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["run"], config["network"], config["step"]) == (run_dir.name, "student", 7)
    assert (config["size"], config["channels"]) == (changes.get("data.size", 32), channels)
    assert config["dtype"] == changes.get("precision", "float32")
    assert config["encoder"]["name"] == (changes.get("encoder.name") or changes["encoder"]["name"])
    (spec,) = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert RunSpec.model_validate(yaml.safe_load(spec)).name == run_dir.name
    head = re.match(r"---\n(.*?)---\n", card, re.DOTALL)
    assert (head is not None) == (form == "huggingface")
    if head:
        assert yaml.safe_load(head[1])["library_name"] == "pytorch"
    for part in ("## Licence", DATA["sha256"], "not finished", "mean 0.4"):
        assert part in card


def test_torchvisions_own_models_take_the_state_dict(loaded: dict[str, tuple[RunDir, Path]]) -> None:
    vgg = torchvision.models.vgg13_bn(weights=None)
    missing, unexpected = vgg.load_state_dict(load_file(loaded["vgg13_bn"][1] / "model.safetensors"), strict=False)
    assert {name.partition(".")[0] for name in missing} == {"classifier"}
    assert not unexpected
    state, given = (
        torchvision.models.resnet18(weights=None).state_dict(),
        load_file(loaded["resnet18"][1] / "model.safetensors"),
    )
    assert state.keys() - given.keys() == {"fc.weight", "fc.bias"}
    assert {name for name in given if given[name].shape != state[name].shape} == {"conv1.weight"}


def test_a_plugin_is_not_imported(
    loaded: dict[str, tuple[RunDir, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "load", lambda *_: pytest.fail("it was imported"))
    write_weights(loaded["a plugin"][0], tmp_path / "out", "huggingface", NOWHERE)
    assert TINY_SHA256 in (tmp_path / "out" / "README.md").read_text()


def test_network_and_step_are_chosen(store: Store, tmp_path: Path) -> None:
    run_dir = begun(store, {"encoder.name": "convnet_4_2"}, steps=(0, 3, 7))
    for role, step, file in (("student", 3, "3/student"), ("init", None, "0/student"), ("teacher", None, "0/teacher")):
        folder = tmp_path / f"{role}{step}"
        write_weights(run_dir, folder, "safetensors", NOWHERE, role, step)  # type: ignore[arg-type]
        saved = load_file(run_dir.path / "checkpoints" / f"{file}.safetensors")
        got = load_file(folder / "model.safetensors")
        assert got.keys() == {name.removeprefix("encoder.") for name in saved if name.startswith("encoder.")}
        assert all(torch.equal(got[name], saved[f"encoder.{name}"]) for name in got)
        config = json.loads((folder / "config.json").read_text())
        assert (config["network"], config["step"]) == (role, step or 0)


def test_a_finished_run_has_its_result_on_the_card(store: Store, tmp_path: Path) -> None:
    run_dir = begun(store, {"encoder.name": "convnet_4_1"})
    with run_dir.acquire():
        run_dir.complete(run_result({"probe/student/linear": 0.512345678}, name=run_dir.name, steps=7))
    written = write_weights(run_dir, tmp_path / "out", "huggingface", NOWHERE)
    assert {path.name for path in written} == {path.name for path in (tmp_path / "out").iterdir()}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "after 7 steps" in card
    assert "| probe/student/linear | 0.512346 |" in card


def test_what_cannot_be_written_is_refused(store: Store, tmp_path: Path) -> None:
    for changes in ({"encoder.name": "resnet20"}, {"encoder.name": "vgg11", "encoder.norm": "layer"},
                    {"encoder.name": "resnet18", "encoder.width": 0.5}, {"encoder.name": "vit_tiny"}):  # fmt: skip
        with pytest.raises(InputError, match=r"torchvision has no encoder .*--as safetensors"):
            write_weights(begun(store, changes), tmp_path / "out", "torchvision", NOWHERE)
    run_dir = begun(store, {"encoder.name": "mlp_8_1"})
    with pytest.raises(InputError, match="no student at step 5"):
        write_weights(run_dir, tmp_path / "out", "safetensors", NOWHERE, step=5)
    assert not (tmp_path / "out").exists()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        write_weights(run_dir, tmp_path, "safetensors", NOWHERE)
    (run_dir.path / "checkpoints" / "7" / "student.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="cannot be loaded"):
        write_weights(run_dir, tmp_path / "out", "safetensors", NOWHERE)
