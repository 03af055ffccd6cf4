#!/usr/bin/env bash
# Merges what the tasks of slurm/assemble.sh made into DIR's index. If a task is incomplete, it prints which, and fails.
#
#   sbatch --dependency=afterok:JOB --kill-on-invalid-dep=yes slurm/merge.sh DIR
#
# Submit from the checkout, or with sbatch --chdir=CHECKOUT.
# PYTHON is the interpreter; default: the one of the environment that is active when you submit, else .venv/bin/python.
#SBATCH --job-name=merge
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=merge-%j.out
set -euo pipefail
script=slurm/merge.sh home=$PWD # Slurm runs a copy of the script, so only the working folder shows the checkout
[[ ${SLURM_JOB_ID:-} ]] || home=$(cd "$(dirname "$0")/.." && pwd)
if [[ ! -f $home/launch/functions.sh ]]; then
    echo "$script: $home is not the checkout; submit from the checkout, or with sbatch --chdir=CHECKOUT" >&2
    exit 2
fi
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"
start_job "sbatch slurm/merge.sh DIR; or run: shards merge DIR" "$@"

exec srun "$PYTHON" -m shards merge "$@"
