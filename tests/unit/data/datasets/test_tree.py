from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from rt_scale.data.datasets.tree import fingerprint, follow, open_tree, walk
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
    followed = "bcd" if name == "folder" else "b"
    assert found == {
        "a/1.txt": one,
        "a/soft.txt": ten,
        "hard.txt": ten,
        **{f"{folder}/{file}": content for folder in followed for file, content in (("2.txt", two), ("10.txt", ten))},
    }
    assert {"/".join(parts) for parts in tree.odd} == {"a/up", "gone.txt"} | {*"cd"} - {*followed}


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


MEMBERS: dict[str, int | str] = {"all/1.png": 1, "all/2.png": 2, "top.png": 3}
WHERE = {tuple(name.split("/")): member for name, member in MEMBERS.items()}


@pytest.mark.parametrize("target", ["all/1.png", "./all/1.png", "cat/../all/1.png", "all//1.png", "all\\1.png"])
def test_a_link_is_a_file_at_its_own_path(target: str) -> None:
    found, odd = follow(MEMBERS | {"cat/x.png": target, "cat/y.png": "cat/x.png"})
    assert found == WHERE | {("cat", "x.png"): 1, ("cat", "y.png"): 1}
    assert not odd


@pytest.mark.parametrize("target", ["/etc/passwd", "../etc/passwd", "all", "cat/3.png", "cat/x.png"])
def test_links_that_lead_to_no_file_are_told(target: str) -> None:
    found, odd = follow(MEMBERS | {"cat/x.png": target})
    assert found == WHERE
    assert list(odd) == [("cat", "x.png")]
    assert target in odd["cat", "x.png"]


@pytest.mark.parametrize(
    ("name", "path"), [("./a/b", ("a", "b")), ("/a//b", ("a", "b")), ("a/../b", ("b",)), ("a\\b", ("a", "b"))]
)
def test_names_are_paths(name: str, path: tuple[str, ...]) -> None:
    assert follow({name: 1}) == ({path: 1}, {})


@pytest.mark.parametrize("name", ["../a", "a/../../b", "..\\a"])
def test_names_stay_inside(name: str) -> None:
    found, odd = follow({name: 1})
    assert not found
    assert [*odd.values()] == ["it is outside of the archive"]


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"1")
    seen = {fingerprint(tmp_path), fingerprint(tmp_path)}
    assert len(seen) == 1
    (tmp_path / "sub" / "b").write_bytes(b"")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "sub" / "b").write_bytes(b"22")
    seen.add(fingerprint(tmp_path))
    os.utime(tmp_path / "sub" / "a", (1, 1))
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
    single = fingerprint(tmp_path / "sub" / "a")
    os.utime(tmp_path / "sub" / "a", (2, 2))
    assert fingerprint(tmp_path / "sub" / "a") != single


def test_a_fingerprint_is_what_it_was(tmp_path: Path) -> None:
    """Sets that were prepared before stay what they are asked for again."""
    digest = hashlib.sha256()
    for name in ("z.txt", "a/1.png", "a/2.png", "a/deep/.hidden", "b/1.png"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        status = path.stat()
        digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    assert fingerprint(tmp_path / "set") == digest.hexdigest()


def _odd_folder(root: Path) -> Path:
    """Links of all sorts, a pipe, and a name that is not UTF-8."""
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "1.png").write_bytes(b"1")
    (root / "outside").mkdir()
    (root / "outside" / "2.png").write_bytes(b"2")
    (root / "set").mkdir()
    (root / "set" / "cat").symlink_to(root / "cat")
    (root / "set" / "file.png").symlink_to("../outside/2.png")
    (root / "set" / "gone.png").symlink_to("nowhere.png")
    (root / "set" / "self.png").symlink_to("self.png")
    (root / "set" / "dog").mkdir()
    (root / "set" / "dog" / "up").symlink_to("..")
    (root / "outside" / "back").symlink_to(root / "set")
    (root / "set" / "round").symlink_to(root / "outside")
    os.mkfifo(root / "set" / "pipe.png")
    (root / "set" / os.fsdecode(b"\xff.png")).write_bytes(b"3")
    return root / "set"


def test_links_are_followed_and_end(tmp_path: Path) -> None:
    root = _odd_folder(tmp_path)
    levels = list(walk(root, lambda _: False, _raise))
    files = [os.path.relpath(f"{folder}/{name}", root) for folder, names, _ in levels for name in names]
    assert files == ["file.png", os.fsdecode(b"\xff.png"), "cat/1.png", "round/2.png"]
    odd = {os.path.relpath(f"{folder}/{name}", root): why for folder, _, odd in levels for name, why in odd.items()}
    assert odd.keys() == {"dog/up", "gone.png", "pipe.png", "round/back", "self.png"}
    assert "nowhere.png" in odd["gone.png"]
    assert "lies in" in odd["dog/up"]


def _raise(error: OSError) -> None:
    raise error


def test_a_fingerprint_takes_any_folder(tmp_path: Path) -> None:
    root = _odd_folder(tmp_path)
    before = fingerprint(root)
    assert fingerprint(root) == before
    (root / "gone.png").unlink()
    assert fingerprint(root) != before


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set" / "closed").mkdir(parents=True)

    def scandir(folder: str) -> object:
        if folder.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return real(folder)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    told: list[OSError] = []
    assert [folder for folder, *_ in walk(tmp_path / "set", lambda _: False, told.append)] == [str(tmp_path / "set")]
    assert [error.filename for error in told] == [str(tmp_path / "set" / "closed")]
