#!/usr/bin/env bash
# Trains on the hosts of an Amazon SageMaker training job: launch/train.sh with the hosts of the job as its nodes.
#
#   PyTorch(entry_point="launch/sagemaker.sh", source_dir=".", instance_count=2, hyperparameters={"config": "..."}, ...)
#
# The arguments are flags of training, which SageMaker makes from the hyperparameters. SM_HOSTS, SM_CURRENT_HOST and
# SM_NUM_GPUS are SageMaker's.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=launch/sagemaker.sh
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"

if [[ ${1:-} == --help ]]; then
    show_help
    exit
fi
[[ ${SM_HOSTS:-} && ${SM_CURRENT_HOST:-} ]] || fail "SM_HOSTS and SM_CURRENT_HOST are not set; without SageMaker: launch/train.sh"
IFS=', ' read -ra hosts <<<"$(tr -d '[]"' <<<"$SM_HOSTS")" # ["algo-1","algo-2"]
NODE_RANK=""
for number in "${!hosts[@]}"; do
    if [[ ${hosts[number]} == "$SM_CURRENT_HOST" ]]; then NODE_RANK=$number; fi
done
[[ $NODE_RANK ]] || fail "SM_CURRENT_HOST is $SM_CURRENT_HOST, which is not in SM_HOSTS, $SM_HOSTS"
export NODE_RANK NNODES=${#hosts[@]} MASTER_ADDR=${hosts[0]} MASTER_PORT=${MASTER_PORT:-29500}
if ((${SM_NUM_GPUS:-0} > 0)); then export NPROC_PER_NODE=$SM_NUM_GPUS; fi
find_python
if [[ ! ${PYTHON:-} ]]; then python -m pip install --quiet --constraint "$home/launch/constraints.txt" "$home"; fi
exec "$home/launch/train.sh" "$@"
