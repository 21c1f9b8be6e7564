from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale import __version__
from rt_scale.data.beton import open_beton
from rt_scale.data.prepare import list_prepared, open_prepared, prepare, verify_prepared
from rt_scale.data.prepared import lock
from rt_scale.spec.errors import InputError


def test_opening_what_is_not_prepared_says_what_to_type(data_dir: Path) -> None:
    with pytest.raises(InputError, match=f"rt-scale data prepare cifar10 --data-dir {data_dir}"):
        open_prepared("cifar10", data_dir)
    with pytest.raises(InputError, match=r"Unknown data set 'pets'.*Known: cifar10.*--from FOLDER"):
        open_prepared("pets", data_dir)
    with pytest.raises(InputError, match="cannot name"):
        open_prepared("../x", data_dir)


def test_the_nearest_prepared_name_is_suggested(data_dir: Path, pets: Path) -> None:
    prepare("pets", data_dir, pets)
    with pytest.raises(InputError, match="Did you mean 'pets'"):
        open_prepared("pet", data_dir)


def test_digits_are_prepared_when_they_are_opened(data_dir: Path) -> None:
    assert open_prepared("digits", data_dir).sha256 == prepare("digits", data_dir).sha256


def _meta(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        fields = json.loads((folder / "meta.json").read_text())
        change(fields)
        (folder / "meta.json").write_text(json.dumps(fields))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "meta.json").write_text("{"), "cannot use it"),
        (lambda folder: (folder / "meta.json").write_text("[]"), "cannot use it"),
        (_meta(lambda fields: fields.pop("info")), "cannot use it"),
        (_meta(lambda fields: fields.update(colour=1)), "cannot use it"),
        (
            _meta(lambda fields: fields.update(format=2, version="9.9", more=1)),
            rf"of another version.*rt-scale {__version__} cannot use it \(format: Input should be 1",
        ),
        (_meta(lambda fields: fields["sha256"].popitem()), "checksums are missing"),  # type: ignore[attr-defined]
        (_meta(lambda fields: fields["info"].update(train=17)), "does not fit"),  # type: ignore[attr-defined]
        (_meta(lambda fields: fields["info"].update(size=5)), "does not fit"),  # type: ignore[attr-defined]
        (_meta(lambda fields: fields["info"].update(classes=["a"])), "does not fit"),  # type: ignore[attr-defined]
        (lambda folder: (folder / "test.beton").unlink(), r"test\.beton"),
        (lambda folder: os.truncate(folder / "train.beton", 5000), r"train\.beton"),
    ],
)
def test_damage_is_named_listed_and_mended(
    data_dir: Path, pets: Path, damage: Callable[[Path], object], message: str
) -> None:
    sound = prepare("pets", data_dir, pets).sha256
    damage(data_dir / "pets")
    for action in (open_prepared, verify_prepared, prepare):
        with pytest.raises(InputError, match=message) as caught:
            action("pets", data_dir)
        assert "rt-scale data prepare pets" in str(caught.value)
    assert isinstance(list_prepared(data_dir)["pets"], InputError)
    assert prepare("pets", data_dir, pets).sha256 == sound
    assert not isinstance(list_prepared(data_dir)["pets"], InputError)


def test_a_set_that_an_earlier_version_prepared_is_what_it_was(data_dir: Path, pets: Path) -> None:
    """It recorded how the original was read, too."""
    before = prepare("pets", data_dir, pets)
    read = {"reader": "folder", "package": "", "package_folder": ""}
    lists = {"downloads": [{"file": "a", "url": "b", "md5": ""}], "checksums": [["a", "b"]]}
    _meta(lambda fields: fields["info"].update(read | lists))(before.folder)  # type: ignore[attr-defined]
    after = open_prepared("pets", data_dir)
    assert (after.sha256, after.info, after.request) == (before.sha256, before.info, before.request)


def test_a_changed_pixel_is_found_by_verifying(data_dir: Path, pets: Path) -> None:
    prepared = prepare("pets", data_dir, pets)
    assert verify_prepared("pets", data_dir).sha256 == prepared.sha256
    with open(prepared.folder / "test.beton", "r+b") as file:
        file.seek(prepared.test.layout.data_start)
        byte = file.read(1)[0]
        file.seek(prepared.test.layout.data_start)
        file.write(bytes([byte ^ 1]))
    assert open_beton(prepared.folder / "test.beton").samples == 4
    with pytest.raises(InputError, match=r"test\.beton.*SHA-256.*Delete the folder"):
        verify_prepared("pets", data_dir)


def test_the_list_is_of_what_is_prepared(data_dir: Path, pets: Path) -> None:
    assert list_prepared(data_dir) == {}
    prepare("pets", data_dir, pets)
    open_prepared("digits", data_dir)
    (data_dir / "other").mkdir()
    assert list(list_prepared(data_dir)) == ["digits", "pets"]


def test_a_held_lock_is_refused_or_waited_for(tmp_path: Path) -> None:
    entered = threading.Event()

    def wait() -> None:
        with lock("digits", tmp_path, wait=True):
            entered.set()

    with lock("digits", tmp_path, wait=False):
        with (
            pytest.raises(InputError, match=r"'digits' is being prepared .* by another process"),
            lock("digits", tmp_path, wait=False),
        ):
            pass
        with lock("mnist", tmp_path, wait=False):
            pass
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not entered.wait(0.05)
    waiter.join(10)
    assert entered.is_set()
    with lock("digits", tmp_path, wait=False):
        pass


def test_a_lock_in_an_impossible_place_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"), lock("digits", tmp_path / "file", wait=False):
        pass
