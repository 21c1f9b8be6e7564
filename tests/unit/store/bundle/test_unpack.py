"""Opening what may come from elsewhere: whatever is not a bundle is refused, and leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import random
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store.bundle import format as bundle_format
from rt_scale.store.bundle.format import MANIFEST
from rt_scale.store.bundle.unpack import open_bundle
from rt_scale.store.store import Store
from tests.unit.store.bundle.bundles import DONE, FAILED, FIRST, Members, Write, add, plainly, read, rewrite

RUN = f"runs/{DONE.name}"


def test_a_rewritten_one_is_a_bundle_still(sound: Path, tmp_path: Path) -> None:
    """The forger's tool of the tests below works: what they see refused is what they changed."""
    rewrite(tmp_path / "b.tar.gz", read(sound))
    opened = open_bundle(tmp_path / "b.tar.gz", tmp_path / "cache")
    assert opened.store.run(DONE).status().state == "done"
    assert opened.store.run(FAILED).status() == Store(sound.parent / "store").run(FAILED).status()


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "/tmp/outside", f"{RUN}/../../../outside", f"{RUN}\\..\\spec.json", "C:/outside", ".bashrc",
        "runs/other-0123456789abcdef/code.py", f"{RUN}/checkpoints/4/state.pt", f"{RUN}/checkpoints/04/manifest.json",
        f"{RUN}/lease/a.json", f"{RUN}/", "sweeps/small/report/../../x.md", "sweeps/small/report/.hidden",
        "sweeps/../runs.json", "sweeps/small/board/events", f"{RUN}/spec.json\n",
        "runs/distill-0123456789ABCDEF/spec.json", f"{RUN}/events.out.tfevents.\u0661", "a/b/manifest.json",
    ],
)  # fmt: skip
def test_a_name_that_no_bundle_has(sound: Path, tmp_path: Path, refusal: Callable[[Path], str], name: str) -> None:
    rewrite(tmp_path / "b.tar.gz", {**read(sound), name: b"{}"})
    assert f"a file of the name {name!r}, which no bundle has" in refusal(tmp_path / "b.tar.gz")


def without(members: Members, name: str) -> Members:
    return {each: data for each, data in members.items() if each != name}


def of_type(kind: bytes) -> Write:
    """The spec of a run as something else than a file."""

    def write(archive: tarfile.TarFile, members: Members) -> None:
        plainly(archive, without(members, f"{RUN}/spec.json"))
        add(archive, f"{RUN}/spec.json", b"", type=kind, linkname="/etc/passwd")

    return write


def sparse(archive: tarfile.TarFile, members: Members) -> None:
    """A file of a few bytes that becomes one of a terabyte, mostly holes."""
    plainly(archive, without(members, f"{RUN}/spec.json"))
    headers = {"GNU.sparse.map": "0,2", "GNU.sparse.size": str(1 << 40)}
    add(archive, f"{RUN}/spec.json", b"{}", pax_headers=headers)


def twice(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, members)
    add(archive, f"{RUN}/spec.json", members[f"{RUN}/spec.json"])


def unlisted(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, {**members, f"{RUN}/failure.json": b"{}"})


def lacking(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, without(members, f"{RUN}/metrics.parquet"))


def changed(archive: tarfile.TarFile, members: Members) -> None:
    data = members[f"{RUN}/result.json"]
    plainly(archive, {**members, f"{RUN}/result.json": data.replace(b"1.0", b"2.0")})


def longer(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, {**members, f"{RUN}/result.json": members[f"{RUN}/result.json"] + b" "})


def unsaid(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, without(members, MANIFEST))


def bomb(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, {**members, f"{RUN}/metrics.parquet": bytes(16 << 20)})


def long_header(archive: tarfile.TarFile, members: Members) -> None:
    """What tarfile reads into memory as a whole before it tells of a member."""
    add(archive, "header", b"11 a=b\n" + bytes(2 << 20), type=tarfile.XHDTYPE)
    plainly(archive, members)


