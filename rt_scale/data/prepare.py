"""From an original to its prepared files, once; and opening, listing and verifying what is prepared."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from rt_scale.data.build import check_target, move_into_place, write_splits
from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.cifar import read_cifar
from rt_scale.data.datasets.cifar5m import read_npz
from rt_scale.data.datasets.folder import read_folder
from rt_scale.data.datasets.grey import read_digits, read_idx
from rt_scale.data.datasets.original import Original, check
from rt_scale.data.datasets.stl10 import Part, read_stl10
from rt_scale.data.datasets.tiny_imagenet import read_tiny_imagenet
from rt_scale.data.fetch import data_origin, fetch
from rt_scale.data.files import fingerprint, lock, writing
from rt_scale.data.originals import Progress, find_original
from rt_scale.data.places import check_name, default_data_dir, prepare_command
from rt_scale.data.prepared import META, Prepared, Request, another, load, load_verified
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.stopping import Heed, go_on

__all__ = [
    "Prepared",
    "default_data_dir",
    "list_prepared",
    "open_prepared",
    "prepare",
    "verify_prepared",
]


RESIZING = frozenset(["stl10", "tiny_imagenet"])
"""Readers, beside that of folders, that scale images to another size."""


def prepare(
    name: str,
    data_dir: Path,
    source: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    *,
    size: int | None = None,
    split_seed: int | None = None,
    replace: bool = False,
) -> Prepared:
    """Make the prepared files of ``name`` in ``data_dir``, or return them where the same was done before.

    The same is: from the same source, whose files have not changed, at the same size, with the same split.

    Args:
        name: of the catalogue, or any other for a folder of one's own.
        data_dir: where prepared sets lie, one folder a name.
        source: the original; by default looked for (see ``originals.find_original``).
        download: fetch the original where it is not found; nothing is downloaded otherwise.
        progress: called with images done and in all, during a download with bytes done and in all.
        size: resize to size x size pixels: a folder's images, or those of a set whose reader is in ``RESIZING``.
        split_seed: of the split of a folder that has none, 0 by default.
        replace: make it anew in any case, in place of what is prepared under that name.

    Raises:
        InputError: whatever is wrong with the request or the original, another set prepared under that name, and a
            preparation under way elsewhere.
        RunError: the disk filled up on the way. Nothing is left behind in either case.
    """
    _check_request(name, source, download, size, split_seed)
    if not replace and (done := _done(name, data_dir, source, size, split_seed)) is not None:
        return done
    if source is None and name not in DATASETS:
        raise _no_source(name, data_dir)
    with lock(name, data_dir, wait=False):
        if not replace and (done := _done(name, data_dir, source, size, split_seed)) is not None:
            return done
        return _make(name, data_dir, source, download, progress, size, split_seed or 0)


def open_prepared(name: str, data_dir: Path, heed: Heed = go_on) -> Prepared:
    """Open a prepared set, after getting it where that needs no asking.

    The bundled digits are prepared where they are not yet; other sets are fetched where RT_SCALE_DATA_ORIGIN says
    where prepared data is kept. Raises InputError with the command to type where it is not prepared, or the
    nearest names known. ``heed`` is called again and again while it is fetched or waited for.
    """
    check_name(name)
    if (prepared := load(name, data_dir)) is not None:
        return prepared
    if name in DATASETS and DATASETS[name].reader == "digits":
        with lock(name, data_dir, wait=True, heed=heed):
            return load(name, data_dir) or _make(name, data_dir, None, False, None, None, 0)
    origin = data_origin()
    if origin and (prepared := fetch(name, data_dir, origin, heed)) is not None:
        return prepared
    command = prepare_command(name, data_dir)
    if name in DATASETS:
        places = f"in '{data_dir}', nor in '{origin}' (RT_SCALE_DATA_ORIGIN)" if origin else f"in '{data_dir}'"
        raise InputError(f"The data set '{name}' is not prepared {places}. Prepare it with '{command}'.")
    known = {*DATASETS, *list_prepared(data_dir)}
    raise unknown_name("data set", name, known, hint=f"A folder of your own images becomes one with '{command}'.")


def list_prepared(data_dir: Path) -> dict[str, Prepared | InputError]:
    """Every prepared set by name, sorted; a damaged one as the error that opening it raises."""
    found: dict[str, Prepared | InputError] = {}
    for meta in sorted(data_dir.glob(f"*/{META}")):
        name = meta.parent.name
        try:
            prepared = load(check_name(name), data_dir)
        except InputError as error:
            found[name] = error
        else:
            if prepared is not None:
                found[name] = prepared
    return found


def verify_prepared(name: str, data_dir: Path) -> Prepared:
    """Open a prepared set after reading it through; InputError where a checksum is not the recorded one."""
    return load_verified(check_name(name), data_dir) or open_prepared(name, data_dir)


def _check_request(name: str, source: Path | None, download: bool, size: int | None, split_seed: int | None) -> None:
    check_name(name)
    info = DATASETS.get(name)
    if name == GAUSSIAN:
        raise InputError(f"'{GAUSSIAN}' names inputs that are drawn, not prepared: give the data set another name.")
    if source is not None and download:
        raise InputError("Both --from and --download were given: say where the original is, or let it be downloaded.")
    if source is not None and not source.exists():
        raise InputError(f"'{source}', given as the original of '{name}', does not exist. Check the path.")
    if info is not None and split_seed is not None:
        raise InputError(f"A split seed is for folders of images; '{name}' has its own split. Leave it out.")
    if info is not None and size is not None and info.reader not in RESIZING:
        resizing = ", ".join(each.name for each in DATASETS.values() if each.reader in RESIZING)
        raise InputError(
            f"--size is for folders of images and for {resizing}; '{name}' has its own size. A run resizes on the "
            "device: data.size in its spec."
        )
    if info is not None and info.reader == "digits" and (source is not None or download):
        raise InputError("The digits come with scikit-learn: leave out --from and --download.")


def _done(name: str, data_dir: Path, source: Path | None, size: int | None, split_seed: int | None) -> Prepared | None:
    """What is prepared already, if it is whole; InputError where that was from another source, or in another way."""
    try:
        prepared = load(name, data_dir)
    except InputError:
        return None
    if prepared is None:
        return None
    before = prepared.request
    if size == prepared.info.size and before.size is None:
        size = None  # the size that they have without scaling
    asked = Request(
        source=before.source if source is None else str(source.resolve()),
        fingerprint=before.fingerprint if source is None else fingerprint(source),
        size=before.size if source is None and size is None else size,
        split_seed=before.split_seed if source is None and split_seed is None else split_seed or 0,
    )
    if asked != before:
        raise another(prepared, asked, "" if source or name in DATASETS else prepare_command(name, data_dir))
    return prepared


def _no_source(name: str, data_dir: Path) -> InputError:
    """Why a set that is not in the catalogue cannot be made without saying from what."""
    command = prepare_command(name, data_dir)
    if load(name, data_dir) is not None:
        return InputError(f"To prepare '{name}' anew, say where its images are: '{command} --replace'.")
    hint = f"A folder of your own images becomes a data set with '{command}'."
    return unknown_name("data set", name, DATASETS, hint=hint)


def _make(
    name: str,
    data_dir: Path,
    source: Path | None,
    download: bool,
    progress: Progress | None,
    size: int | None,
    split_seed: int,
) -> Prepared:
    """Build in a hidden folder, then move into place; the caller holds the lock."""
    target, workplace = data_dir / name, data_dir / f".{name}.tmp"
    check_target(target)
    found = _locate(name, data_dir, source, download, progress)
    request = Request(
        source=None if source is None else str(source.resolve()),
        fingerprint="" if found is None else fingerprint(found),
        size=size,
        split_seed=split_seed,
    )
    try:
        with writing(workplace):
            shutil.rmtree(workplace, ignore_errors=True)  # a preparation that was killed
            workplace.mkdir()
        with ExitStack() as stack:
            original = _read(name, found, size, split_seed, workplace, stack)
            check(original)
            meta = write_splits(original, request, workplace, progress)
        move_into_place(meta, workplace, target)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return load(name, data_dir) or open_prepared(name, data_dir)


def _locate(name: str, data_dir: Path, source: Path | None, download: bool, progress: Progress | None) -> Path | None:
    """Where the original is; None for the bundled one."""
    if source is not None:
        return source
    info = DATASETS[name]
    return None if info.reader == "digits" else find_original(info, data_dir, download, progress)


def _read(
    name: str, found: Path | None, size: int | None, split_seed: int, scratch: Path, stack: ExitStack
) -> Original:
    info = DATASETS.get(name)
    if found is None:
        return read_digits(DATASETS[name])
    if info is None:
        return read_folder(name, found, size=size, split_seed=split_seed, scratch=scratch, stack=stack)
    if info.reader == "npz":
        return read_npz(info, found)
    if info.reader == "stl10":
        part: Part = "train" if info.labelled else "unlabeled"
        return read_stl10(info, found, size=size, scratch=scratch, part=part)
    if info.reader == "tiny_imagenet":
        return read_tiny_imagenet(info, found, size=size, scratch=scratch, stack=stack)
    return read_idx(info, found) if info.reader == "idx" else read_cifar(info, found)
