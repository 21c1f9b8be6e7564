"""Good cluster files with one thing broken: what is wrong is named in its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.clusters.broken import check_changed, told

AWS = [
    ("InstanceType: g5.xlarge", "InstanceType: g5.xlarg", "'g5.xlarg'; did you mean 'g5.xlarge'"),
    ("InstanceType: g5.xlarge", "InstanceTyp: g5.xlarge", "'InstanceTyp'; did you mean 'InstanceType'"),
    ("VolumeSize: 100", 'VolumeSize: "100"', "'100' was given; allowed: a whole number"),
    ("VolumeType: gp3", "VolumeType: gp33", "did you mean 'gp3'"),
    ("MarketType: spot", "MarketType: sport", "did you mean 'spot'"),
    ("    max_workers: 8", "    max_workers: many", "'many' was given; allowed: a whole number"),
    ('"CPU": 4', '"CPU": "4"', "without quotes"),
    ('"CPU": 4', '"cpus": 4', "did you mean 'CPU'"),
    ("max_workers: 8", "max_workers: 0", "never gets a worker"),
    ("max_workers: 8\n    node_config", "max_workers: 0\n    node_config", "never such a worker"),
    ("    min_workers: 0\n    max_workers: 8", "    min_workers: 9\n    max_workers: 8", "above max_workers, 8"),
    ("head_node_type: head", "head_node_type: had", "did you mean 'head'"),
    ("SpotFirstAws", "SpotFirst", "did you mean 'rt_scale.ray_backend.spot_first.SpotFirstAws'"),
    ("type: external", "type: awss", "did you mean 'aws'"),
    ("region: us-west-2", "region: us-west-22", "did you mean 'us-west-2'"),
    ("us-west-2b", "us-east-1b", "'us-east-1b' is no zone of region 'us-west-2'"),
    ("  ssh_from: 203.0.113.7/32", "  ssh_from: 0.0.0.0/0", "open to the whole world"),
    ("  ssh_from: 203.0.113.7/32", "  ssh_from: 203.0.113.7/99", "203.0.113.7/99"),
    ("idle_timeout_minutes: 5\n", "", "never given back"),
    ("idle_timeout_minutes: 5", "idle_timeout_minutes: 600", "paid for so long"),
    ("IamInstanceProfile: {Name: rt-scale}\n      InstanceMarketOptions", "InstanceMarketOptions",
     "no credentials for s3://bucket/runs", "node_config:"),
    ("      KeyName: rt\n", "", "no KeyName"),
    ("ray[default]==2.60.0", "ray[default]==2.55.1", "Ray 2.55.1 was given"),
    ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "runs any code"),
    ("--dashboard-host=", "--dashbord-host=", "did you mean '--dashboard-host'"),
    ("setup_commands:\n", "setup_comands:\n", "did you mean 'setup_commands'"),
    ("      InstanceType: m5.large", "      InstanceMarketOptions: {MarketType: spot}",
     "its loss ends the cluster", "  head:"),
    ("initialization_commands: []\n",
     "initialization_commands:\n  - export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=120\n",
     "notice of a spot machine is 120 s"),
]  # fmt: skip
GCP = [
    ("machineType: g2", "machinType: g2", "did you mean 'machineType'"),
    ("provisioningModel: SPOT", "provisioningModel: SPOTS", "did you mean 'SPOT'"),
    ("      scheduling:\n        provisioningModel: SPOT\n        onHostMaintenance: TERMINATE\n"
     "        instanceTerminationAction: DELETE",
     "      scheduling:\n        - preemptible: true", "allowed: a mapping"),
    ("acceleratorCount: 1", "acceleratorCount: one", "allowed: a whole number"),
    ("availability_zone: us-central1-a", "availability_zone: us-east1-a", "is no zone of region 'us-central1'"),
    ("machineType: g2-standard-4\n      serviceAccounts: [{email: a@b.c,",
     "machineType: g2-standard-4\n      tags: [{email: a@b.c,", "no serviceAccounts", "node_config:"),
    ("provisioningModel: SPOT", "preemptible: maybe", "allowed: true or false"),
]  # fmt: skip
KUBERAY = [
    ("tolerations:", "toleration:", "did you mean 'tolerations'"),
    ("effect: NoSchedule", "efect: NoSchedule", "did you mean 'effect'"),
    ("minReplicas: 0", "minReplica: 0", "did you mean 'minReplicas'"),
    ("minReplicas: 0", "minReplicas: 9", "above maxReplicas, 8"),
    ("maxReplicas: 8", "maxReplicas: 0", "every maxReplicas is 0", "workerGroupSpecs:"),
    ("submissionMode: K8sJobMode", "submissionMode: K8sJob", "did you mean 'K8sJobMode'"),
    ("ray.io/v1\n", "ray.io/v2\n", "did you mean 'ray.io/v1'"),
    ("kind: RayJob", "kind: RayJobs", "did you mean 'RayJob'"),
    ("name: demo\n", "name: 2demo\n", "a letter first"),
    ("name: demo\n", "name: Demo\n", "lower-case letters"),
    ("num-cpus:", "num-cpu:", "did you mean 'num-cpus'"),
    ('num-cpus: "0"', 'num-cpus: "2"', "the head takes runs", "rayStartParams:"),
    ('num-cpus: "0"', "num-cpus: 0", "in quotes"),
    ("mode: token", "mode: disabled", "no token authentication", "authOptions:"),
    ('rayVersion: "2.60.0"', 'rayVersion: "2.51.0"', "needs 2.52"),
    ("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "ever added or given back"),
    ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "stays, and is paid for"),
    ("backoffLimit: 3", "backoffLimit: 3\n  clusterSelector: {a: b}", "not allowed with clusterSelector"),
    ("terminationGracePeriodSeconds: 60", "restartPolicy: Always", "v2 of the autoscaler needs Never"),
    ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 40",
     "is 40 s: the node is killed", "RAY_GRACEFUL"),
    ("nvidia.com/gpu: \"1\"", "nvidia.com/gpus: \"1\"", "did you mean 'nvidia.com/gpu'"),
    ("nvidia.com/gpu: \"1\"", "nvidia.com/gpu: \"2\"", "the same number in limits"),
    ("memory: 16Gi", "memory: 16GB", "an amount such as"),
    ("cpu: \"4\"", "cpus: \"4\"", "did you mean 'cpu'"),
    ("value: \"40\"", "value: 40", "in quotes"),
    ("headGroupSpec:\n", "headGroupSpec:\n      serviceType: LoadBalancer\n", "opens the dashboard", "LoadBalancer"),
    ("  entrypoint: rt-scale sweep", "  entrypoints: rt-scale sweep", "did you mean 'entrypoint'"),
    ("image: example/rt-scale:1", "image: rayproject/ray:2.40.0-py311", "Ray 2.40.0 was given"),
    ("medium: Memory", "medum: Memory", "did you mean 'medium'"),
]  # fmt: skip
SLURM = [
    ("--job-name", "--jobname", "did you mean '--job-name'"),
    ("--cpus-per-task=4", "--cpus-per-tasks=4", "did you mean '--cpus-per-task'"),
    ("--cpus-per-task=4", "--cpus-per-task=four", "a whole number from 1 on"),
    ("--array=0-3%2", "--array=0..3", "0-99%8"),
    ("--time=1-12:00:00", "--time=36h", "days-hours"),
    ("--mem=16G", "--mem=16GiB", "e.g. 16G"),
    ("--signal=B:TERM@90", "--signal=B@90", "B:TERM@90"),
    ("--requeue", "--requeue=yes", "takes no value"),
    ("--mem=16G", "--mem", "its value is missing"),
    ("--open-mode=append", "--open-mode=add", "append or truncate"),
    ("#SBATCH --mem", "#SBTACH --mem", "takes it for a comment"),
    ("#SBATCH --mem", "# SBATCH --mem", "takes it for a comment"),
    ("#SBATCH --mem", "#SBATCH mem", "belongs to no option"),
    ("#!/bin/bash", "# a script", "begins with its shell"),
    ("set -euo pipefail\n", "set -e\n#SBATCH --exclusive\n", "no directive after the first command", "--exclusive"),
    ("rt-scale sweep", "if true; then rt-scale sweep", "syntax error", "rt-scale"),
    ("set -euo", "export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=90; set -euo", "is 90 s: the node is killed"),
    ("set -euo", "ray start --head --port=1; set -euo", "RAY_AUTH_MODE"),
    ("set -euo", "export AWS_ENDPOINT_URL=http://localhost:9000; set -euo", "this machine alone"),
]  # fmt: skip
SKY = [
    ("use_spot: true", "use_spott: true", "did you mean 'use_spot'"),
    ("num_nodes: 1", "num_nodes: 0", "the least is 1"),
    ("use_spot: true", "use_spot: sometimes", "allowed: true or false"),
    ("setup: |", "set_up: |", "did you mean 'setup'"),
    ("ray[default]==2.60.0", "ray==2.9.3", "Ray 2.9.3 was given"),
]
VARIANTS = [
    (name, *each)
    for name, table in {
        "aws.yaml": AWS, "gcp.yaml": GCP, "kuberay.yaml": KUBERAY, "slurm.sh": SLURM, "sky.yaml": SKY
    }.items()
    for each in table
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: f"{each[0]} {each[2][:40].strip()}")
def test_it_is_named_in_its_line(tmp_path: Path, variant: tuple[str, ...]) -> None:
    name, old, new, words, *where = variant
    found, line = check_changed(tmp_path, name, old, new)
    shown, lines = told(found), (tmp_path / name).read_text().splitlines()
    assert words in shown, shown
    at = [each.line for each in found.problems if words in each.text]
    if where:
        assert all(where[0] in lines[row - 1] for row in at), shown
    elif new:
        assert set(at) & {*range(line, line + new.count("\n") + 1)}, shown
