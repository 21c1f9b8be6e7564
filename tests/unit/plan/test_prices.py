"""Price sheets as users edit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.plan.prices import Price, load_prices
from rt_scale.spec.errors import InputError

ROW: dict[str, Any] = {
    "name": "a", "gpus": 4, "cpus": 32, "on_demand": 8.0, "spot": 3.0, "currency": "EUR", "date": "2026-02-03",
    "source": "a page",
}  # fmt: skip


def sheet(tmp_path: Path, *changes: dict[str, Any]) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump({"prices": [{**ROW, **change} for change in changes]}))
    return path


def test_a_sheet_is_read_as_it_is_written(tmp_path: Path) -> None:
    first, second = load_prices(sheet(tmp_path, {}, {"name": "b", "spot": None})).prices
    assert (first.name, first.gpus, first.cpus, first.on_demand, first.spot) == ("a", 4, 32, 8.0, 3.0)
    assert (f"{first.date}", first.source, first.currency) == ("2026-02-03", "a page", "EUR")
    assert second.spot is None


def test_the_example_is_valid_and_says_that_it_is_one() -> None:
    path = Path(__file__).parents[3] / "cluster" / "prices.yaml"
    assert "EXAMPLES TO BE EDITED" in path.read_text()
    prices = load_prices(path).prices
    assert {price.gpus for price in prices} == {0, 1, 8}
    assert all("example" in price.source for price in prices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_demand": 0}, "on_demand.*greater than 0"),
        ({"spot": -1}, "spot"),
        ({"gpus": -1}, "gpus"),
        ({"cpus": 0}, "cpus"),
        ({"currency": "dollars"}, "currency"),
        ({"date": "yesterday"}, "date"),
        ({"source": ""}, "source"),
        ({"name": ""}, "name"),
        ({"gpu": 1}, "unknown key"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"prices\.0.*{message}"):
        load_prices(sheet(tmp_path, change))


def test_two_currencies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prices in EUR and USD cannot be compared"):
        load_prices(sheet(tmp_path, {}, {"currency": "USD"}))


def test_an_empty_sheet_and_python_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_prices(sheet(tmp_path))
    path = tmp_path / "bad.yaml"
    path.write_text("prices: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="not known here"):
        load_prices(path)


@pytest.mark.parametrize(
    ("machine", "gpus", "cpus", "expected"),
    [
        ((4, 32), 4, 0, 1),
        ((4, 32), 5, 0, 2),
        ((4, 32), 0.5, 0, 1),
        ((4, 32), 4, 65, 3),
        ((4, 32), 0, 8, None),
        ((0, 32), 0, 33, 2),
        ((0, 32), 1, 8, None),
    ],
)
def test_machines_hold_what_is_asked_for(
    machine: tuple[int, int], gpus: float, cpus: float, expected: int | None
) -> None:
    price = Price.model_validate({**ROW, "gpus": machine[0], "cpus": machine[1]})
    assert price.machines(gpus, cpus) == expected
