"""What tells a prepared set from the one that is asked for under its name."""

from __future__ import annotations

from rt_scale.data.prepared import Prepared, Request
from rt_scale.spec.errors import InputError
from rt_scale.spec.wording import printable


def another(prepared: Prepared, asked: Request, command: str) -> InputError:
    """The refusal of ``asked``, which is not how ``prepared`` was made: says what differs, and what to do.

    Args:
        prepared: what there is.
        asked: how it should have been made.
        command: what is typed to make it anew; empty where that is what was typed already.
    """
    name, before = prepared.info.name, prepared.request
    found = "where the original was found"
    differs = []
    if asked.source != before.source:
        differs.append(f"it is from {_quoted(before.source) or found}, not from {_quoted(asked.source) or found}")
    elif asked.fingerprint != before.fingerprint:
        differs.append(f"files of {_quoted(asked.source) or 'the original'} have changed since")
    if asked.size != before.size:
        differs.append(f"its images are of {_size_text(before.size)}, not of {_size_text(asked.size)}")
    if asked.split_seed != before.split_seed:
        differs.append(f"its split is by seed {before.split_seed}, not {asked.split_seed}")
    again = f"'{command}'" if command else "this command"
    return InputError(
        f"'{name}' is prepared already in '{prepared.folder}', and otherwise: {'; '.join(differs)}. Choose another "
        f"name, or add --replace to {again} to make it anew in its place; runs on it would then see other images."
    )


def _quoted(source: str | None) -> str:
    return (source and f"'{printable(source)}'") or ""


def _size_text(size: int | None) -> str:
    return "their own size" if size is None else f"{size} x {size} pixels"
