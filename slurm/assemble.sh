#!/usr/bin/env bash
# Assembles one DIR with a Slurm job array. Each task makes its share of the tars, and a second job completes DIR.
#
#   job=$(sbatch --parsable --array=0-15 slurm/assemble.sh --list flickr_style --out DIR)
#   sbatch --dependency=afterok:"$job" --kill-on-invalid-dep=yes slurm/merge.sh DIR
#
# The arguments are flags of `shards assemble`, except --partition, which the array gives. Submit from the
# checkout, or with sbatch --chdir=CHECKOUT. The flags of sbatch (--time, --cpus-per-task, ...) override those below.
# PYTHON is the interpreter; default: the one of the environment that is active when you submit, else .venv/bin/python.
#
# A task whose node fails is requeued and continues. A task that fails itself continues with: scontrol requeue JOB_TASK;
# Slurm has then cancelled the merge job, so submit it again.
# To submit only some of the tasks, give the number of all: sbatch --array=3,7 slurm/assemble.sh --partitions 16 ...
# Without --array, one job assembles all of DIR, and there is nothing to merge.
# DIR may be s3://bucket/DIR. Then set --stage to a folder on the nodes' own disks.
#SBATCH --job-name=assemble
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=assemble-%A_%a.out
set -euo pipefail
script=slurm/assemble.sh home=$PWD # Slurm runs a copy of the script, so only the working folder shows the checkout
[[ ${SLURM_JOB_ID:-} ]] || home=$(cd "$(dirname "$0")/.." && pwd)
if [[ ! -f $home/launch/functions.sh ]]; then
    echo "$script: $home is not the checkout; submit from the checkout, or with sbatch --chdir=CHECKOUT" >&2
    exit 2
fi
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"
start_job "sbatch --array=0-15 slurm/assemble.sh --list LIST --out DIR" "$@"

count="" arguments=()
while (($#)); do
    case $1 in
    --partitions | --partitions=*)
        if [[ $1 == --partitions ]]; then count=${2:-} && shift; else count=${1#*=}; fi
        [[ $count =~ ^[1-9][0-9]{0,5}$ ]] || fail "--partitions is ${count:-empty}; it must be a number, at least 1"
        ;;
    --partition | --partition=*)
        fail "--partition comes from the array; give the number of all partitions with --partitions N"
        ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

partition=()
if [[ ${SLURM_ARRAY_TASK_ID:-} ]]; then
    # shellcheck disable=SC2153 # Slurm sets it
    first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX tasks=$SLURM_ARRAY_TASK_COUNT
    if [[ ! $count ]]; then
        count=$tasks
        ((first == 0 && last == count - 1)) ||
            fail "an array of $tasks from $first to $last isn't all of 0 to n - 1; give the number of all partitions with --partitions N"
    fi
    ((SLURM_ARRAY_TASK_ID < count)) ||
        fail "task $SLURM_ARRAY_TASK_ID isn't one of $count partitions, which count from 0"
    partition=("--partition=$SLURM_ARRAY_TASK_ID/$count")
elif [[ $count ]]; then
    fail "--partitions $count is for an array; submit with: sbatch --array=0-$((count - 1))"
fi

# The job's cores give the number of packing workers; a --workers in the arguments comes later and overrides it.
exec srun --cpus-per-task="$SLURM_CPUS_PER_TASK" "$PYTHON" -m shards assemble \
    --workers="$SLURM_CPUS_PER_TASK" ${partition[@]+"${partition[@]}"} ${arguments[@]+"${arguments[@]}"}
