"""Manifests of KubeRay: RayCluster and RayJob, by their custom resource definitions and by rules that these lack."""

from __future__ import annotations

import difflib
import functools
import json
import lzma
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rt_scale.clusters.check import rules
from rt_scale.clusters.check.document import (
    Asked,
    Document,
    Findings,
    Keys,
    dig,
    dotted,
    leaves,
    listed,
    mapping,
    unknown,
)
from rt_scale.clusters.check.schema import check_schema, strict
from rt_scale.ray_backend.resources import Node
from rt_scale.spec.errors import InputError, first_line, shown
from rt_scale.store.objects.uri import is_address

KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
"""Kinds of object that are checked, and their plurals."""
CRDS = "RT_SCALE_KUBERAY_CRDS"
"""Variable that names the folder of definitions."""
MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
"""Ways in which RayJobs are submitted, which the definition does not list."""
GRACE_S = 30
"""Kubernetes' default of terminationGracePeriodSeconds."""
GKE_S = 15
"""Seconds that GKE gives such pods on a spot node."""
_TOKENS = (2, 52)
"""First version of Ray with token authentication."""
_META = {
    "type": "object",
    "properties": {
        **{key: {"type": "string"} for key in ("name", "generateName", "namespace")},
        **{key: {"type": "object", "additionalProperties": {"type": "string"}} for key in ("labels", "annotations")},
        "finalizers": {"type": "array", "items": {"type": "string"}},
        "ownerReferences": {"type": "array"},
    },
    "additionalProperties": False,
}
"""What a person writes into an object's metadata; a definition only says that it is a mapping."""
_EVERY = ("apiVersion", "kind", "metadata")
_FIELDS = {
    "ConfigMap": ("data", "binaryData", "immutable"),
    "Secret": ("data", "stringData", "immutable", "type"),
    "ServiceAccount": ("secrets", "imagePullSecrets", "automountServiceAccountToken"),
}
"""Kind of other objects -> their own fields."""
_AMOUNTS = ("cpu", "memory", "ephemeral-storage")
_DEVICES = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", "habana.ai/gaudi", "aws.amazon.com/neuron")


def check_manifest(documents: list[Document], text: str, asked: Asked, found: Findings) -> None:
    """Add the problems of a manifest to ``found``."""
    from rt_scale.ray_backend.launcher import start_options

    others = []
    for document in documents:
        kind = document.get("kind")
        if kind in KINDS:
            _check_one(document, text, asked, found, start_options())
        else:
            _check_other(document, found)
            others.append(f"{kind} {document.get('metadata', 'name')}")
            if isinstance(kind, str) and str(document.get("apiVersion")).startswith("ray.io/"):
                found.wrong_at(document, ("kind",), unknown(kind, list(KINDS), "kind"))
    if others:
        found.unchecked.append(
            f"the other objects ({', '.join(others)}): kubectl apply --dry-run=server -f FILE has a cluster check them"
        )
    rules.check_versions(text, found)
    store, line = rules.check_store(text, asked, found, folders=True)
    found.unchecked.append("whether the cluster has the images, secrets and nodes that are named: nothing asks it")
    for document in documents:
        if document.get("kind") in KINDS:
            _check_store(document, store, line, found)


def _check_other(document: Document, found: Findings) -> None:
    """What every object of Kubernetes has."""
    for name in _EVERY:
        if document.get(name) is None:
            found.wrong_at(document, (name,), "missing; add it")
    known = [*_EVERY, *_FIELDS.get(str(document.get("kind")), ())]
    for key in mapping(document.value):
        close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.7)
        if key not in known and (close or len(known) > len(_EVERY)):
            found.wrong_at(document, (key,), unknown(str(key), known))
    if document.get("metadata") is not None:
        check_schema(_META, document, found, ("metadata",))


def _check_one(document: Document, text: str, asked: Asked, found: Findings, options: list[str]) -> None:
    kind = str(document.get("kind"))
    schema = _definition(kind, str(asked.crds or os.environ.get(CRDS, "")))
    if isinstance(schema, str):
        found.unchecked.append(f"the fields of {kind}, by KubeRay's definition: {schema}")
    else:
        version = str(document.get("apiVersion"))
        if version not in schema:
            found.wrong_at(document, ("apiVersion",), unknown(version, list(schema), "version"))
        check_schema(schema.get(version) or next(iter(schema.values())), document, found)
        found.checked.append(f"KubeRay's definition of {kind}, with no other fields than it has")
    base: Keys = ("spec", "rayClusterSpec") if kind == "RayJob" else ("spec",)
    _check_name(document, found)
    if kind == "RayJob":
        _check_job(document, found)
    _check_cluster(document, base, found)
    for keys, group in _groups(document, base):
        _check_group(document, keys, group, base, found, options)
    _check_fits(document, base, asked, found)


