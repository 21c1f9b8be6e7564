#!/bin/bash
# Written by: rt-scale cluster write slurm_array sweeps/paper/fig1.yaml --store /shared/rt-store --max 4
# As written (edit the lines marked "# edit"; checksum 88c1a8e0c785)
# Slurm: an array of drivers that know nothing of each other. Each has a node, or a part of one, and a Ray of its own; they
# share the sweep by the leases in its store. Runs that need more than a node: slurm_nodes.sh. See docs/clusters/slurm.md.
#SBATCH --job-name=rt-fig1
#SBATCH --array=1-4  # edit: how many drivers; more may be submitted at any time, and any one cancelled
#SBATCH --partition=spot  # edit: a partition of the site
#SBATCH --nodes=1 --ntasks=1
#SBATCH --cpus-per-task=1  # edit: more cores execute more runs at once
#SBATCH --gres=gpu:1  # edit: more GPUs execute more runs at once; types as: sinfo -o %G
#SBATCH --mem=4G  # edit: memory of a node
#SBATCH --time=24:00:00  # edit: a job that reaches this limit goes on from the queue
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -uo pipefail

job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
scratch=$(mktemp -d /tmp/rt-XXXXXX) || exit 1  # edit: on a disk of the node; short, as Ray's sockets are below it
trap 'rm -rf "$scratch"' EXIT
source .venv/bin/activate  # edit: the environment, on a file system that all nodes see
export RT_SCALE_DATA=${RT_SCALE_DATA:-$HOME/.cache/rt-scale}  # edit: prepared data sets, where all nodes see them
export RAY_TMPDIR=$scratch
export RAY_AUTH_TOKEN_PATH=$scratch/token

rt-scale sweep sweeps/paper/fig1.yaml --store /shared/rt-store --leave-others &
driver=$!

# A driver that gets SIGTERM has its runs write checkpoints and ends with 130. Slurm sends USR1 before the time limit. At
# preemption it signals steps at once but this shell only after the grace time, so a step passes that on.
trap 'kill -TERM "$driver"' USR1
srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --job-name=notice \
    bash -c "trap 'kill -TERM $driver 2>/dev/null' TERM; sleep infinity & wait" &
notice=$!
until wait "$driver"; code=$?; [ "$code" != 138 ]; do :; done  # 138: it was USR1 that ended this wait
kill "$notice" 2>/dev/null

# Slurm requeues a job that it ends, but none that ends by itself at preemption or before the time limit. A job that was
# cancelled is no longer RUNNING here. A controller that is busy does not answer: it is asked again.
requeued() {
    local state
    state=$(squeue --noheader --job="$job" --format=%T) && { [ "$state" != RUNNING ] || scontrol requeue "$job"; }
}
case $code in
    3 | 130)  # the Ray cluster was lost; asked to stop
        for _ in {1..20}; do requeued && break; sleep 3; done ;;
    4) code=0 ;;  # other drivers execute what is left
esac
exit "$code"
