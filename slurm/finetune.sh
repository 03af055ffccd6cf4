#!/usr/bin/env bash
# Fine-tunes a network on the nodes of a Slurm job, which is requeued, and goes on, until the run has finished.
#
#   sbatch slurm/finetune.sh --config configs/finetune/flickr_style.yaml [FLAG of training ...]
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=16 --mem=64G --time=2:00:00 slurm/finetune.sh --config ...
#   NPROC_PER_NODE=2 sbatch --gpus-per-node=0 --cpus-per-task=8 --mem=16G slurm/finetune.sh --config ...      no GPUs
#
# Submit from the checkout, or with sbatch --chdir=CHECKOUT; sbatch's own flags win over those below. Checkout, shards and
# run_dir have to be on a disk that all nodes see.
# 120 s before its time limit Slurm sends SIGUSR1; so does who wants the node: scancel --batch --signal=USR1 JOB. The run
# saves and leaves, RUN/exit.json says that it can go on, and the job is requeued. Where it says otherwise, the job ends
# with the run's exit code (docs/operations.md). scancel JOB ends it for good.
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
python=.venv/bin/python

fail() {
    printf 'slurm/finetune.sh: %s\n' "$1" >&2
    exit 2
}

[[ ${SLURM_JOB_ID:-} ]] || fail "this is a job script; submit it: sbatch slurm/finetune.sh --config FILE; without Slurm: launch/train.sh"
# Slurm runs a copy of this script, so that the working folder alone tells where the checkout is.
[[ -d stylefinetune && -x $python ]] ||
    fail "no stylefinetune/ and .venv/bin/python in $PWD; submit from the checkout, or with sbatch --chdir=CHECKOUT, after launch/install.sh there"
export NPROC_PER_NODE=${NPROC_PER_NODE:-${SLURM_GPUS_ON_NODE:-}}
[[ $NPROC_PER_NODE ]] || fail "the job has no GPUs; set NPROC_PER_NODE to how many processes a node is to start, or ask for --gpus-per-node"

# This script runs on the first of the nodes. Two jobs there seldom share a port.
export NNODES=$SLURM_JOB_NUM_NODES MASTER_ADDR=$SLURMD_NODENAME MASTER_PORT=$((10000 + SLURM_JOB_ID % 6000))

# One agent a node, which puts its own number in. When one has ended, the others have a minute to save and leave.
# shellcheck disable=SC2016,SC2329 # each node expands it for itself; supervise calls this
agents() {
    exec srun --nodes="$NNODES" --ntasks="$NNODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
        --kill-on-bad-exit=0 --wait=60 bash -c 'NODE_RANK=$SLURM_NODEID exec launch/agent.sh "$@"' agent "$@"
}

# shellcheck source=launch/supervise.sh
source launch/supervise.sh
# Not TERM: scancel sends it, and a job that was cancelled must not come back.
supervise USR1 agents "$@"
read -r code again < <("$python" launch/ending.py "$run_dir" "$code" --job "$SLURM_JOB_ID" ${asked:+--asked "$asked"})
if [[ $again ]]; then
    echo "slurm/finetune.sh: the run can go on (exit code $code); requeueing job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID" || echo "slurm/finetune.sh: Slurm has not requeued it; submit it again" >&2
fi
exit "$code"
