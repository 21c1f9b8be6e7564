"""Where a store is: a folder, or an address (bucket and prefix) in an object store."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.system.paths import cache_folder, path_from, user_path

_OPTIONS = {
    "s3": ("endpoint_override", "region", "scheme"),
    "gs": ("endpoint_override", "scheme"),
    "az": ("account", "endpoint_override", "scheme"),
}
"""Scheme -> options allowed after an address's '?'."""
_SERVERS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
"""Scheme -> variables that name another server than the default; the first that is set counts."""
_ADVICE = (
    "An address is kept in records and logs: keys come from the environment (AWS_ACCESS_KEY_ID, ...), from "
    "~/.aws, or from the machine's role; for gs:// from GOOGLE_APPLICATION_CREDENTIALS, for az:// from "
    "AZURE_STORAGE_ACCOUNT_KEY and the like."
)


def default_place(given: str | Path | None = None) -> str:
    """Where runs are kept: ``given`` (``--store``), else ``RT_SCALE_STORE``, else ``./rt-store``."""
    what, named = "RT_SCALE_STORE", os.environ.get("RT_SCALE_STORE", "").strip() or "rt-store"
    if given is not None:
        what, named = "--store", str(given)
    return named if is_address(named) else str(user_path(named, what))


def is_address(place: str | Path) -> bool:
    """Whether ``place`` names an object store, not a folder."""
    return "://" in str(place)


def address_options(address: str) -> dict[str, str]:
    """The options after an address's '?'."""
    return dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))


def clean_address(place: str) -> str:
    """The address in normal form, as it is recorded and compared.

    Args:
        place: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://container/prefix``, optionally with
            ``?endpoint_override=...&region=...&scheme=...``.

    Raises:
        InputError: the address holds credentials or cannot be opened; the message omits it, as it may hold a secret.
    """
    parts = urlsplit(place)
    if parts.scheme not in _OPTIONS:
        raise unknown_name("kind of store", parts.scheme, _OPTIONS, "A folder is named by its path alone.")
    options = address_options(place)
    if "@" in parts.netloc or "@" in unquote(parts.query):
        raise InputError(f"The address of the store holds a user name or a key before an '@'. {_ADVICE}")
    allowed = _OPTIONS[parts.scheme]
    for name in options:
        if name not in allowed:
            raise InputError(
                f"The address of the store has the option '{name}'; allowed are {', '.join(allowed)}. {_ADVICE}"
            )
    if not parts.netloc or parts.fragment:
        raise InputError(
            f"The address of the store names no bucket, or has a '#': write {parts.scheme}://BUCKET/PREFIX."
        )
    prefix = "/".join(part for part in parts.path.split("/") if part)
    query = "&".join(f"{name}={quote(options[name], safe=':/')}" for name in sorted(options))
    return f"{parts.scheme}://{parts.netloc}" + (f"/{prefix}" if prefix else "") + (f"?{query}" if query else "")


def server_of(address: str) -> str:
    """The server that the environment names for this scheme; empty for the default."""
    names = _SERVERS[urlsplit(address).scheme]
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def mirror_folder(address: str) -> Path:
    """The mirror of ``address``, a result of :func:`clean_address`: below ``RT_SCALE_MIRROR`` or in the cache."""
    parts = urlsplit(address)
    # The same address is another store if the environment names another server or account.
    server = server_of(address)
    if parts.scheme == "az":
        server += f" {os.environ.get('AZURE_STORAGE_ACCOUNT_NAME', '')}"
    digest = hashlib.sha256(f"{address} {server}".encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{parts.netloc}{parts.path}")[:60]
    folder = path_from("RT_SCALE_MIRROR") or cache_folder("rt-scale-mirrors", "RT_SCALE_MIRROR")
    return folder.absolute() / f"{words}-{digest}"
