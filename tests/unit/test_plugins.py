"""Plugins are found in their files without running anything, and imported with every failure in one paragraph."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from rt_scale import plugins
from rt_scale.plugins import Names, Plugin, check_arguments, differences, find_source, load, shipped
from rt_scale.spec.errors import InputError
from tests.plugins import Write, write

__all__ = ["write"]
DANGEROUS = "open('ran', 'w').close()\n"


def test_a_plugin_is_found_and_its_package_never_runs(write: Write, tmp_path: Path) -> None:
    write("mine_a/__init__.py", DANGEROUS)
    write("mine_a/deep/__init__.py", DANGEROUS)
    file = write("mine_a/deep/nets.py", DANGEROUS + "class Tiny: pass\nwide = lambda: 0\n")
    found = find_source("mine_a.deep.nets:Tiny")
    assert found == (file, file.read_text(), hashlib.sha256(file.read_bytes()).hexdigest())
    assert find_source("mine_a.deep.nets:wide") == found
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_init_is_a_package_too(write: Write) -> None:
    file = write("mine_b/deep/nets.py", "class Tiny: pass\n")
    assert find_source("mine_b.deep.nets:Tiny").path == file


@pytest.mark.parametrize("text", ["from .nets import Tiny", "from mine_c.nets import Tiny", "from .nets import *",
                                  "try:\n    from .nets import Tiny\nexcept ImportError:\n    pass"])  # fmt: skip
def test_what_a_package_imports_is_of_the_file_that_defines_it(write: Write, text: str) -> None:
    write("mine_c/__init__.py", text)
    file = write("mine_c/nets.py", "class Tiny: pass\n")
    assert find_source("mine_c:Tiny").path == file


def test_modules_that_import_from_each_other_end(write: Write) -> None:
    write("mine_d.py", "from mine_e import Tiny\n")
    file = write("mine_e.py", "from mine_d import *\nfrom mine_d import Tiny\n")
    assert find_source("mine_e:Tiny").path in (file, file.parent / "mine_d.py")
    with pytest.raises(InputError, match="Unknown attribute"):
        find_source("mine_e:Other")


def test_a_library_is_found_by_its_own_file() -> None:
    assert find_source("torchvision.models:resnet18").path.name == "resnet.py"
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        find_source("torchvision.models:resnet81")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("mine_missing:Tiny", "no module 'mine_missing'"),
        ("mine_f.deep:Tiny", "no module 'mine_f.deep'"),
        ("mine_f:Tinny", "Did you mean 'Tiny'"),
        ("mine_g:Tiny", "line 2 is not Python"),
        ("sys:exit", "source of the module 'sys' cannot be found"),
        ("__main__:Tiny", "put it into a file"),
        ("timm_missing.models:x", r"rt_scale\[timm\]"),
        ("mine_f:", "does not name a plugin"),
        ("mine f:Tiny", "does not name a plugin"),
    ],
)
def test_what_cannot_be_found_is_refused(write: Write, reference: str, words: str) -> None:
    write("mine_f.py", "class Tiny: pass\n")
    write("mine_g.py", "class Tiny: pass\ndef (:\n")
    with pytest.raises(InputError, match=words):
        find_source(reference)


def test_a_plugin_is_imported_from_the_current_folder(write: Write) -> None:
    write("mine_h.py", "def double(x): return 2 * x\n")
    sha256 = find_source("mine_h:double").sha256
    assert load("mine_h:double", sha256)(3) == 6
    assert load("mine_h:double", sha256) is load("mine_h:double")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nTiny = 1 / 0", "line 2.*ZeroDivisionError"),
        ("import sys\nclass Tiny: pass\nsys.exit(3)", "line 3.*ends Python"),
        ("class Tiny: pass\nprint('hello there')", "prints.*hello there"),
        ("import mine_not_there\nclass Tiny: pass", "No module named 'mine_not_there'"),
        ("Tiny = 3", "no class and no function, but 3"),
    ],
)
def test_a_plugin_that_fails_on_import_is_refused(
    write: Write, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    write("mine_i.py", text)
    for _ in range(2):  # the second time, too
        with pytest.raises(InputError, match=words):
            load("mine_i:Tiny")
    assert capsys.readouterr().out == ""


def test_a_changed_source_is_refused(write: Write) -> None:
    write("mine_j.py", "class Tiny: pass\n")
    before = find_source("mine_j:Tiny").sha256
    first = load("mine_j:Tiny", before)
    write("mine_j.py", "class Tiny: width = 1\n")
    assert load("mine_j:Tiny", before) is first  # a process that has imported it continues
    with pytest.raises(InputError, match="start Python anew"):
        load("mine_j:Tiny")
    plugins._loaded.clear()
    with pytest.raises(InputError, match="is another here than the spec names"):
        load("mine_j:Tiny", before)


def test_arguments_are_those_of_the_signature() -> None:
    def tiny(channels: int, *, width: int, depth: int = 1) -> None: ...

    def probe(train: int, test: int, /, k: int, seed: int = 0) -> None: ...

    def anything(first: int, **rest: int) -> None: ...

    check_arguments("it", tiny, {"width": 3}, ["channels"])
    check_arguments("it", probe, {"k": 3}, ["seed"], positional=2)
    check_arguments("it", anything, {"whatever": 3}, [], positional=1)
    for args, words in (
        ({"widht": 3}, "did you mean 'width'"),
        ({"width": 3, "channels": 1}, "gives it itself"),
        ({}, "missing a required.*'width'"),
    ):
        with pytest.raises(InputError, match=words):
            check_arguments("it", tiny, args, ["channels"])
    with pytest.raises(InputError, match="known: k"):
        check_arguments("it", probe, {"test": 3}, ["seed"], positional=2)


class Point:
    """An entry point as packages register it."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value
        self.dist = type("Distribution", (), {"name": "a-package"})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose encoder ``Tiny`` and ``resnet18`` are registered."""

    def entry_points(group: str, **wanted: str) -> list[Point]:
        points = (
            [Point("Tiny", "mine_k:Tiny"), Point("resnet18", "mine_k:Tiny")] if group == "rt_scale.encoders" else []
        )
        return [each for each in points if each.name == wanted.get("name", each.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_short_names_are_of_imports_and_entry_points(write: Write, tmp_path: Path, installed: None) -> None:
    write("mine_k.py", DANGEROUS + "class Tiny: pass\n")
    write(
        "mine_l.py", DANGEROUS + "from json import dumps\nclass Wide: pass\ndef _hidden(): pass\nclass resnet18: pass\n"
    )
    sha256 = find_source("mine_k:Tiny").sha256
    assert Names().find("encoder", "Tiny") == Plugin("mine_k:Tiny", sha256)
    assert Names().find("probe", "Tiny") is None
    assert Names().find("encoder", "resnet18", builtin=True) is None  # no installed package replaces it
    names = Names(["mine_l", "mine_k"])
    wide = names.find("encoder", "Wide")
    assert wide is not None
    assert wide.reference == "mine_l:Wide"
    assert [names.find("encoder", name) for name in ("dumps", "_hidden")] == [None, None]
    assert names.find("encoder", "Tiny") == Plugin("mine_k:Tiny", sha256)  # twice the same is one
    assert names.found["encoder Wide"] == wide
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="rt-scale's own and mine_l:resnet18"):
        names.find("encoder", "resnet18", builtin=True)
    write("mine_m.py", "class Tiny: pass\n")
    with pytest.raises(InputError, match=r"mine_m:Tiny \(--import mine_m\) and mine_k:Tiny \(the package a-package\)"):
        Names(["mine_m"]).find("encoder", "Tiny")
    assert "Did you mean 'Wide'" in str(names.unknown("encoder", "Wied", ["vgg11"]))


def test_what_was_found_before_is_not_looked_for(write: Write) -> None:
    known = Plugin("mine_gone:Tiny", "0" * 64)
    names = Names(["mine_gone"], known={"encoder Tiny": known})
    assert names.find("encoder", "Tiny") == known
    assert names.find("dataset", "digits") is None  # the module need not be there


def test_neither_torch_nor_ray_is_needed() -> None:
    code = "import sys, rt_scale.plugins; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_other_machines_need(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("mine_n/__init__.py", "")
    write("mine_n/deep/nets.py", "class Tiny: pass\n")
    file = write("mine_o.py", "class Tiny: pass\n")
    references = ["mine_n.deep.nets:Tiny", "mine_o:Tiny", "mine_o:Other", "torchvision.models:resnet18"]
    assert shipped(references) == [tmp_path / "mine_n", file]
    with monkeypatch.context() as patched:
        patched.setattr(plugins, "MOST_SHIPPED", 10)
        with pytest.raises(InputError, match=r"'mine_n' cannot be sent.* bytes, more than 10"):
            shipped(references)
    for place in ("one", "two"):
        write(f"{place}/mine_p/nets.py", "class Tiny: pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "one"), str(tmp_path / "two")])
    with pytest.raises(InputError, match="lies in several folders"):
        shipped(["mine_p.nets:Tiny"])


def test_what_a_machine_lacks_or_has_otherwise(write: Write) -> None:
    write("mine_q.py", "class Tiny: pass\n")
    same, gone = Plugin("mine_q:Tiny", find_source("mine_q:Tiny").sha256), Plugin("mine_r:Tiny", "0" * 64)
    assert differences([same, gone, Plugin("mine_q:Wide", same.source)]) == {
        "mine_r:Tiny": "is missing",
        "mine_q:Wide": "is missing",
    }
    write("mine_q.py", "class Tiny: width = 2\n")
    other = find_source("mine_q:Tiny").sha256[:12]
    assert differences([same]) == {"mine_q:Tiny": f"has another source (SHA-256 {other}, not {same.source[:12]})"}
