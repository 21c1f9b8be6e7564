"""Which images of a folder are alike, to a student of a random teacher: python docs/examples/use_from_python.py FOLDER

The student is distilled on scikit-learn's digits, which are installed already; a data set of yours, prepared by
`rt-scale data prepare`, does as well. A second call reads the run from ./rt-store and embeds at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

import rt_scale as rt

SPEC = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_16_2", "norm": "batch"},
    "projector": {"hidden": [128], "bottleneck": 32, "out_dim": 256},
    "train": {"epochs": 5},
    "probe": {"epochs": 5},
}


def main(folder: Path) -> None:
    """Print, for every image of ``folder``, the most similar other one."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg"))
    run = rt.run(rt.load(SPEC, {"student.alpha": 0.1}))
    last = run.result.last if run.result else {}
    print(f"{run.name}: student {last['probe/student/knn']:.1%}, teacher {last['probe/teacher/knn']:.1%} (knn)")

    embeddings = torch.nn.functional.normalize(run.embed([Image.open(path) for path in paths]))
    similarity = (embeddings @ embeddings.T).fill_diagonal_(-1)
    for path, row in zip(paths, similarity, strict=True):
        print(f"{path.name}: {paths[int(row.argmax())].name} (cosine {row.max():.3f})")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except rt.InputError as error:
        sys.exit(str(error))