def renamed(archive: tarfile.TarFile, members: Members) -> None:
    """Its own name is harmless; the one in its extended header is not."""
    plainly(archive, members)
    add(archive, f"{RUN}/failure.json", b"{}", pax_headers={"path": "../../outside"})


def remarked(archive: tarfile.TarFile, members: Members) -> None:
    plainly(archive, members)
    assert archive.fileobj is not None
    archive.fileobj.write(bytes(1024) + b"more")


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (of_type(tarfile.SYMTYPE), f"{RUN}/spec.json is not a regular file"),
        (of_type(tarfile.LNKTYPE), f"{RUN}/spec.json is not a regular file"),
        (of_type(tarfile.BLKTYPE), f"{RUN}/spec.json is not a regular file"),
        (of_type(tarfile.FIFOTYPE), f"{RUN}/spec.json is not a regular file"),
        (of_type(tarfile.DIRTYPE), f"{RUN}/spec.json is not a regular file"),
        (sparse, f"{RUN}/spec.json is not a regular file"),
        (twice, f"it holds {RUN}/spec.json twice"),
        (unlisted, f"{RUN}/failure.json is not in its manifest"),
        (lacking, f"{RUN}/metrics.parquet of its manifest is missing"),
        (changed, f"{RUN}/result.json is not what its manifest says (size or SHA-256)"),
        (longer, f"{RUN}/result.json is not what its manifest says (size or SHA-256)"),
        (unsaid, "it has no manifest.json"),
        (bomb, " bytes would become more than "),
        (long_header, "a header in it is too long"),
        (renamed, "a file of the name '../../outside', which no bundle has"),
        (remarked, "it does not end as a bundle does"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_tampered_with(
    sound: Path,
    tmp_path: Path,
    refusal: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    write: Any,
    why: str,
) -> None:
    monkeypatch.setattr(bundle_format, "FREE_BYTES", 1 << 18)
    rewrite(tmp_path / "b.tar.gz", read(sound), write, listed=False)
    assert why in refusal(tmp_path / "b.tar.gz")


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("MOST_FILES", 20, "it holds more files than the 20"),
        ("MOST_TEXT", 100, "has more than 100 bytes"),
        ("MOST_BYTES", 1000, "would become more than 1,000"),
    ],
)
def test_what_is_too_large(
    sound: Path, refusal: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch, limit: str, value: int, why: str
) -> None:
    monkeypatch.setattr(bundle_format, limit, value)
    assert why in refusal(sound)


def test_nobody_is_at_work_in_one(sound: Path, tmp_path: Path) -> None:
    def dated(archive: tarfile.TarFile, members: Members) -> None:
        for name, data in members.items():
            add(archive, name, data, mtime=time.time(), mode=0o4777, uid=1, uname="root")

    rewrite(tmp_path / "b.tar.gz", read(sound), dated)
    opened = open_bundle(tmp_path / "b.tar.gz", tmp_path / "cache").store
    assert opened.run(FAILED).status().state == "failed"
    mode = (opened.run(DONE).path / "spec.json").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_IWOTH | stat.S_IWGRP)


