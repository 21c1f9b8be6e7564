"""hosts.yaml: machines that are reached by SSH and become one Ray cluster."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from rt_scale.clusters.write import NAME
from rt_scale.data.meta import check_name
from rt_scale.spec.document import build
from rt_scale.spec.errors import InputError, counted, shown, some
from rt_scale.spec.part import MOST, Part
from rt_scale.spec.yaml_files import read_document
from rt_scale.store.objects.uri import clean_address, is_address

_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*"
"""Never begins with '-', which ssh would take for an option."""
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
Port = Annotated[int, Field(ge=1, le=65535)]


class HostSpec(Part):
    """A machine; fields that are null are those of the file, or else what SSH and Ray find out themselves."""

    host: str
    """Its address or name, as for ssh."""
    user: str | None = None
    identity_file: str | None = None
    ssh_port: Port | None = None
    python: str | None = None
    cpus: int | None = Field(None, ge=0, le=MOST)
    """CPU cores for runs; 0 keeps runs off; null: those that it has."""
    gpus: int | None = Field(None, ge=0, le=MOST)
    """GPUs for runs; null: those that it has."""
    resources: dict[str, float] = Field(default={})
    """Further resources by Ray's name, e.g. {"accelerator_type:A10G": 1}."""

    @model_validator(mode="before")
    @classmethod
    def _address_alone(cls, given: object) -> object:
        return {"host": given} if isinstance(given, str) else given

    @field_validator("host", "user")
    @classmethod
    def _no_option(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch(_HOST, given):
            raise ValueError(f"{shown(given)} is no name that ssh takes: letters, digits, '.', '-', '_' and ':'")
        return given

    @property
    def ip(self) -> str | None:
        """Its address, if the file names it by that."""
        try:
            return str(ipaddress.ip_address(self.host))
        except ValueError:
            return None

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.host if self.ssh_port is None else f"{self.host}:{self.ssh_port}"


class HostsSpec(Part):
    """The file. Machines may be given by their addresses alone."""

    name: str
    """Of the cluster; its files are in ~/.rt-scale/NAME on every machine."""
    head: HostSpec
    """Where Ray's head is and the sweep is started."""
    workers: tuple[HostSpec, ...] = Field((), strict=False)
    user: str | None = None
    """Who logs in; null: as ssh decides."""
    identity_file: str | None = None
    """The private key; null: as ssh decides."""
    ssh_port: Port | None = None
    python: str | None = None
    """The interpreter on the machines that has rt-scale; null: the project is copied to ``folder``, and its
    cluster/bootstrap.sh makes one."""
    folder: str = "rt-scale"
    """Where the project is copied to, in the home or absolute; jobs start there."""
    store: str
    """Where runs are kept: s3://..., gs://..., az://..., or a folder that all machines share."""
    data: tuple[str, ...] = Field((), strict=False)
    """Data sets that every machine gets before Ray starts."""
    data_origin: str | None = None
    """Where machines fetch prepared data sets: an address or a shared folder; null: they get this machine's."""
    environment: tuple[str, ...] = Field((), strict=False)
    """Names of variables here, e.g. AWS_ACCESS_KEY_ID, that Ray's processes there get; never their values."""
    port: Port = 6379
    dashboard_port: Port = 8265
    """Of the head, where it listens on localhost only."""
    command: str | None = None
    """The sweep's command, which `cluster up` prints as a job to submit."""

    @field_validator("name")
    @classmethod
    def _plain(cls, given: str) -> str:
        if not re.fullmatch(NAME, given):
            raise ValueError(
                f"{shown(given)} is not a name: 1 to 40 lower-case letters, digits and '-', a letter first, no '-' last"
            )
        return given

    @field_validator("user")
    @classmethod
    def _no_option(cls, given: str | None) -> str | None:
        if given is not None and not re.fullmatch(_HOST, given):
            raise ValueError(f"{shown(given)} is no user's name")
        return given

    @field_validator("store", "data_origin")
    @classmethod
    def _a_place(cls, given: str | None) -> str | None:
        if given is None:
            return None
        if is_address(given):
            return clean_address(given) if not given.startswith("file:") else given
        if not given.startswith(("/", "~/")):
            raise ValueError(f"{shown(given)} is a relative folder; machines share an absolute one, or one in ~/")
        return given

    @field_validator("environment")
    @classmethod
    def _names_alone(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for name in given:
            if not re.fullmatch(_VARIABLE, name):
                raise ValueError(
                    f"an entry is no name of a variable ({counted(len(name), 'character')}): list names alone, such as "
                    "AWS_ACCESS_KEY_ID; the values are those of the shell in which `cluster up` is typed"
                )
        return given

    @field_validator("data")
    @classmethod
    def _data_sets(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(check_name, given))

    @model_validator(mode="after")
    def _different(self) -> HostsSpec:
        labels = [host.label for host in self.hosts]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"{twice[0]} is listed twice; a machine is one node")
        return self

    @property
    def hosts(self) -> list[HostSpec]:
        """All machines, the head first, with the fields of the file where they have none of their own."""
        common = {name: getattr(self, name) for name in ("user", "identity_file", "ssh_port", "python")}
        given = [host.model_dump(exclude_none=True) for host in (self.head, *self.workers)]
        return [HostSpec(**{**common, **each}) for each in given]

    @property
    def secrets(self) -> dict[str, str]:
        """The variables of ``environment`` with their values here (InputError where one is not set)."""
        if absent := [name for name in self.environment if name not in os.environ]:
            raise InputError(
                f"environment lists {some(absent)}, not set in this shell. Set it here (export {absent[0]}=...), or "
                "take it off the list."
            )
        return {name: os.environ[name] for name in self.environment}


def read_hosts(path: Path) -> HostsSpec:
    """The machines in a file; InputError names each wrong field, a key that is not there, and a file that is absent."""
    spec = build(HostsSpec, read_document(path), str(path))
    for host in spec.hosts:
        if host.identity_file is not None and not Path(host.identity_file).expanduser().is_file():
            raise InputError(
                f"{path}: there is no file {host.identity_file}, the identity_file of {host.label}. Name the private "
                "key, or leave it out for the one that ssh finds itself."
            )
    return spec
