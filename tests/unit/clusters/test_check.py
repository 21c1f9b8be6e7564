"""Which kind a cluster file is, and that a slip in any key of a good one is found in its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rt_scale.clusters.check import check_file
from rt_scale.clusters.check.document import Asked, read_documents
from rt_scale.spec.errors import InputError
from tests.unit.clusters.broken import GOOD, asked, told

KINDS = {
    "aws.yaml": "Ray launcher file",
    "gcp.yaml": "Ray launcher file",
    "kuberay.yaml": "KubeRay manifest",
    "sky.yaml": "SkyPilot task",
    "slurm.sh": "sbatch script",
}
FREE = {
    "aws.yaml": {("available_node_types", "head"), ("available_node_types", "spot")},
    "gcp.yaml": {("available_node_types", "head"), ("available_node_types", "spot")},
    "kuberay.yaml": {("nodeSelector", "karpenter.sh/capacity-type")},
    "sky.yaml": {("envs", "RT")},
}
"""File -> names that a user chooses, each with the field that it is in."""


@pytest.mark.parametrize("name", KINDS)
def test_good_files_have_no_problem(name: str) -> None:
    found = check_file(GOOD / name, asked(name))
    assert told(found) == ""
    assert found.kind == KINDS[name]
    assert found.checked
    assert found.unchecked


def keys_of(node: yaml.Node, inside: str = "") -> list[tuple[str, yaml.Node]]:
    """Every key in a document, with the key that it is under."""
    if isinstance(node, yaml.SequenceNode):
        return [each for value in node.value for each in keys_of(value, inside)]
    if not isinstance(node, yaml.MappingNode):
        return []
    return [each for key, value in node.value for each in [(inside, key), *keys_of(value, key.value)]]


def slip(word: str) -> str:
    """The word with its last two letters swapped, or without the last of two equal ones."""
    return word[:-1] if word[-1] == word[-2] else word[:-2] + word[-1] + word[-2]


@pytest.mark.parametrize("name", FREE)
def test_a_slip_in_any_key_is_found_in_its_line(tmp_path: Path, name: str) -> None:
    text = (GOOD / name).read_text()
    lines, file, missed, count = text.splitlines(keepends=True), tmp_path / name, [], 0
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        assert node is not None
        for inside, key in keys_of(node):
            if (inside, key.value) in FREE[name]:
                continue
            row, column = key.start_mark.line, key.start_mark.column
            line = lines[row]
            broken = line[:column] + line[column:].replace(key.value, slip(key.value), 1)
            file.write_text("".join([*lines[:row], broken, *lines[row + 1 :]]))
            count += 1
            if row + 1 not in [problem.line for problem in check_file(file, asked(name)).problems]:
                missed.append(broken)
    assert count > 10
    assert missed == []


def test_what_is_no_cluster_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: a\nbase: {data: {name: digits}}\n")
    with pytest.raises(InputError, match=r"no cluster file that is known.*Ray launcher file.*#SBATCH"):
        check_file(file, Asked())
    file.write_text("provider: {type: aws\n")
    with pytest.raises(InputError, match="line 2, column 1 is not YAML"):
        check_file(file, Asked())
    file.write_text("provider: !!python/object:os.system {}\n")
    with pytest.raises(InputError, match="line 1"):
        check_file(file, Asked())
    file.write_text("provider: {type: aws}\nprovider: {type: gcp}\n")
    with pytest.raises(InputError, match=r"line 2, column 1: the key 'provider' appears twice, first in line 1"):
        check_file(file, Asked())
    with pytest.raises(InputError, match="There is no file"):
        check_file(tmp_path / "none.yaml", Asked())


def test_lines_of_values() -> None:
    text = "a: 1\nb:\n  - c: 2\n  - &x {d: 3,\n     e: 4}\nf:\n  <<: *x\n  d: 5\n---\ng: yes\n"
    first, second = read_documents(text, "x")
    assert [first.line(keys) for keys in [(), ("b",), ("b", 0, "c"), ("b", 1, "e"), ("f", "d"), ("f", "e")]] == [
        1, 2, 3, 5, 8, 5,
    ]  # fmt: skip
    assert first.line(("b", 0, "none")) == 3
    assert (first.get("f", "d"), first.get("f", "e"), first.get("b", 7), first.get("a", "x")) == (5, 4, None, None)
    assert second.value == {"g": True}
    assert second.line(("g",)) == 10