@functools.cache
def _definition(kind: str, folder: str) -> dict[str, Any] | str:
    """The strict schemas of a kind by apiVersion, from ``folder`` or the cluster; why there is none, in words."""
    name = f"ray.io_{KINDS[kind]}.yaml"
    if folder:
        files = [Path(folder) / name, Path(folder) / f"{name}.xz"]
        file = next((each for each in files if each.is_file()), None)
        if file is None:
            raise InputError(
                f"There is no {name} in '{folder}'. Give a folder with KubeRay's definitions, which are in its "
                "repository in helm-chart/kuberay-operator/crds."
            )
        text = (lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()).decode()
    else:
        text = _from_cluster(kind)
        if not text:
            return f"give its folder with --crds or {CRDS}; no cluster answers kubectl"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        versions = dig(yaml.load(text, Loader=loader), "spec", "versions")  # noqa: S506 - both loaders are safe
    except yaml.YAMLError as error:
        raise InputError(f"KubeRay's definition of {kind} cannot be read: {first_line(error)}") from error
    schemas = {}
    for each in listed(versions):
        schema = strict(dig(each, "schema", "openAPIV3Schema"))
        schema["properties"]["metadata"] = _META
        schemas[f"ray.io/{each['name']}"] = schema
    return schemas


def _from_cluster(kind: str) -> str:
    if shutil.which("kubectl") is None:
        return ""
    command = ["kubectl", "get", "crd", f"{KINDS[kind]}.ray.io", "-o", "yaml", "--request-timeout=5s"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def _check_name(document: Document, found: Findings) -> None:
    """RayJobs and RayClusters give their names to services, which are DNS-1035 labels."""
    name = document.get("metadata", "name")
    if name is None and document.get("metadata", "generateName") is None:
        found.wrong_at(document, ("metadata", "name"), "missing; add it")
    elif isinstance(name, str) and not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name):
        found.wrong_at(
            document, ("metadata", "name"),
            f"{shown(name)} was given; allowed: at most 47 lower-case letters, digits and dashes, a letter first and "
            "no dash last",
        )  # fmt: skip


def _check_job(document: Document, found: Findings) -> None:
    spec = mapping(document.get("spec"))
    if "clusterSelector" in spec and spec.get("backoffLimit"):
        found.wrong_at(document, ("spec", "backoffLimit"), "not allowed with clusterSelector: leave one of them out")
    if "clusterSelector" not in spec and "rayClusterSpec" not in spec:
        found.wrong_at(document, ("spec",), "rayClusterSpec is missing; add it")
    if "rayClusterSpec" in spec and spec.get("shutdownAfterJobFinishes") is not True and "deletionStrategy" not in spec:
        found.wrong_at(
            document, ("spec", "shutdownAfterJobFinishes"),
            "not true: the cluster stays, and is paid for, after the job's end; write true",
        )  # fmt: skip
    if spec.get("ttlSecondsAfterFinished") and spec.get("shutdownAfterJobFinishes") is not True:
        found.wrong_at(document, ("spec", "ttlSecondsAfterFinished"), "it needs shutdownAfterJobFinishes: true")
    mode = spec.get("submissionMode", MODES[0])
    if isinstance(mode, str) and mode not in MODES:
        found.wrong_at(document, ("spec", "submissionMode"), unknown(mode, MODES, "mode"))
    elif mode != MODES[-1] and not spec.get("entrypoint"):
        found.wrong_at(document, ("spec", "entrypoint"), "missing: the job has nothing to run; add it")


def _check_cluster(document: Document, base: Keys, found: Findings) -> None:
    """Authentication, version, and whether the cluster grows and shrinks."""
    cluster = mapping(document.get(*base))
    if not cluster:
        return
    version = cluster.get("rayVersion")
    if version is not None:
        rules.check_version(version, document.line((*base, "rayVersion")), found, dotted((*base, "rayVersion")))
    if dig(cluster, "authOptions", "mode") != "token":
        found.wrong_at(
            document, (*base, "authOptions"),
            "no token authentication: whoever reaches the pods can run code; write authOptions: {mode: token}",
        )  # fmt: skip
    elif _release(version) < _TOKENS:
        found.wrong_at(
            document,
            (*base, "rayVersion"),
            f"{shown(version)} was given; token authentication needs 2.52 or newer here",
        )
    groups = listed(cluster.get("workerGroupSpecs"))
    if not any(dig(group, "maxReplicas") or dig(group, "replicas") for group in groups):
        found.wrong_at(document, (*base, "workerGroupSpecs"), "no workers: every maxReplicas is 0; give 1 or more")
    changing = any(dig(group, "minReplicas") != dig(group, "maxReplicas") for group in groups)
    if changing and cluster.get("enableInTreeAutoscaling") is not True:
        found.wrong_at(
            document, (*base, "enableInTreeAutoscaling"),
            "not true, so no worker is ever added or given back; write true",
        )  # fmt: skip
    options = (*base, "autoscalerOptions", "resources")
    _check_amounts(document, options, document.get(*options), found)
    service = dig(cluster, "headGroupSpec", "serviceType")
    if service in ("LoadBalancer", "NodePort"):
        found.wrong_at(
            document, (*base, "headGroupSpec", "serviceType"),
            f"{service} opens the dashboard to others, and it runs any code it is sent; write ClusterIP, and reach it "
            "with kubectl port-forward",
        )  # fmt: skip
    _check_spot(document, base, cluster, found)


