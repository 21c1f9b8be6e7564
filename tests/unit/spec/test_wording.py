from __future__ import annotations

import pytest

from rt_scale.spec.errors import counted, printable, shortened, some


@pytest.mark.parametrize(
    ("number", "thing", "expected"),
    [(1, "file", "1 file"), (0, "file", "0 files"), (2000, "image", "2,000 images"), (1, "class", "1 class"),
     (2, "class", "2 classes")],
)  # fmt: skip
def test_one_is_singular(number: int, thing: str, expected: str) -> None:
    assert counted(number, thing) == expected


def test_long_lists_are_shortened_with_their_number() -> None:
    names = [f"n{number:03}" for number in range(200)]
    assert shortened(names[:20]) == ", ".join(names[:20])
    told = shortened(names)
    assert told.startswith("n000, n001")
    assert told.endswith("n199")
    assert "180 more" in told
    assert some(names[:3]) == "n000, n001, n002"
    assert some(names) == "n000, n001, n002 and 197 more"


def test_anything_is_printable_in_one_line() -> None:
    name = b"caf\xc3\xa9 \xff\n\x1b[31m".decode("utf-8", "surrogateescape")
    assert printable(name) == "café \\xff\\n\\x1b[31m"
    printable(name).encode("utf-8")
