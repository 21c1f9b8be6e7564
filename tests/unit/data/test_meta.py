"""The folder of prepared data and its names; what ``meta.json`` holds is in test_prepared.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.data.meta import check_name, default_data_dir
from rt_scale.spec.errors import InputError


def test_the_data_folder_is_given_or_named_or_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RT_SCALE_DATA", raising=False)
    assert default_data_dir() == Path("/home/me/.cache/rt-scale")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_data_dir() == Path("/cache/rt-scale")
    monkeypatch.setenv("RT_SCALE_DATA", "~/data")
    assert default_data_dir() == Path("/home/me/data")
    assert default_data_dir(Path("~/mine")) == Path("/home/me/mine")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", ".hidden", "-rf", "a b", "originals", "a" * 65, "a\n"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a data set"):
        check_name(name)


@pytest.mark.parametrize("name", ["pets", "cifar10_jpeg", "A-1", "a" * 64])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name
