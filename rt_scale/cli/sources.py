"""Sweeps as commands are given them: files beside a store, or a bundle that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rt_scale.cli.options import open_console, open_store
from rt_scale.spec.errors import InputError

if TYPE_CHECKING:
    from rt_scale.spec.sweep import Point, SweepSpec
    from rt_scale.store.bundle.unpack import Bundle
    from rt_scale.store.store import Store

    Loaded = tuple[SweepSpec, list[Point]]


def open_sweeps(files: Sequence[Path], overrides: list[str] | None, store: str | None) -> tuple[Store, list[Loaded]]:
    """The store and the sweeps, with their runs, that a command is about.

    Args:
        files: sweep files; or one bundle, which is unpacked on first sight, and is store and sweeps at once.
        overrides: ``key=value`` assignments to the sweeps' bases.
        store: where runs are kept; None: where the environment says.

    Raises:
        InputError: where a file is not valid, a bundle is damaged, or one is given beside files, a store or
            assignments.
    """
    from rt_scale.store.bundle.format import is_bundle

    bundles = [file for file in files if is_bundle(file)]
    if not bundles:
        place = open_store(store)
        return place, [(sweep, points) for sweep, points, _ in (look(file, overrides, place) for file in files)]
    if len(files) > 1 or overrides or store:
        raise InputError(
            f"'{bundles[0]}' is a bundle, which holds sweeps as they were run, and their store: give it alone, without "
            "other files, --set or --store."
        )
    from rt_scale.progress.bars import counting
    from rt_scale.store.bundle.unpack import open_bundle

    with counting(open_console(stderr=True), "unpacking the bundle") as progress:
        bundle = open_bundle(bundles[0], progress=progress)
    return bundle.store, [_load(bundle, name) for name in bundle.manifest.sweeps]


def look(file: Path, overrides: list[str] | None, store: Store) -> tuple[SweepSpec, list[Point], str]:
    """The sweep in a file, its runs and the file's text, for a command that starts nothing.

    Raises:
        InputError: where the file is not valid, or its grid is larger than one that is started without --yes and
            than what was started of it in ``store``.
    """
    from rt_scale.spec.document import read_text
    from rt_scale.spec.sweep import GRID_LIMIT, expand, grid_size, parse_sweep, refuse_large

    text = read_text(file)
    sweep = parse_sweep(text, str(file), overrides)
    limit = GRID_LIMIT
    if grid_size(sweep) > limit:
        store.refresh(curves=False)
        limit = max(limit, len(store.sweep(sweep.name).runs()))
    refuse_large(sweep, limit, "start them with 'rt-scale sweep --yes' in this store")
    return sweep, expand(sweep), text


def told(file: Path, sweeps: Sequence[str], number: int) -> str:
    """How a record names the file of sweep ``number``: by its path; a pipe, which is gone, as its sweep is called."""
    return str(file) if file.is_file() else f"{sweeps[number]}.yaml"


def _load(bundle: Bundle, name: str) -> Loaded:
    """A sweep of the bundle; its file must give the runs that the bundle lists of it."""
    from rt_scale import __version__
    from rt_scale.scheduler.search import known_points
    from rt_scale.spec.document import read_text
    from rt_scale.spec.sweep import GRID_LIMIT, expand, parse_kept, refuse_large

    kept = bundle.store.sweep(name)
    runs = kept.runs()
    try:
        sweep = parse_kept(read_text(kept.file), str(kept.file))
        refuse_large(sweep, max(GRID_LIMIT, len(runs)))
        points = expand(sweep)
        names = [point.spec.name for point in known_points(sweep, points, bundle.store)]
        if (sweep.name, names) != (name, runs):
            raise InputError(f"The file of sweep '{name}' in the bundle gives other runs than the bundle lists.")
    except InputError as error:
        raise InputError(
            f"{error} The bundle was made by rt-scale {bundle.manifest.rt_scale}, this is {__version__}: if they "
            "differ, open it with that version."
        ) from error
    return sweep, points
