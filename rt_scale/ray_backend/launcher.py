"""What Ray itself says of a file of its cluster launcher, offline: schema, checks, options of commands."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import ray
import ray.autoscaler
from ray.autoscaler._private.providers import _NODE_PROVIDERS
from ray.autoscaler._private.util import prepare_config, validate_config

RAY_VERSION: str = ray.__version__
"""Version of Ray on this machine."""
PROVIDERS = tuple(_NODE_PROVIDERS)
"""Names that Ray's launcher takes as ``provider.type``."""


def launcher_schema() -> dict[str, Any]:
    """Ray's JSON schema of launcher files."""
    schema: dict[str, Any] = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text("utf-8"))
    return schema


def with_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A launcher file's ``config`` with what Ray adds to it; ValueError if Ray refuses it, with its reason.

    Raises:
        KeyError: a field is missing that Ray has no default for.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of fields that it fills in itself
    with redirect_stdout(io.StringIO()):
        try:
            prepared: Mapping[str, Any] = prepare_config(copy.deepcopy(dict(config)))
            validate_config({"cluster_synced_files": [], **prepared})
        except KeyError:
            raise
        except Exception as error:  # Ray's own checks are assertions and errors of several classes
            raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    return prepared


def start_options() -> list[str]:
    """Names of the options of ``ray start``, without their dashes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.scripts.scripts import start

    return [name.removeprefix("--") for each in start.params for name in each.opts if name.startswith("--")]
