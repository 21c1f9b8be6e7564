from __future__ import annotations

import io
import os
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from rt_scale.data.sources.tree import open_tree
from rt_scale.spec.errors import InputError, RunError

FILES = {"b/2.txt": b"two" * 1000, "b/10.txt": b"ten", "a/1.txt": b"one", ".hidden/x": b"", "b/.y": b""}
VISIBLE = (("a", "1.txt"), ("b", "10.txt"), ("b", "2.txt"))


def _folder(path: Path) -> Path:
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def _tar(path: Path) -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("a/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/", "")
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["folder", "a.tar", "a.gz", "a.bz2", "a.xz", "a.zip"])
def test_every_container_lists_and_reads_alike(tmp_path: Path, name: str) -> None:
    make = {"folder": _folder, "a.zip": _zip}.get(name, _tar)
    path = make(tmp_path / name)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with ExitStack() as stack:
        tree = open_tree(path, scratch, stack)
        assert tree.root == path
        assert tree.paths == VISIBLE
        assert [tree.read(parts) for parts in tree.paths] == [FILES["/".join(parts)] for parts in VISIBLE]
    assert bool(list(scratch.iterdir())) is (name in ("a.gz", "a.bz2", "a.xz"))


@pytest.mark.parametrize("name", ["../escape/x.txt", "/abs/x.txt"])
def test_no_member_is_ever_written(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        archive.addfile(member)
    before = sorted(tmp_path.rglob("*"))
    with ExitStack() as stack:
        open_tree(tmp_path / "a.tar", tmp_path, stack)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["a.gz", "a.xz", "a.zip"])
def test_truncated_archives_are_refused(tmp_path: Path, name: str) -> None:
    path = (_zip if name == "a.zip" else _tar)(tmp_path / name)
    os.truncate(path, path.stat().st_size // 2)
    with ExitStack() as stack, pytest.raises(InputError, match=name):
        open_tree(path, tmp_path, stack)


@pytest.mark.parametrize("content", [b"", b"some text", b"\xff\xd8\xff\xe0 a picture"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with ExitStack() as stack, pytest.raises(InputError, match="neither a folder nor a tar or zip"):
        open_tree(tmp_path / "file", tmp_path, stack)


def test_a_full_disk_names_the_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _tar(tmp_path / "a.xz")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "archive.tar").symlink_to("/dev/full")
    with ExitStack() as stack, pytest.raises(RunError, match=r"Disk full.*archive\.tar"):
        open_tree(path, tmp_path / "full", stack)
