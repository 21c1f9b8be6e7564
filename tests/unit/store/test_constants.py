"""What runs share: written in one piece under a lease, read whole or not at all, here and in an object store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale.spec.errors import Held, RunError, StoreAway
from rt_scale.store.constants import LARGEST_KEPT, LARGEST_SENT, Constant, Damaged
from rt_scale.store.store import Store
from tests.unit.store.objects.fake import Objects

See = Callable[[str], Store]
NAME = "teacher-0123456789abcdef"


def put(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "value").write_text(text)
        (folder / "about").write_text("it")

    return write


def take(folder: Path) -> str:
    return (folder / "value").read_text()


def keep(constant: Constant, text: str = "17") -> None:
    with constant.claim() as lease:
        constant.write(lease, put(text))


@pytest.fixture
def constant(tmp_path: Path) -> Constant:
    return Store(tmp_path / "store").constant(NAME)


def test_what_is_kept_is_read_and_listed(constant: Constant, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert constant.read(take) is None
    assert store.constants() == []
    assert constant.owner is None
    keep(constant)
    assert constant.read(take) == "17"
    assert [each.name for each in store.constants()] == [NAME]
    assert constant.path == tmp_path / "store" / "constants" / NAME
    assert constant.largest == LARGEST_KEPT
    keep(constant, "18")
    assert constant.read(take) == "18"


@pytest.mark.parametrize("damage", ["cut", "changed", "file lost", "list lost", "unreadable"])
def test_damage_is_found_and_written_over(constant: Constant, damage: str) -> None:
    keep(constant)
    value, listed = constant.path / "0" / "value", constant.path / "0" / "manifest.json"
    if damage == "file lost":
        value.unlink()
    elif damage == "list lost":
        listed.unlink()
    elif damage != "unreadable":
        value.write_text({"cut": "1", "changed": "71"}[damage])

    def loader(folder: Path) -> str:
        if damage == "unreadable":
            raise ValueError("no number")
        return take(folder)

    with pytest.raises(Damaged, match=rf"{NAME}/0' is damaged \("):
        constant.read(loader)
    keep(constant)
    assert constant.read(take) == "17"


def test_one_process_computes_it_and_a_killed_one_is_replaced(constant: Constant) -> None:
    with constant.claim():
        assert constant.is_held(60.0)
        with pytest.raises(Held, match=f"{NAME}' is in use: process {os.getpid()} on"):
            constant.claim()
    assert not constant.is_held(60.0)
    (constant.path / ".tmp-0-abcd").mkdir()
    owner = constant.path / "lease" / "1.json"
    owner.write_text(owner.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
    os.utime(owner)  # it was at work a moment ago
    assert not constant.is_held(60.0)
    keep(constant)
    assert not list(constant.path.glob(".tmp-*"))
    assert constant.owner is not None
    assert constant.owner.number == 2


def test_whoever_lost_the_lease_writes_nothing(constant: Constant) -> None:
    lease = constant.claim()
    lease.release()
    with pytest.raises(RunError, match=r"lease of .* was released"):
        constant.write(lease, put("late"))
    assert constant.read(take) is None
    assert not list(constant.path.glob(".tmp-*"))


def test_another_machine_reads_what_was_sent(objects: Objects, machine: See) -> None:
    keep(machine("a").constant(NAME))
    sent = [key for operation, key in objects.asked if operation == "put"]
    folder = f"bucket/store/constants/{NAME}/0"
    assert sorted(sent[:2]) == [f"{folder}/about", f"{folder}/value"]
    assert sent[2:] == [f"{folder}/manifest.json"]  # the list last; no lease
    there = machine("b").constant(NAME)
    assert there.largest == LARGEST_SENT
    with there.claim() as lease:
        assert there.read(take) is None
        there.bring(lease)
    assert there.read(take) == "17"
    store = machine("c")
    store.refresh()
    (listed,) = store.constants()
    assert listed.there is not None
    assert listed.there[0] == sum(len(data) for key, (data, _) in objects.contents.items() if "/constants/" in key)
    listed.forget()
    assert not objects.keys("constants")


@pytest.mark.parametrize("damage", ["value", "manifest.json", "away", "elsewhere"])
def test_what_cannot_be_brought_is_as_if_it_were_not_there(objects: Objects, machine: See, damage: str) -> None:
    keep(machine("a").constant(NAME))
    key = f"bucket/store/constants/{NAME}/0/"
    if damage == "elsewhere":
        listed = objects.contents[f"{key}manifest.json"][0].replace(b'"value"', b'"../value"')
        objects.put(f"{key}manifest.json", listed)
        objects.put(f"bucket/store/constants/{NAME}/value", b"17")
    elif damage != "away":
        objects.put(key + damage, b"damaged")

    def away(operation: str, key: str) -> None:
        if damage == "away":
            raise OSError("no answer")

    objects.before = away
    there = machine("b").constant(NAME)
    with there.claim() as lease:
        there.bring(lease)
        assert there.read(take) is None
        assert sorted(path.name for path in there.path.iterdir()) == ["lease"]
        if damage == "away":
            with pytest.raises(StoreAway):
                there.write(lease, put("17"))
            assert there.read(take) == "17"  # for this machine
        else:
            there.write(lease, put("17"))
            assert objects.contents[f"{key}value"][0] == b"17"
