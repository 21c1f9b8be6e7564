"""Reading YAML and dotted overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.spec.document import apply_overrides, build_run, set_dotted
from rt_scale.spec.errors import InputError, nearest, unknown_name
from rt_scale.spec.yaml_files import MOST_BYTES, parse_yaml, read_document, read_text


def test_numbers_are_those_of_yaml_1_2() -> None:
    assert parse_yaml("[1e-10, 1E3, -2e+4, 1.5, 3, .5e1, 1e, e1]", "x") == [
        1e-10, 1000.0, -20000.0, 1.5, 3, 5.0, "1e", "e1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", ["line 1", "is not YAML"]),
        ("a: 1\na: 2", ["line 2", "'a' appears twice"]),
        ("a: !!python/object/apply:os.system [ls]", ["line 1", "!!python/object/apply:os.system"]),
        ("a: b: c", ["line 1"]),
    ],
)
def test_bad_yaml_is_refused_with_its_line(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "file.yaml")
    for word in ("file.yaml", *words):
        assert word in str(caught.value)


def test_documents_must_be_mappings_in_readable_text(tmp_path: Path) -> None:
    cases = {
        "list.yaml": (b"- 1", "a list"),
        "empty.yaml": (b"", "nothing"),
        "image.yaml": (b"\xff\xd8\xff", "not UTF-8 text"),
        "notepad.yaml": ("a: 1".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        "binary.yaml": (b"a: \x00", "not YAML"),
        "large.yaml": (b"#" * (MOST_BYTES + 1), "more than 16,777,216 bytes"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_document(tmp_path / name)
        assert words in str(caught.value)
    with pytest.raises(InputError, match=r"Did you mean .*list\.yaml"):
        read_document(tmp_path / "lst.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_document(tmp_path)


def test_dotted_fields_are_set_in_a_copy() -> None:
    before = {"a": {"b": 1}, "c": 2}
    assert set_dotted(before, "a.d.e", 3) == {"a": {"b": 1, "d": {"e": 3}}, "c": 2}
    assert before == {"a": {"b": 1}, "c": 2}
    assert apply_overrides(before, ["a.b=[1, 2]", "c=null"]) == {"a": {"b": [1, 2]}, "c": None}


@pytest.mark.parametrize(
    "override",
    ["a", "=1", "a..b=1", "a b=1", "a=[1", "a=1\n", "a=[1,\n2]", "a=1\u2028", "a\n=1", "a={{ x }}", "a=" + "9" * 5000,
     ".".join("a" * 1500) + "=1", "a=&b [*b]", "a=\udcff"],
)  # fmt: skip
def test_bad_overrides_are_refused(override: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_overrides({}, [override])
    assert override.partition("=")[0][:50].strip() in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_text_is_what_an_editor_shows(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: caf\xc3\xa9\rc: 3\n")
    assert read_text(tmp_path / "a.yaml") == "a: 1\nb: caf\u00e9\nc: 3\n"


def test_unknown_names_get_the_nearest_one() -> None:
    assert nearest("ResNet81", ["resnet18", "vgg11"]) == "resnet18"
    assert nearest("zzz", ["resnet18", "vgg11"]) is None


def test_of_several_as_close_the_one_that_begins_alike_is_meant() -> None:
    assert nearest("vgg1l", ["vgg19", "vgg16", "vgg11", "vgg13"]) == "vgg11"
    assert nearest("abcd", ["xbcd", "abcx"]) == "abcx"
    message = str(unknown_name("encoder", "vg11", ["vgg11", "resnet18"], "Look."))
    assert message == "Unknown encoder 'vg11'. Did you mean 'vgg11'? Known: resnet18, vgg11. Look."


def test_every_mistake_of_a_file_is_told_at_once() -> None:
    wrong = {"data": {"nmae": "digits"}, "encoder": {"name": "vg11", "widht": 2}, "student": {"alpah": 1}}
    with pytest.raises(InputError) as caught:
        build_run(wrong, "a.yaml")
    for words in ("data.nmae", "encoder.name: Unknown encoder 'vg11'", "encoder.widht", "'width'", "student.alpah"):
        assert words in str(caught.value), words
