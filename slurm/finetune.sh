#!/usr/bin/env bash
# Fine-tunes a network on the nodes of a Slurm job, which is requeued and continues until the run has finished.
#
#   sbatch slurm/finetune.sh --config configs/finetune/flickr_style.yaml [FLAG of training ...]
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=16 --mem=64G --time=2:00:00 slurm/finetune.sh --config ...
#   NPROC_PER_NODE=2 sbatch --gpus-per-node=0 --cpus-per-task=8 --mem=16G slurm/finetune.sh --config ...      no GPUs
#
# Submit from the checkout, or with sbatch --chdir=CHECKOUT. The flags of sbatch override those below. The checkout, the
# shards and run_dir must be on a disk that all nodes can read.
# PYTHON is the interpreter; default: the one of the environment that is active when you submit, else .venv/bin/python.
#
# 120 s before the time limit, Slurm sends SIGUSR1; to free the nodes earlier: scancel --batch --signal=USR1 JOB. The
# run saves a checkpoint and exits, and the job is requeued if RUN/exit.json says that the run can continue. Otherwise
# the job ends with the run's exit code (docs/operations.md). scancel JOB ends the job without a requeue.
#SBATCH --job-name=finetune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=finetune-%j.out
set -euo pipefail
script=slurm/finetune.sh home=$PWD # Slurm runs a copy of the script, so only the working folder shows the checkout
[[ ${SLURM_JOB_ID:-} ]] || home=$(cd "$(dirname "$0")/.." && pwd)
if [[ ! -f $home/launch/functions.sh ]]; then
    echo "$script: $home is not the checkout; submit from the checkout, or with sbatch --chdir=CHECKOUT" >&2
    exit 2
fi
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"
start_job "sbatch slurm/finetune.sh --config FILE; without Slurm: launch/train.sh" "$@"
export NPROC_PER_NODE=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-}}
[[ $NPROC_PER_NODE ]] || fail "the job has no GPUs; set NPROC_PER_NODE to the number of processes per node, or ask for --gpus-per-node"
require_number NPROC_PER_NODE 1 9999

# This script runs on the first node. The port depends on the job, so that two jobs on a node rarely share one.
export NNODES=$SLURM_JOB_NUM_NODES MASTER_ADDR=$SLURMD_NODENAME MASTER_PORT=$((10000 + SLURM_JOB_ID % 6000))
NODE_RANK=0 "$PYTHON" launch/rendezvous.py

# Starts one agent per node with the node's number. After the first agent exits, the others have a minute to save.
# shellcheck disable=SC2016,SC2329 # each node expands it; supervise calls this
agents() {
    exec srun --nodes="$NNODES" --ntasks="$NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        --kill-on-bad-exit=0 --wait=60 bash -c 'NODE_RANK=$SLURM_NODEID exec launch/agent.sh "$@"' agent "$@"
}

# shellcheck source=launch/supervise.sh
source launch/supervise.sh
# Not TERM: scancel sends it, and a cancelled job must not be requeued.
supervise USR1 agents "$@"
read -r code requeue < <("$PYTHON" launch/exit_code.py "$run_dir" "$code" --job "$SLURM_JOB_ID" ${received:+--signal "$received"})
if [[ $requeue ]]; then
    echo "$script: the run can continue (exit code $code); requeueing job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID" || echo "$script: Slurm has not requeued job $SLURM_JOB_ID; submit it again" >&2
fi
exit "$code"