def _release(version: Any) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", str(version or ""))[:2]) or (0,)


SPOT = ("spot", "preemptible")
"""Words in labels of nodes that may be taken away, as clouds and Karpenter give them."""


def _is_spot(pod: Any, words: Sequence[str] = SPOT) -> bool:
    """Whether a pod, given by its spec, may go to a node whose labels or taints have one of ``words``."""

    def named(value: Any) -> bool:
        return any(word in json.dumps(value, default=str).lower() for word in words)

    rules = [each for each in _parts(dig(pod, "affinity", "nodeAffinity")) if named(each) and "operator" in each]
    if any(each["operator"] in ("In", "Exists") for each in rules) or named(dig(pod, "nodeSelector")):
        return True
    return named(dig(pod, "tolerations")) and not rules


def _parts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in ``value`` without another one in it, such as the expressions of an affinity."""
    inner = list(value.values()) if isinstance(value, Mapping) else listed(value)
    deeper = [part for each in inner for part in _parts(each)]
    yield from deeper
    if isinstance(value, Mapping) and not deeper:
        yield value


def _check_spot(document: Document, base: Keys, cluster: Mapping[str, Any], found: Findings) -> None:
    if not any(_is_spot(dig(each, "template", "spec")) for each in listed(cluster.get("workerGroupSpecs"))):
        return
    head = (*base, "headGroupSpec")
    if _is_spot(dig(cluster, "headGroupSpec", "template", "spec")):
        found.wrong_at(document, head, "the head is on a spot node: its loss ends the cluster; make it on-demand")
    if str(dig(cluster, "headGroupSpec", "rayStartParams", "num-cpus")) != "0":
        found.wrong_at(
            document, (*head, "rayStartParams"),
            'the head takes runs, although the workers are on spot nodes; write num-cpus: "0"',
        )  # fmt: skip


def _groups(document: Document, base: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """The head's group and the workers', with their keys."""
    yield (*base, "headGroupSpec"), mapping(document.get(*base, "headGroupSpec"))
    for number, group in enumerate(listed(document.get(*base, "workerGroupSpecs"))):
        yield (*base, "workerGroupSpecs", number), mapping(group)


def _check_group(
    document: Document, keys: Keys, group: Mapping[str, Any], base: Keys, found: Findings, options: list[str]
) -> None:
    for name in mapping(group.get("rayStartParams")):
        if name not in options:
            found.wrong_at(
                document, (*keys, "rayStartParams", name), unknown(str(name), options, "option of ray start")
            )
    spec = mapping(dig(group, "template", "spec"))
    pod = (*keys, "template", "spec")
    restart = spec.get("restartPolicy")
    if document.get(*base, "autoscalerOptions", "version") == "v2" and restart not in (None, "Never"):
        found.wrong_at(
            document, (*pod, "restartPolicy"), f"{shown(restart)} was given; version v2 of the autoscaler needs Never"
        )
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        found.wrong_at(document, (*keys, "minReplicas"), f"{least} was given, above maxReplicas, {most}")
    for number, container in enumerate(listed(spec.get("containers"))):
        _check_amounts(document, (*pod, "containers", number, "resources"), dig(container, "resources"), found)
    if keys[-1] != "headGroupSpec" and spec:
        _check_drain(document, pod, spec, found)


def _check_amounts(document: Document, keys: Keys, resources: Any, found: Findings) -> None:
    for part in ("requests", "limits"):
        for name, amount in mapping(dig(resources, part)).items():
            at = (*keys, part, name)
            if "/" not in name and name not in _AMOUNTS and not name.startswith("hugepages-"):
                found.wrong_at(document, at, unknown(name, [*_AMOUNTS, *_DEVICES], "resource"))
            elif name.startswith("nvidia.com/") and not re.fullmatch(r"nvidia\.com/(gpu(\.shared)?|mig-.*)", name):
                found.wrong_at(document, at, unknown(name, _DEVICES, "resource"))
            if quantity(amount) is None:
                found.wrong_at(
                    document, at, f"{shown(amount)} was given; allowed: an amount such as 4, 500m, 16Gi or 1.5G"
                )
    devices = {
        part: {n: a for n, a in mapping(dig(resources, part)).items() if "/" in n} for part in ("requests", "limits")
    }
    for name, amount in devices["requests"].items():
        if str(devices["limits"].get(name)) != str(amount):
            found.wrong_at(
                document, (*keys, "requests", name), f"{amount} was given; GPUs need the same number in limits"
            )


_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def quantity(text: object) -> float | None:
    """An amount as Kubernetes writes it, e.g. ``500m`` or ``16Gi``; None if it is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", str(text))
    return float(found[1]) * _UNITS[found[2] or ""] if found else None


