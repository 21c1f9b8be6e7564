"""Commands on prepared data sets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import (
    DataOption,
    ImportOption,
    JsonOption,
    examples,
    find_data_dir,
    open_console,
    print_table,
    read_path,
    show_json,
)
from rt_scale.system.console import say

if TYPE_CHECKING:
    from rt_scale.data.prepare import Prepared

app = typer.Typer(
    no_args_is_help=True,
    help="Prepared data sets.",
    epilog=examples("rt-scale data list", "rt-scale data prepare cifar10 --download"),
)


class Split(StrEnum):
    """Which images of a data set."""

    TRAIN = "train"
    TEST = "test"


@app.command("list", epilog=examples("rt-scale data list"))
def data_list(data_dir: DataOption = None, as_json: JsonOption = False) -> None:
    """Known and prepared data sets, and their statistics."""
    from rt_scale.report.data_sets import data_notes, data_rows

    rows = data_rows(find_data_dir(data_dir))
    if as_json:
        show_json({"data": rows})
    else:
        titles = ["name", "classes", "size", "train", "test", "mean", "std", "prepared"]
        print_table(titles, [tuple(str(row[title]) for title in titles) for row in rows])
        for note in data_notes(rows):
            open_console().print(note)


@app.command(
    "prepare",
    epilog=examples(
        "rt-scale data prepare cifar10 --download", "rt-scale data prepare my_images --from ~/my_images --size 64"
    ),
)
def data_prepare(
    name: Annotated[
        str, typer.Argument(help="A known data set, a new name for a folder of images, or a plugin: my_data:Shapes.")
    ],
    source: Annotated[
        Path | None, typer.Option("--from", parser=read_path, help="The original: archive, file or folder.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the original.")] = False,
    size: Annotated[
        int | None, typer.Option(help="Resize to SIZE x SIZE: a folder's images, stl10, tiny_imagenet.")
    ] = None,
    split_seed: Annotated[int | None, typer.Option(help="Seed of the split of a folder that has none.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make it anew, also in place of another set of that name.")
    ] = False,
    args: Annotated[str | None, typer.Option("--args", help="Arguments of a plugin: '{images: 100}'.")] = None,
    imports: ImportOption = None,
    data_dir: DataOption = None,
) -> None:
    """Make the prepared file of a data set, once."""
    from rt_scale.data.own import prepare_own
    from rt_scale.data.prepare import prepare
    from rt_scale.progress.bars import counting
    from rt_scale.spec.document import own_data
    from rt_scale.spec.errors import InputError

    own = own_data(name, args, imports or [])
    if own is not None and (source or download or size is not None or split_seed is not None or replace):
        raise InputError(f"'{name}' is a plugin, which gives its images itself: it takes --args alone.")
    with counting(open_console(), f"preparing {name}") as progress:
        if own is not None:
            prepared = prepare_own(own, find_data_dir(data_dir), progress)
        else:
            folder, more = find_data_dir(data_dir), {"size": size, "split_seed": split_seed}
            prepared = prepare(name, folder, source, download, progress, replace=replace, **more)
    _show(prepared)


def _show(prepared: Prepared) -> None:
    """Print what is known of a prepared data set."""
    from rt_scale.spec.errors import counted, printable, shortened

    info = prepared.info
    lines = [
        f"{info.title}: {prepared.train.samples:,} training and {counted(prepared.test.samples, 'test image')}, "
        f"{info.size} x {info.size} x {info.channels}, {counted(len(info.classes), 'class')}, in {prepared.folder}",
        f"classes: {shortened([printable(each) for each in info.classes])}",
        *(f"{what}: {note}" for what, note in prepared.notes.items()),
    ]
    for line in lines:
        open_console().print(line)


@app.command("verify", epilog=examples("rt-scale data verify cifar10"))
def data_verify(name: Annotated[str, typer.Argument(help="A prepared data set.")], data_dir: DataOption = None) -> None:
    """Read a prepared data set through and compare its checksums."""
    from rt_scale.data.prepare import verify_prepared

    prepared = verify_prepared(name, find_data_dir(data_dir))
    say(f"{name}: {prepared.train.samples + prepared.test.samples:,} images as written (sha256 {prepared.sha256})")


@app.command("show", epilog=examples("rt-scale data show digits --per-class 5      # writes digits-train.png"))
def data_show(
    name: Annotated[str, typer.Argument(help="A prepared data set.")],
    out: Annotated[Path | None, typer.Option(parser=read_path, help="The file to write (NAME-SPLIT.png).")] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Samples a class.")] = 10,
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.TRAIN,
    data_dir: DataOption = None,
) -> None:
    """Draw a contact sheet: samples of every class, as PNG."""
    from rt_scale.data.prepare import open_prepared
    from rt_scale.report.data_sets import draw, save, unlabelled

    prepared = open_prepared(name, find_data_dir(data_dir))
    images, what = (prepared.train, "training") if split is Split.TRAIN else (prepared.test, "test")
    path = Path(f"{name}-{split}.png") if out is None else out
    info = prepared.info if images is prepared.test or prepared.info.labelled else unlabelled(prepared.info)
    save(draw(info, images, per_class, f"{prepared.info.title}: {what} images"), path)
    say(str(path))
