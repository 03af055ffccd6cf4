#!/usr/bin/env bash
# Assembles one DIR with the tasks of a Slurm array, each its share of the blocks; a second job joins what they made.
#
#   job=$(sbatch --parsable --array=0-15 slurm/assemble.sh --list flickr_style --out DIR)
#   sbatch --dependency=afterok:"$job" --kill-on-invalid-dep=yes slurm/merge.sh DIR
#
# What follows the script's name is for python -m shards assemble; --partition comes from the array. Submit from the
# checkout, or with sbatch --chdir=CHECKOUT; sbatch's own flags (--time, --cpus-per-task, ...) win over those below.
# A task whose node fails is requeued and goes on. One that failed itself goes on with: scontrol requeue JOB_TASK; the
# merge that depended on it is cancelled, and has to be submitted again.
# To submit some tasks again, say how many there are in all: sbatch --array=3,7 slurm/assemble.sh --partitions 16 ...
# Without --array, one job makes all of DIR, and there is nothing to merge.
# DIR may be s3://bucket/DIR; give --stage a folder on the nodes' own disks then.
#SBATCH --job-name=assemble
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=assemble-%A_%a.out
set -euo pipefail

fail() {
    printf 'slurm/assemble.sh: %s\n' "$1" >&2
    exit 2
}

[[ ${SLURM_JOB_ID:-} ]] || fail "this is a job script; submit it: sbatch --array=0-15 slurm/assemble.sh --list LIST --out DIR"
# Slurm runs a copy of this script, so that the working folder alone tells where the checkout is.
[[ -d shards && -x .venv/bin/python ]] ||
    fail "no shards/ and .venv/bin/python in $PWD; submit from the checkout, or with sbatch --chdir=CHECKOUT, after launch/install.sh there"

count="" arguments=()
while (($#)); do
    case $1 in
    --partitions | --partitions=*)
        if [[ $1 == --partitions ]]; then count=${2:-} && shift; else count=${1#*=}; fi
        [[ $count =~ ^[1-9][0-9]{0,5}$ ]] || fail "--partitions is ${count:-empty}; it must be a number, at least 1"
        ;;
    --partition | --partition=*)
        fail "--partition comes from the array; to say how many partitions there are in all: --partitions N"
        ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

share=()
if [[ ${SLURM_ARRAY_TASK_ID:-} ]]; then
    # shellcheck disable=SC2153 # Slurm sets it
    first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX tasks=$SLURM_ARRAY_TASK_COUNT
    if [[ ! $count ]]; then
        count=$tasks
        ((first == 0 && last == count - 1)) ||
            fail "an array of $tasks from $first to $last isn't all of 0 to n - 1; say how many partitions there are in all: --partitions N"
    fi
    ((SLURM_ARRAY_TASK_ID < count)) ||
        fail "task $SLURM_ARRAY_TASK_ID isn't one of $count partitions, which count from 0"
    share=("--partition=$SLURM_ARRAY_TASK_ID/$count")
elif [[ $count ]]; then
    fail "--partitions $count is for an array; submit with: sbatch --array=0-$((count - 1))"
fi

# As many packing workers as the job has cores, not the node; a --workers of yours comes later and wins.
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/python -m shards assemble \
    --workers="$SLURM_CPUS_PER_TASK" ${share[@]+"${share[@]}"} ${arguments[@]+"${arguments[@]}"}
