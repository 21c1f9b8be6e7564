#!/bin/bash
# Written by: rt-scale cluster write slurm_nodes sweeps/paper/fig1.yaml --store /shared/rt-store --max 4
# As written (edit the lines marked "# edit"; checksum f8abf3f1ac72)
# Slurm: one Ray on several nodes, for runs of several workers. Runs that fit on a node: slurm_array.sh, which needs
# neither nodes that are free at the same time nor ports. See docs/clusters/slurm.md.
#SBATCH --job-name=rt-fig1
#SBATCH --partition=spot  # edit: a partition of the site
#SBATCH --nodes=4  # edit: how many nodes
#SBATCH --ntasks-per-node=1 --exclusive
#SBATCH --cpus-per-task=1  # edit: more cores execute more runs at once
#SBATCH --gres=gpu:1  # edit: more GPUs execute more runs at once; types as: sinfo -o %G
#SBATCH --mem=4G  # edit: memory of a node
#SBATCH --time=24:00:00  # edit: a job that reaches this limit goes on from the queue
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

job=$SLURM_JOB_ID
scratch=/tmp/rt-$job-${SLURM_RESTART_COUNT:-0}  # edit: on a disk of each node; short, as Ray's sockets are below it
source .venv/bin/activate  # edit: the environment, on a file system that all nodes see
export RT_SCALE_DATA=${RT_SCALE_DATA:-$HOME/.cache/rt-scale}  # edit: prepared data sets, where all nodes see them
export RAY_TMPDIR=$scratch

# Ray is a step, with its head on this node, at the address that Slurm has for it. At preemption Slurm sends SIGTERM to
# every process of a step, but the driver needs Ray until its runs have written checkpoints: so Ray does not receive it.
address=$(scontrol --oneliner show node "$SLURMD_NODENAME" | grep -o ' NodeAddr=[^ ]*')
export first=$SLURMD_NODENAME ip port=$((20000 + job % 10000)) deaf RAY_AUTH_MODE=token RAY_AUTH_TOKEN
ip=$(getent ahostsv4 "${address#*=}" | awk '{ print $1; exit }')
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
deaf='import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.execvp(sys.argv[1], sys.argv[1:])'
srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --job-name=ray \
    --output=%x-%j-ray.log --open-mode=append bash -c '
    mkdir -m 700 "$RAY_TMPDIR" || exit 1
    if [ "$SLURMD_NODENAME" = "$first" ]; then
        set -- --head --node-ip-address=$ip --port=$port
    else
        for _ in {1..120}; do (: <>"/dev/tcp/$ip/$port") 2>/dev/null && break; sleep 1; done
        set -- --address=$ip:$port
    fi
    exec python -c "$deaf" ray start "$@" --block --disable-usage-stats --num-cpus=$SLURM_CPUS_ON_NODE \
        --num-gpus=$SLURM_GPUS_ON_NODE' &
ray=$!
until [ -S "$scratch/ray/session_latest/sockets/raylet" ] || ! kill -0 "$ray"; do sleep 1; done

RAY_ADDRESS=$ip:$port rt-scale sweep sweeps/paper/fig1.yaml --store /shared/rt-store --wait-nodes "$SLURM_NNODES" &
driver=$!

# A driver that gets SIGTERM has its runs write checkpoints and ends with 130. Slurm sends USR1 before the time limit. At
# preemption it signals steps at once but this shell only after the grace time, so a step passes that on.
trap 'kill -TERM "$driver"' USR1
srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --job-name=notice \
    bash -c "trap 'kill -TERM $driver 2>/dev/null' TERM; sleep infinity & wait" &
notice=$!
until wait "$driver"; code=$?; [ "$code" != 138 ]; do :; done  # 138: it was USR1 that ended this wait
kill "$notice" 2>/dev/null
kill -USR2 "$ray"  # Slurm sends it to every process of that step, and it ends them
srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 rm -rf "$scratch"

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
