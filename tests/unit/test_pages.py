"""README and docs/: their size and links, and that their YAML and their commands, as those of help texts, are taken."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import rt_scale
from rt_scale.cli import app
from rt_scale.plan import measure
from rt_scale.plan import plan as plan_module
from rt_scale.spec.document import build_run, resolve_same
from rt_scale.spec.sweep import SweepSpec, load_run, load_sweep
from rt_scale.spec.yaml_files import parse_yaml
from tests.unit.cli.tree import every_command

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MARKS = ("# needs a cluster\n", "# needs GPUs\n")
STANDS_FOR = {
    "SWEEP": "sweeps/demo.yaml", "KIND": "slurm_array", "URL": "http://localhost:1/", "RUN": "distill-0123", "N": "1",
    "PLANE": "landscape-0123", "FILE": "cluster/aws.yaml", "FOLDER_OR_ARCHIVE": "images.zip", "FOLDER": "figures",
}  # fmt: skip
"""What words in capitals in a command stand for."""
HERE = {"bash", "export", ".venv/bin/python", "git", "cd", "rt-scale", ".venv/bin/rt-scale"}
"""What a block without the mark may call."""
EXECUTED = ("schema", "sweeps", "status", "gc", "data list", "plan")
"""Commands that are executed here, as they take no time; sweeps and reports are executed by tests/integration."""
BASE: dict[str, Any] = {
    "data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "projector": {"hidden": [32], "bottleneck": 16},
}  # fmt: skip


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and text of the blocks in a language."""
    return [
        (page.relative_to(ROOT).as_posix(), text)
        for page in PAGES
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a line of a shell, and of those within its quoted words."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for joined, words in itertools.groupby(lexer, key=lambda word: not set(word) - set("();<>|&")):
        found = list(words)
        if not joined:
            yield found
        for inner in found:
            if " rt-scale " in f" {inner}" and not joined:
                yield from commands(inner)


def lines(page_text: str) -> list[str]:
    return [line for line in page_text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


EXAMPLES = [
    (" ".join(["rt-scale", *words, "--help"]), command.epilog.partition("\n")[2])
    for words, command in every_command()
    if command.epilog
]
"""Command and the examples of its help."""
CALLS = [
    (page, [STANDS_FOR.get(word, word) for word in words[place + 1 :]])
    for page, text in [*blocks("bash"), *EXAMPLES]
    for line in lines(text)
    for words in commands(line)
    for place, word in enumerate(words)
    if word in ("rt-scale", ".venv/bin/rt-scale") and place + 1 < len(words) and words[0] != "aws" and "$@" not in words
]


def executed(words: list[str]) -> bool:
    """Whether the command is executed here: it takes no time, and its store and data sets are not elsewhere."""
    away = any(word.startswith(("s3:", "/shared", "--watch")) or "/fig1" in word for word in words)
    return " ".join(words).startswith(EXECUTED) and not away


def test_the_readme_is_one_screen_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 6000
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == rt_scale.__version__
    assert f"version = {{{rt_scale.__version__}}}" in (ROOT / "README.md").read_text()
    assert cited["preferred-citation"]["title"] == "Random Teachers are Good Teachers"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_fields_is_that_of_the_models() -> None:
    module = load(DOCS / "write_fields.py")
    text = module.page()
    assert text == (DOCS / "fields.md").read_text(), "run docs/write_fields.py"
    assert [path for path in module.UNIT_OF if f"`{path.rpartition('.')[2]}`" not in text] == []


def test_every_page_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text()
    linked = set(re.findall(r"\]\((\S+\.md)\)", index))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES[1:]}
    assert {page for page in pages if "clusters/" not in page} - linked == {"index.md"}
    for page in pages - {"index.md"}:
        assert re.search(rf"^(.+ <)?{page.removesuffix('.md')}>?$", index, re.MULTILINE), page


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_files_on_pages_are_specs_sweeps_or_parts_of_them(
    page: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCS / "examples")
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    document = parse_yaml(text, page)
    if "base" in document:
        SweepSpec.model_validate(document)
    elif "explore" not in document and not set(document) & set(SweepSpec.model_fields) - {"seeds"}:
        if str(document.get("kind", "distill")) in ("distill", "supervise"):
            document = {**BASE, **document}
        from rt_scale import load as read

        read(document) if ":" in text.replace(": ", "") else build_run(resolve_same(document), page)


def test_commands_are_found() -> None:
    assert len(CALLS) > 80
    assert ("README.md", ["demo"]) in CALLS
    assert ("rt-scale data verify --help", ["data", "verify", "cifar10"]) in CALLS
    assert ("docs/clusters/aws.md", ["cluster", "check", "aws.yaml", "sweeps/paper/fig1.yaml"]) in CALLS


@pytest.mark.parametrize(
    ("page", "words"), CALLS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_are_what_rt_scale_takes(page: str, words: list[str], tmp_path: Path) -> None:
    command: Any = typer.main.get_command(app)
    given = list(words)
    while hasattr(command, "commands"):
        command = command.commands[given.pop(0)]
    context = command.make_context("rt-scale", given, resilient_parsing=False)
    overrides = context.params.get("overrides") or []
    values = [each for value in context.params.values() for each in (value if isinstance(value, list) else [value])]
    named = [str(value) for value in values if isinstance(value, str | Path)]
    for name in named:
        if re.match(r"(sweeps|cluster|docs|benchmarks)/[^*]+$", name):
            assert (ROOT / name).exists(), name
        if re.match(r"sweeps/[^*]+\.yaml$", name) and command.name in ("sweep", "plan"):
            load_sweep(ROOT / name, overrides)
        if re.match(r"(paper|small)/", name):
            load_sweep(ROOT / "sweeps" / f"{name}.yaml", overrides)
        if command.name == "demo":
            load_sweep(ROOT / "sweeps" / "demo.yaml", overrides)
        if name == "spec.yaml" and command.name == "run":
            (tmp_path / name).write_text(next(text for page, text in blocks("yaml") if text.startswith("# spec.yaml")))
            load_run(tmp_path / name, overrides)


@pytest.mark.parametrize("text", sorted({" ".join(words) for _, words in CALLS if executed(words)}))
def test_commands_that_take_no_time_work(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(plan_module, "START", 5.0)
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, text.split())
    assert done.exit_code == 0, done.output
    assert done.output


def test_blocks_that_need_more_than_this_machine_say_so() -> None:
    unmarked = []
    for page, text in blocks("bash"):
        called = {words[0] for line in lines(text) for words in commands(line) if "=" not in words[0]}
        if not text.startswith(MARKS) and called - HERE:
            unmarked.append((page, called - HERE))
    assert unmarked == []
