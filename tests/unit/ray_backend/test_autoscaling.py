"""The kinds of node in a launcher's file, and what there can ever be."""

from __future__ import annotations

from typing import Any

from rt_scale.ray_backend.cluster import ever, kinds_of_launcher
from rt_scale.ray_backend.resources import Node

CONFIG: dict[str, Any] = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "gpu": {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 9},
        "cpu": {"resources": {"CPU": 16}},
    },
}


def test_kinds_of_a_launcher() -> None:
    assert kinds_of_launcher(CONFIG) == [
        Node("head", {"CPU": 4}, 0, False),
        Node("gpu", {"CPU": 8, "GPU": 2}, 5, False),
        Node("cpu", {"CPU": 16}, 5, False),
    ]


def test_two_are_the_most_where_nothing_is_said() -> None:
    without = {key: value for key, value in CONFIG.items() if key != "max_workers"}
    assert [kind.count for kind in kinds_of_launcher(without)] == [0, 2, 2]


def test_a_kind_that_does_not_say_what_it_has_leaves_all_open() -> None:
    assert kinds_of_launcher({**CONFIG, "available_node_types": {"gpu": {"node_config": {}}}}) == []


def test_living_nodes_are_counted_once() -> None:
    kinds = kinds_of_launcher(CONFIG)
    head, gpu, other = Node("1", {"CPU": 4}), Node("2", {"CPU": 8, "GPU": 2}), Node("3", {"CPU": 2})
    assert [(node.name, node.count) for node in ever([head, gpu, other], kinds)] == [
        ("3", 1),
        ("head", 1),
        ("gpu", 5),
        ("cpu", 5),
    ]
    assert [(node.name, node.count) for node in ever([gpu] * 7, kinds)] == [("gpu", 7), ("cpu", 5)]
