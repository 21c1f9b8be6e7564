from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from rt_scale.data.datasets.tree import open_tree
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


def _linked_folder(path: Path) -> Path:
    """The files, once more by links: to a file, to a folder, through another; and links that lead to none."""
    root = _folder(path)
    (root / "a" / "soft.txt").symlink_to("../b/10.txt")
    os.link(root / "b" / "10.txt", root / "hard.txt")
    (root / "c").symlink_to("b")
    (root / "d").symlink_to("c")
    (root / "gone.txt").symlink_to("a/nothing.txt")
    (root / "a" / "up").symlink_to("..")
    return root


def _linked_tar(path: Path) -> Path:
    root = _linked_folder(path.with_name("in"))
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '')}") as archive:
        archive.add(root, arcname=".")
    return path


def _linked_zip(path: Path) -> Path:
    root = _linked_folder(path.with_name("in"))
    with zipfile.ZipFile(path, "w") as archive:
        for each in sorted(root.rglob("*")):
            name = str(each.relative_to(root))
            if each.is_symlink():
                member = zipfile.ZipInfo(name)
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(member, os.readlink(each))
            elif each.is_file():
                archive.write(each, name)
    return path


@pytest.mark.parametrize("name", ["folder", "a.tar", "a.gz", "a.zip"])
def test_links_are_followed_in_every_container(tmp_path: Path, name: str) -> None:
    make = {"folder": _linked_folder, "a.zip": _linked_zip}.get(name, _linked_tar)
    path = make(tmp_path / name)
    with ExitStack() as stack:
        tree = open_tree(path, tmp_path, stack)
        found = {"/".join(parts): tree.read(parts) for parts in tree.paths}
    two, ten, one = (FILES[each] for each in ("b/2.txt", "b/10.txt", "a/1.txt"))
    assert found == {
        "a/1.txt": one,
        "a/soft.txt": ten,
        "hard.txt": ten,
        **{f"{folder}/{file}": content for folder in "bcd" for file, content in (("2.txt", two), ("10.txt", ten))},
    }
    assert {"/".join(parts) for parts in tree.odd} == {"a/up", "gone.txt"}


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class could be missing without a word otherwise. Tests may run as root, whom no folder refuses."""
    root = _folder(tmp_path / "folder")

    def scandir(folder: str) -> object:
        if folder.endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with ExitStack() as stack, pytest.raises(InputError, match=r"folder/b': Permission denied"):
        open_tree(root, tmp_path, stack)


def test_links_out_of_an_archive_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, (kind, target) in enumerate(
            [(tarfile.SYMTYPE, str(secret)), (tarfile.SYMTYPE, "../../secret.txt"), (tarfile.LNKTYPE, "../secret.txt")]
        ):
            member = tarfile.TarInfo(f"cat/{number}.txt")
            member.type, member.linkname = kind, target
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("../out.txt"))
    with ExitStack() as stack:
        tree = open_tree(tmp_path / "a.tar", tmp_path, stack)
    assert tree.paths == ()
    assert sorted("/".join(parts) for parts in tree.odd) == ["cat/0.txt", "cat/1.txt", "cat/2.txt", "out.txt"]


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("1.txt", b"old"), ("2.txt", b"two"), ("./1.txt", b"new")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("2.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "1.txt"
        archive.addfile(link)
    with ExitStack() as stack:
        tree = open_tree(tmp_path / "a.tar", tmp_path, stack)
        assert [tree.read(parts) for parts in tree.paths] == [b"new", b"new"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_names_that_are_not_utf_8_are_names(tmp_path: Path, kind: str) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / name).write_bytes(b"content")
    path = tmp_path / "in"
    if kind == "tar":
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "in", arcname=".")
    with ExitStack() as stack:
        tree = open_tree(path, tmp_path, stack)
        assert tree.paths == (("a", name),)
        assert tree.read(("a", name)) == b"content"


def test_a_zip_of_macos_has_its_names(tmp_path: Path) -> None:
    """In UTF-8, and not marked so."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("caf\xc3\xa9/1.txt".encode("latin-1").decode("cp437"), b"one")
    content = (tmp_path / "a.zip").read_bytes()
    marked = "caf\xc3\xa9".encode("latin-1").decode("cp437").encode()
    assert marked in content
    plain = bytearray(content.replace(marked, b"caf\xc3\xa9" + b"_" * (len(marked) - 5)))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        plain[plain.index(signature) + offset + 1] &= ~0x08
    (tmp_path / "a.zip").write_bytes(plain)
    with ExitStack() as stack:
        tree = open_tree(tmp_path / "a.zip", tmp_path, stack)
        assert tree.paths[0][0].startswith("café")
        assert tree.read(tree.paths[0]) == b"one"


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
