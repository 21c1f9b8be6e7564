from __future__ import annotations

import io
import sys

import pytest

from rt_scale.system.console import READABLE, print_anything, printable, say, say_error, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0m", r"a\x1b[31mred\x1b[0m"),
        ("\x07\x08\x0c\r\x7f\x9b2J", r"\x07\x08\x0c\r\x7f\x9b2J"),
        ("user\u202egnp.exe\u2066", r"user\u202egnp.exe\u2066"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("[/end] ± 学", "[/end] ± 学"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"1 +- 2 x 3 -> ... \u5b66 \udcff"),
        ("latin-1", "1 ± 2 \u00d7 3 -> ... \\u5b66 \\udcff"),
        ("utf-8", "1 ± 2 \u00d7 3 → … 学 \\udcff"),
    ],
)
def test_characters_that_the_encoding_lacks_are_replaced(encoding: str, shown: str) -> None:
    text = "1 ± 2 \u00d7 3 → … 学 \udcff"
    assert text.encode(encoding, READABLE).decode(encoding) == printable(text, encoding) == shown


def test_every_character_can_be_printed_in_every_encoding() -> None:
    everything = "".join(map(chr, range(0x11000)))
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8", "utf-16", "shift_jis", "gb18030"):
        assert everything.encode(encoding, READABLE)


def test_the_standard_streams_never_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    print_anything()
    say("10 ± 2 in 'ü\udcff\x1b'")
    say_error("two\nlines of 学")
    for stream, shown in ((out, r"10 +- 2 in '\xfc\udcff\x1b'"), (err, r"rt-scale: two lines of \u5b66")):
        stream.seek(0)
        assert stream.read() == f"{shown}\n"


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    print_anything()
    say("nobody reads this")


def test_handled_are_encoders_alone() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", READABLE)
