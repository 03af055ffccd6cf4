#!/usr/bin/env bash
# Joins what the tasks of slurm/assemble.sh made into DIR's index; where blocks are missing it says which, and fails.
#
#   sbatch --dependency=afterok:JOB --kill-on-invalid-dep=yes slurm/merge.sh DIR
#
# Submit from the checkout, or with sbatch --chdir=CHECKOUT.
#SBATCH --job-name=merge
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=merge-%j.out
set -euo pipefail

fail() {
    printf 'slurm/merge.sh: %s\n' "$1" >&2
    exit 2
}

[[ ${SLURM_JOB_ID:-} ]] || fail "this is a job script; submit it: sbatch slurm/merge.sh DIR; or run: python -m shards merge DIR"
# Slurm runs a copy of this script, so that the working folder alone tells where the checkout is.
[[ -d shards && -x .venv/bin/python ]] ||
    fail "no shards/ and .venv/bin/python in $PWD; submit from the checkout, or with sbatch --chdir=CHECKOUT, after launch/install.sh there"

exec srun .venv/bin/python -m shards merge "$@"