def _check_drain(document: Document, pod: Keys, spec: Mapping[str, Any], found: Findings) -> None:
    """The pod is killed when its grace period ends, which must be after Ray's drain."""
    seconds, at = rules.DRAIN_S, pod
    for number, container in enumerate(listed(spec.get("containers"))):
        for index, variable in enumerate(listed(dig(container, "env"))):
            value = dig(variable, "value")
            if dig(variable, "name") == rules.DRAIN and re.fullmatch(r"[0-9.]+", str(value)):
                seconds, at = float(value), (*pod, "containers", number, "env", index, "value")
    grace = spec.get("terminationGracePeriodSeconds", GRACE_S)
    grace = grace if isinstance(grace, int) else GRACE_S
    whose = "terminationGracePeriodSeconds"
    if grace > GKE_S and _is_spot(spec, ("gke-spot",)):
        grace, whose = GKE_S, "the time that GKE gives pods of a spot node"
    if seconds >= grace:
        found.wrong_at(document, at, rules.drain_text(seconds, grace, whose))


def _check_store(document: Document, store: str, line: int, found: Findings) -> None:
    """Credentials for an object store, or a volume that holds a folder, in every group."""
    base: Keys = ("spec", "rayClusterSpec") if document.get("kind") == "RayJob" else ("spec",)
    for keys, group in _groups(document, base):
        spec = mapping(dig(group, "template", "spec"))
        if not spec or not store:
            continue
        if is_address(store):
            named = [str(value) for at, value in leaves(spec) if at[-1] in ("name", "secretName")]
            variables = any(re.match(r"AWS_(ACCESS|WEB|ROLE|SHARED)|GOOGLE_APP|AZURE_", each) for each in named)
            mounted = any(dig(each, "envFrom") for each in listed(spec.get("containers")))
            if not (variables or mounted or spec.get("serviceAccountName")):
                found.wrong_at(
                    document, (*keys, "template", "spec"),
                    f"such pods have no credentials for {store}: give a serviceAccountName, or variables from a Secret",
                )  # fmt: skip
        elif not _holds(spec, store):
            found.wrong(
                line, dotted(keys),
                f"the store {store} is in no volume that pods share; mount a persistentVolumeClaim, or give s3:// or gs://",
            )  # fmt: skip


def _holds(spec: Mapping[str, Any], store: str) -> bool:
    """Whether the folder is in a mounted volume that several pods see."""
    shared = {
        dig(each, "name")
        for each in listed(spec.get("volumes"))
        if {"persistentVolumeClaim", "nfs", "csi"} & set(mapping(each))
    }
    return any(
        dig(mount, "name") in shared and Path(store).is_relative_to(str(dig(mount, "mountPath")))
        for container in listed(spec.get("containers"))
        for mount in listed(dig(container, "volumeMounts"))
    )


def _check_fits(document: Document, base: Keys, asked: Asked, found: Findings) -> None:
    kinds = []
    for keys, group in _groups(document, base):
        limits = dig(group, "template", "spec", "containers", 0, "resources")
        cpus = (
            dig(group, "rayStartParams", "num-cpus") or dig(limits, "limits", "cpu") or dig(limits, "requests", "cpu")
        )
        gpus = dig(group, "rayStartParams", "num-gpus") or dig(limits, "limits", "nvidia.com/gpu") or 0
        count = 1 if keys[-1] == "headGroupSpec" else dig(group, "maxReplicas") or dig(group, "replicas") or 0
        amounts = {"CPU": quantity(cpus), "GPU": quantity(gpus), "memory": quantity(dig(limits, "limits", "memory"))}
        if cpus is None:
            name = dig(group, "groupName") or "head"
            found.unchecked.append(f"whether runs fit on pods of {name}: they state no cpu")
            return
        if amounts["CPU"] and isinstance(count, int) and count:
            has = {key: math.ceil(amount) for key, amount in amounts.items() if amount}
            kinds.append((Node(str(dig(group, "groupName") or "head"), has, count, False), document.line(keys)))
    if asked.launches:
        rules.check_fits(asked, kinds, found, document.line((*base, "workerGroupSpecs")))
