"""Price sheets: what machines cost an hour, as the user wrote it down."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from rt_scale.spec.document import build
from rt_scale.spec.errors import shown
from rt_scale.spec.part import MOST, Part
from rt_scale.spec.yaml_files import read_document


def _day(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return datetime.date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"{shown(value)} is no day of the calendar; write year-month-day, e.g. 2026-01-31") from None


class Price(Part):
    """What one kind of machine costs, and where that is known from."""

    name: str = Field(min_length=1)
    """Name of the machine."""
    gpus: int = Field(ge=0, le=MOST)
    """GPUs in it; 0: a machine for runs on CPUs."""
    cpus: int = Field(ge=1, le=MOST)
    """CPU cores in it."""
    on_demand: float = Field(gt=0)
    """Price an hour, never interrupted."""
    spot: float | None = Field(None, gt=0)
    """Price an hour where it may be taken away; null: not offered."""
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """Three capital letters, e.g. USD."""
    date: Annotated[datetime.date, BeforeValidator(_day)]
    """When the price was looked up."""
    source: str = Field(min_length=1)
    """Where it was looked up."""

    def machines(self, gpus: float, cpus: float) -> int | None:
        """How many of these hold ``gpus`` GPUs and ``cpus`` cores; None where they are not meant for that.

        Args:
            gpus: GPUs in use at once; 0 where runs are on CPUs, for which machines with GPUs are not priced.
            cpus: cores in use at once by runs on CPUs.
        """
        if (gpus > 0) != (self.gpus > 0):
            return None
        return max(math.ceil(gpus / self.gpus) if self.gpus else 0, math.ceil(cpus / self.cpus))


class PriceSheet(Part):
    """A file of prices."""

    prices: tuple[Price, ...] = Field(min_length=1, strict=False)
    """One a machine."""

    @field_validator("prices")
    @classmethod
    def _one_currency(cls, prices: tuple[Price, ...]) -> tuple[Price, ...]:
        currencies = sorted({price.currency for price in prices})
        if len(currencies) > 1:
            raise ValueError(
                f"prices in {' and '.join(currencies)} cannot be compared; write all of them in one currency"
            )
        return prices


def load_prices(path: Path) -> PriceSheet:
    """The price sheet in the YAML file ``path``.

    Raises:
        InputError: where the file or a price is not valid.
    """
    return build(PriceSheet, read_document(path), str(path))
