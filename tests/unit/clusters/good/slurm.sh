#!/bin/bash
#SBATCH --job-name=demo
#SBATCH --array=0-3%2
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --time=1-12:00:00
#SBATCH --mem=16G
#SBATCH --requeue
#SBATCH --signal=B:TERM@90
#SBATCH --open-mode=append
set -euo pipefail
rt-scale sweep demo --store /shared/store