def edited(members: Members, name: str, **changes: Any) -> Members:
    return {**members, name: json.dumps({**json.loads(members[name]), **changes}).encode()}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda old: edited(old, f"{RUN}/spec.json", kind="supervise"),
            f"the spec of run {DONE.name} is another run's",
        ),
        (lambda old: {**old, f"{RUN}/spec.json": old[f"runs/{FIRST.name}/spec.json"]}, "is another run's"),
        (lambda old: {**old, f"{RUN}/spec.json": b"[" * 100_000}, "do not fit together|does not fit together"),
        (lambda old: {**old, f"{RUN}/spec.json": b"[1]"}, "does not fit together"),
        (lambda old: {**old, "sweeps/small/runs.json": b'["../../x"]'}, "lists what is no run"),
        (lambda old: {**old, "sweeps/small/runs.json": b'{"a": 1}'}, "does not fit together"),
        (lambda old: {**old, "sweeps/small/overrides.json": b"[1]"}, "does not fit together"),
        (lambda old: {**old, "sweeps/other/runs.json": b"[]"}, "holds other sweeps than its manifest names"),
        (lambda old: edited(old, MANIFEST, sweeps=["small", "../../x"]), "holds other sweeps than its manifest names"),
        (lambda old: edited(old, MANIFEST, runs={}), "does not fit together"),
        (lambda old: edited(old, MANIFEST, format="rt-scale bundle 1"), "of another kind of file or version (format: "),
        (lambda old: edited(old, MANIFEST, more=1), "of another kind of file or version (more: "),
        (lambda old: {name: data for name, data in old.items() if name != "sweeps/small/sweep.yaml"}, "lacks its file"),
        (lambda old: {name: data for name, data in old.items() if name != f"{RUN}/spec.json"}, "does not fit together"),
        (
            lambda old: edited(old, f"{RUN}/checkpoints/4/manifest.json", files={"../../../../../etc/passwd": {}}),
            "a checkpoint names files that no bundle has",
        ),
    ],
)
def test_files_that_are_not_what_their_names_promise(
    sound: Path, tmp_path: Path, refusal: Callable[[Path], str], change: Callable[[Members], Members], why: str
) -> None:
    rewrite(tmp_path / "b.tar.gz", change(read(sound)))
    assert any(part in refusal(tmp_path / "b.tar.gz") for part in why.split("|"))


def test_a_manifest_that_is_no_json(sound: Path, tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    rewrite(tmp_path / "b.tar.gz", {**read(sound), MANIFEST: b"\xff"}, listed=False)
    assert "of another kind of file or version" in refusal(tmp_path / "b.tar.gz")


def test_what_is_no_tar_file(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    (tmp_path / "b.tar.gz").write_bytes(b"name: small\n" * 50)
    assert "it is not a valid tar.gz file" in refusal(tmp_path / "b.tar.gz")
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(b"name: small\n" * 5000))
    assert "it is not a valid tar.gz file" in refusal(tmp_path / "c.tar.gz")


def test_one_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*nowhere\.tar.gz"):
        open_bundle(tmp_path / "nowhere.tar.gz", tmp_path / "cache")
    (tmp_path / "folder.tar.gz").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        open_bundle(tmp_path / "folder.tar.gz", tmp_path / "cache")


def test_the_cache_is_the_users(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_bundle(sound).store.root.parent == tmp_path / "xdg" / "rt-scale-bundles"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_bundle(sound).store.root.parent == tmp_path / "home" / ".cache" / "rt-scale-bundles"


def test_a_cache_that_cannot_be_written_is_bad_input(sound: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        open_bundle(sound, Path("/proc/self/status/cache"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_one_that_was_cut_short(sound: Path, tmp_path: Path, refusal: Callable[[Path], str], share: float) -> None:
    data = sound.read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(data[: int(share * (len(data) - 1))])
    refusal(tmp_path / "b.tar.gz")


def test_damage_anywhere_is_refused_or_changes_nothing(sound: Path, tmp_path: Path) -> None:
    """A byte anywhere: in what no reader looks at, the bundle is what it was; else it is refused, in words."""
    generator, data = random.Random(0), sound.read_bytes()
    first = open_bundle(sound, tmp_path / "first")
    files = {path.relative_to(first.store.root): path.read_bytes() for path in first.store.root.rglob("*.*")
             if path.is_file()}  # fmt: skip
    refused = 0
    for number in range(150):
        broken, place = bytearray(data), generator.randrange(len(data))
        broken[place] ^= 1 << generator.randrange(8)
        (tmp_path / "b.tar.gz").write_bytes(broken)
        try:
            root = open_bundle(tmp_path / "b.tar.gz", tmp_path / str(number)).store.root
        except InputError:
            refused += 1
            continue
        for name, expected in files.items():
            assert (root / name).read_bytes() == expected, (place, name)
    assert refused > 100
