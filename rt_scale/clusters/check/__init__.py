"""Cluster files checked before anything is started: what each kind of file is, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from rt_scale.clusters.check.document import Asked, Document, Findings, mapping, read_documents
from rt_scale.spec.errors import InputError
from rt_scale.spec.yaml_files import read_text

FIELDS = {
    "Ray launcher file": {
        "available_node_types", "cluster_name", "provider", "head_node_type", "auth", "max_workers",
        "head_start_ray_commands", "worker_start_ray_commands", "setup_commands",
    },
    "KubeRay manifest": {"apiVersion", "kind", "metadata", "spec"},
    "file of machines": {"head", "workers", "identity_file", "store", "data", "environment", "python", "folder"},
    "SkyPilot task": {"resources", "run", "setup", "num_nodes", "file_mounts", "envs", "workdir"},
}  # fmt: skip
"""Kind of YAML file -> fields that tell it from others."""


def check_file(path: Path, asked: Asked) -> Findings:
    """What is wrong with the cluster file ``path``, its problems in order of lines, and what could be checked.

    InputError: the file cannot be read, or is of no kind that is known.
    """
    text = read_text(path)
    if text.startswith("#!") or "#SBATCH" in text:
        from rt_scale.clusters.check.slurm import check_script

        found = Findings("sbatch script")
        check_script(path, text, asked, found)
    else:
        documents = read_documents(text, str(path))
        found = Findings(_kind(documents, path))
        _CHECKS[found.kind](documents, text, asked, found)
    found.problems = sorted(set(found.problems))
    return found


def _kind(documents: list[Document], path: Path) -> str:
    given = {key for document in documents for key in mapping(document.value)}
    best = max(FIELDS, key=lambda kind: len(FIELDS[kind] & given))
    if not FIELDS[best] & given:
        raise InputError(
            f"'{path}' is no cluster file that is known. Known are: a {', a '.join(FIELDS)}, and a script with #SBATCH "
            "lines. 'rt-scale cluster write' makes each of them."
        )
    return best


def _launcher(documents: list[Document], text: str, asked: Asked, found: Findings) -> None:
    from rt_scale.clusters.check.launcher import check_launcher

    check_launcher(documents[0], text, asked, found)


def _manifest(documents: list[Document], text: str, asked: Asked, found: Findings) -> None:
    from rt_scale.clusters.check.kuberay import check_manifest

    check_manifest(documents, text, asked, found)


def _task(documents: list[Document], text: str, asked: Asked, found: Findings) -> None:
    from rt_scale.clusters.check.sky import check_task

    check_task(documents[0], text, asked, found)


def _machines(documents: list[Document], text: str, asked: Asked, found: Findings) -> None:
    from rt_scale.clusters.check.machines import check_machines

    check_machines(documents[0], asked, found)


_CHECKS = {
    "Ray launcher file": _launcher, "KubeRay manifest": _manifest, "SkyPilot task": _task,
    "file of machines": _machines,
}  # fmt: skip
