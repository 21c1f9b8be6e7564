"""Sweeps as commands are given them: files beside a store, or a bundle that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rt_scale.cli.options import open_console, open_store
from rt_scale.spec.errors import InputError

if TYPE_CHECKING:
    from rt_scale.spec.sweep import Point, SweepSpec
    from rt_scale.store.store import Store
    from rt_scale.store.unbundle import Bundle

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
    from rt_scale.spec.sweep import load_sweep
    from rt_scale.store.bundle_format import is_bundle

    bundles = [file for file in files if is_bundle(file)]
    if not bundles:
        return open_store(store), [load_sweep(file, overrides, limit=None) for file in files]
    if len(files) > 1 or overrides or store:
        raise InputError(
            f"'{bundles[0]}' is a bundle, which holds sweeps as they were run, and their store: give it alone, without "
            "other files, --set or --store."
        )
    from rt_scale.launch.progress import counting
    from rt_scale.store.unbundle import open_bundle

    with counting(open_console(stderr=True), "unpacking the bundle") as progress:
        bundle = open_bundle(bundles[0], progress=progress)
    return bundle.store, [_load(bundle, name) for name in bundle.manifest.sweeps]


def _load(bundle: Bundle, name: str) -> Loaded:
    """A sweep of the bundle; its file must give the runs that the bundle lists of it."""
    from rt_scale import __version__
    from rt_scale.launch.search import known_points
    from rt_scale.spec.sweep import GRID_LIMIT, load_sweep, overrides_as_run

    kept = bundle.store.sweep(name)
    runs = kept.runs()
    try:
        overrides = overrides_as_run(kept.file.read_text(encoding="utf-8"))
        sweep, points = load_sweep(kept.file, overrides, limit=max(GRID_LIMIT, len(runs)))
        names = [point.spec.name for point in known_points(sweep, points, bundle.store)]
        if (sweep.name, names) != (name, runs):
            raise InputError(f"The file of sweep '{name}' in the bundle gives other runs than the bundle lists.")
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(
            f"{error} The bundle was made by rt-scale {bundle.manifest.rt_scale}, this is {__version__}: if they "
            "differ, open it with that version."
        ) from error
    return sweep, points
