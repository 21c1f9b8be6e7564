from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store.objects.store import open_place
from rt_scale.store.objects.uri import clean_address, default_place, is_address, mirror_folder


def test_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RT_SCALE_STORE", raising=False)
    assert default_place() == "rt-store"
    monkeypatch.setenv("RT_SCALE_STORE", "s3://bucket/runs")
    assert default_place() == "s3://bucket/runs"
    assert default_place("given") == default_place(Path("given")) == "given"


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket//a/b/", "s3://bucket/a/b"),
        ("gs://bucket/a?scheme=http", "gs://bucket/a?scheme=http"),
        (
            "s3://bucket/a?scheme=http&endpoint_override=http%3A%2F%2Fhost%3A5000",
            "s3://bucket/a?endpoint_override=http://host:5000&scheme=http",
        ),
    ],
)
def test_one_form_of_an_address(given: str, clean: str) -> None:
    assert is_address(given)
    assert clean_address(given) == clean
    assert clean_address(clean) == clean


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("s3://AKIASECRET:sEcReT@bucket/a", "holds a user name or a key before an '@'"),
        ("s3://sEcReT@bucket/a", "holds a user name or a key before an '@'"),
        ("s3://bucket/a?endpoint_override=http://me:sEcReT@host", "holds a user name or a key before an '@'"),
        ("s3://bucket/a?endpoint_override=http%3A%2F%2Fme:sEcReT%40host", "holds a user name or a key before an '@'"),
        ("s3://bucket/a?secret_key=sEcReT", "has the option 'secret_key'; allowed are endpoint_override, region, "),
        ("gs://bucket/a?region=eu", "has the option 'region'; allowed are endpoint_override, scheme"),
        ("s3:///a", "names no bucket"),
        ("s3://bucket/a#sEcReT", "names no bucket, or has a '#'"),
        ("s4://bucket/a", "Unknown kind of store 's4'. Did you mean 's3'? Known: az, gs, s3."),
    ],
)
def test_what_is_refused_is_not_repeated(given: str, why: str) -> None:
    with pytest.raises(InputError) as refusal:
        clean_address(given)
    assert why in str(refusal.value)
    assert "sEcReT" not in str(refusal.value)
    assert "AKIASECRET" not in str(refusal.value)


def test_every_store_has_a_mirror_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RT_SCALE_MIRROR", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert mirror_folder("s3://bucket/a").parent == tmp_path / "cache" / "rt-scale-mirrors"
    monkeypatch.setenv("RT_SCALE_MIRROR", str(tmp_path))
    addresses = ["s3://bucket/a", "s3://bucket/b", "gs://bucket/a", "s3://bucket/a?region=eu"]
    folders = [mirror_folder(address) for address in addresses]
    assert folders[0].name.startswith("bucket-a-")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://another")
    folders.append(mirror_folder("s3://bucket/a"))
    assert len({folder for folder in folders if folder.parent == tmp_path}) == 5
    assert mirror_folder("gs://bucket/a") == folders[2]
    folder = mirror_folder("az://bucket/a")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "another")
    assert mirror_folder("az://bucket/a") != folder
    assert mirror_folder("gs://bucket/a") == folders[2]


def test_a_store_is_opened_where_its_place_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SCALE_MIRROR", str(tmp_path))
    address = "s3://bucket/a?endpoint_override=http://127.0.0.1:9&scheme=http"
    store = open_place(address)
    assert (store.place, store.root) == (address, mirror_folder(address))
    assert open_place(store.place).place == store.place
    monkeypatch.chdir(tmp_path)
    local = open_place("relative")
    assert (local.root, local.place) == (Path("relative"), str(tmp_path / "relative"))
