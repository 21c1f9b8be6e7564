from __future__ import annotations

from pathlib import Path

from rt_scale.data.catalogue import DATASETS
from rt_scale.report.data_sets import data_notes, data_rows


def test_every_set_has_its_source_of_mean_and_std(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text("{")
    rows = data_rows(tmp_path)
    notes = data_notes(rows)
    for name, info in DATASETS.items():
        (note,) = [each for each in notes if each.endswith(f": {info.stats_source}")]
        names = note.removeprefix("mean and std of ").removesuffix(f": {info.stats_source}")
        assert name in names.split(", ")
    unlabelled, damage = (each for each in notes if not each.startswith("mean and std of "))
    assert unlabelled == "the training images of stl10_unlabeled have no labels"
    assert "meta.json" in damage
    assert len(notes) == 2 + len({info.stats_source for info in DATASETS.values()})
    assert {row["name"] for row in rows if not row.get("labelled", True)} == {"stl10_unlabeled"}
