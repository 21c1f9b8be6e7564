"""Opening what may come from elsewhere: whatever is not a bundle is refused, and leaves nothing behind."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store.bundle import format as bundle_format
from rt_scale.store.bundle.format import MANIFEST
from rt_scale.store.bundle.unpack import open_bundle
from rt_scale.store.store import Store
from tests.unit.store.bundle.bundles import DONE, FAILED, FIRST, Members, plainly, read, rewrite

RUN = f"runs/{DONE.name}"


def test_a_rewritten_one_is_a_bundle_still(sound: Path, tmp_path: Path) -> None:
    """The forger's tool of the tests below works: what they see refused is what they changed."""
    rewrite(tmp_path / "b.zip", read(sound))
    opened = open_bundle(tmp_path / "b.zip", tmp_path / "cache")
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
    rewrite(tmp_path / "b.zip", {**read(sound), name: b"{}"})
    assert f"a file of the name {name!r}, which no bundle has" in refusal(tmp_path / "b.zip")


def test_a_name_with_a_nul_byte(sound: Path, tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    rewrite(tmp_path / "b.zip", {**read(sound), f"{RUN}/failure.jsonX.py": b"{}"})
    data = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(data.replace(b"failure.jsonX.py", b"failure.json\0.py"))
    assert "which no bundle has" in refusal(tmp_path / "b.zip")


def linked(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {name: data for name, data in members.items() if name != f"{RUN}/spec.json"})
    info = zipfile.ZipInfo(f"{RUN}/spec.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, members[f"{RUN}/spec.json"])


def device(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {name: data for name, data in members.items() if name != f"{RUN}/spec.json"})
    info = zipfile.ZipInfo(f"{RUN}/spec.json")
    info.external_attr = (stat.S_IFBLK | 0o600) << 16
    archive.writestr(info, members[f"{RUN}/spec.json"])


def twice(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, members)
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"{RUN}/spec.json", members[f"{RUN}/spec.json"])


def unlisted(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {**members, f"{RUN}/failure.json": b"{}"})


def lacking(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {name: data for name, data in members.items() if name != f"{RUN}/metrics.parquet"})


def changed(archive: zipfile.ZipFile, members: Members) -> None:
    data = members[f"{RUN}/result.json"]
    plainly(archive, {**members, f"{RUN}/result.json": data.replace(b"1.0", b"2.0")})


def longer(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {**members, f"{RUN}/result.json": members[f"{RUN}/result.json"] + b" "})


def otherwise_compressed(archive: zipfile.ZipFile, members: Members) -> None:
    for name, data in members.items():
        archive.writestr(name, data, zipfile.ZIP_BZIP2)


def unsaid(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {name: data for name, data in members.items() if name != MANIFEST})


def bomb(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, {**members, f"{RUN}/metrics.parquet": bytes(200 << 20)})


def remarked(archive: zipfile.ZipFile, members: Members) -> None:
    plainly(archive, members)
    archive.comment = b"hello"


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (linked, rf"{RUN}/spec.json is a link, a device or encrypted"),
        (device, rf"{RUN}/spec.json is a link, a device or encrypted"),
        (twice, rf"it holds {RUN}/spec.json twice"),
        (unlisted, rf"{RUN}/failure.json is not in its manifest"),
        (lacking, rf"{RUN}/metrics.parquet of its manifest is missing"),
        (changed, rf"{RUN}/result.json is not what its manifest says (size or SHA-256)"),
        (longer, rf"{RUN}/result.json is not what its manifest says (size or SHA-256)"),
        (otherwise_compressed, "is compressed in another way than bundles are"),
        (unsaid, "it has no manifest.json"),
        (bomb, "would become 209,"),
        (remarked, "it does not end as a bundle does"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_tampered_with(
    sound: Path, tmp_path: Path, refusal: Callable[[Path], str], write: Any, why: str
) -> None:
    rewrite(tmp_path / "b.zip", read(sound), write, listed=False)
    assert why in refusal(tmp_path / "b.zip")


def test_an_encrypted_member(sound: Path, tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    data = bytearray(sound.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    assert "is a link, a device or encrypted" in refusal(tmp_path / "b.zip")


def test_sizes_that_are_a_lie(sound: Path, tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    """The list says 1 byte, and so does the manifest; the member has many."""
    rewrite(tmp_path / "b.zip", {**read(sound), f"{RUN}/failure.json": b" " * 5000})
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        manifest = archive.read(MANIFEST)
    data = (tmp_path / "b.zip").read_bytes()
    place = data.rindex(f"{RUN}/failure.json".encode()) - 46
    assert data[place : place + 4] == b"PK\1\2"
    assert b"5000" in manifest
    (tmp_path / "b.zip").write_bytes(data[: place + 24] + (1).to_bytes(4, "little") + data[place + 28 :])
    refusal(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("MOST_FILES", 20, "it lists more files than the 20"),
        ("MOST_ENTRY", 0, "it lists more files than the 250,000"),
        ("MOST_TEXT", 100, "has more than 100 bytes"),
        ("MOST_BYTES", 1000, "at most 1,000 are unpacked"),
    ],
)
def test_what_is_too_large(
    sound: Path, refusal: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch, limit: str, value: int, why: str
) -> None:
    monkeypatch.setattr(bundle_format, limit, value)
    assert why in refusal(sound)


def test_the_list_of_a_large_one_is_looked_at_too(
    sound: Path, tmp_path: Path, refusal: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zipfile.ZIP_FILECOUNT_LIMIT", 10)  # so that its end is that of a file with very many members
    rewrite(tmp_path / "b.zip", read(sound))
    assert b"PK\6\6" in (tmp_path / "b.zip").read_bytes()[-98:]
    open_bundle(tmp_path / "b.zip", tmp_path / "cache")
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[-98 + 40 : -98 + 48] = (1 << 40).to_bytes(8, "little")
    (tmp_path / "b.zip").write_bytes(data)
    assert "it lists more files than the 250,000" in refusal(tmp_path / "b.zip")


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
        (lambda old: {**old, "sweeps/other/runs.json": b"[]"}, "holds other sweeps than its manifest names"),
        (lambda old: edited(old, MANIFEST, sweeps=["small", "../../x"]), "holds other sweeps than its manifest names"),
        (lambda old: edited(old, MANIFEST, runs={}), "does not fit together"),
        (lambda old: edited(old, MANIFEST, format="rt-scale bundle 2"), "of another kind of file or version (format: "),
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
    rewrite(tmp_path / "b.zip", change(read(sound)))
    assert any(part in refusal(tmp_path / "b.zip") for part in why.split("|"))


def test_a_manifest_that_is_no_json(sound: Path, tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    rewrite(tmp_path / "b.zip", {**read(sound), MANIFEST: b"\xff"}, listed=False)
    assert "of another kind of file or version" in refusal(tmp_path / "b.zip")


def test_what_is_no_zip_file(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    (tmp_path / "b.zip").write_bytes(b"name: small\n" * 50)
    assert "it does not end as a bundle does" in refusal(tmp_path / "b.zip")
    (tmp_path / "c.zip").write_bytes(b"PK\3\4" + bytes(500) + b"PK\5\6" + bytes(18))
    refusal(tmp_path / "c.zip")


def test_one_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*nowhere\.zip"):
        open_bundle(tmp_path / "nowhere.zip", tmp_path / "cache")
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        open_bundle(tmp_path / "folder.zip", tmp_path / "cache")


def test_the_cache_is_the_users(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_bundle(sound).store.root.parent == tmp_path / "xdg" / "rt-scale-bundles"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_bundle(sound).store.root.parent == tmp_path / "home" / ".cache" / "rt-scale-bundles"


def test_a_cache_that_cannot_be_written_is_bad_input(sound: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        open_bundle(sound, Path("/proc/self/status/cache"))
