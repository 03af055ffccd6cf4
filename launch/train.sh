#!/usr/bin/env bash
# Trains on one node or several, without a scheduler. Checks the flags first, and exits with the exit code of the run.
#
#   launch/train.sh --config FILE [FLAG of training ...]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST launch/train.sh --config FILE ...       on the second node NODE_RANK=1
#   NNODES=1:2 NODE_RANK=0 MASTER_ADDR=HOST launch/train.sh --config FILE ...     elastic: runs on 1 node or 2
#
# Environment variables:
# NNODES          number of nodes, or MIN:MAX; default: 1
# NODE_RANK       number of this node, from 0
# MASTER_ADDR     host name or address of node 0, which must run from start to end
# MASTER_PORT     free port there; default: 29500, or with one node any
# NPROC_PER_NODE  processes per node; default: one per GPU, or 1 without GPUs
# PYTHON          interpreter; default: the active environment's, else .venv/bin/python
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=launch/train.sh
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"

if [[ ${1:-} == --help ]]; then
    show_help
    exit
fi
require_python
export NNODES=${NNODES:-1}
[[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || fail "NNODES is $NNODES; it must be a number of nodes, or MIN:MAX"
max_nodes=${NNODES#*:}
((${NNODES%:*} <= max_nodes)) || fail "NNODES is $NNODES; the first number must not exceed the second"
if [[ $NNODES == 1 ]]; then
    export NODE_RANK=0 MASTER_ADDR=localhost MASTER_PORT=${MASTER_PORT:-0} # any free port
else
    [[ ${MASTER_ADDR:-} ]] || fail "NNODES is $NNODES; set MASTER_ADDR to node 0's name, on every node"
    [[ ${NODE_RANK:-} ]] || fail "NNODES is $NNODES; set NODE_RANK to this node's number, from 0"
    export NODE_RANK MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500}
fi
require_number NODE_RANK 0 "$([[ $NNODES == *:* ]] && echo 9999 || echo $((max_nodes - 1)))"
require_number MASTER_PORT "$([[ $NNODES == 1 ]] && echo 0 || echo 1)" 65535
has_gpus=$(nvidia-smi -L 2>/dev/null) || has_gpus=""
export NPROC_PER_NODE=${NPROC_PER_NODE:-$([[ $has_gpus ]] && echo gpu || echo 1)}
case $NPROC_PER_NODE in
cpu | auto) ;;
gpu) [[ $has_gpus ]] || fail "NPROC_PER_NODE is gpu, but this node has no GPUs; set it to a number of processes" ;;
*) require_number NPROC_PER_NODE 1 9999 ;;
esac
"$PYTHON" "$home/launch/rendezvous.py"

# A signal to one node stops the ranks of all nodes. The agents of the other nodes would wait ten minutes for that node,
# so this function ends its agent.
# shellcheck disable=SC2154,SC2329 # supervise sets run_dir; agent, which it calls, calls this
stop_with_other_nodes() { # process id of the agent
    while kill -0 "$1" 2>/dev/null; do
        if grep -qs '"reason": "stopped"' "$run_dir/exit.json"; then
            sleep 5
            kill -TERM "$1" 2>/dev/null || true
            return
        fi
        sleep 1
    done
}

# In an elastic run the ranks also stop when a node joins, and the agents restart them.
# shellcheck disable=SC2329 # supervise calls it
agent() {
    local agent=$BASHPID
    if [[ $NNODES != 1 && $NNODES != *:* ]]; then stop_with_other_nodes "$agent" & fi
    exec "$home/launch/agent.sh" "$@"
}

# shellcheck source=launch/supervise.sh
source "$home/launch/supervise.sh"
supervise "TERM INT HUP USR1" agent "$@"
exit "$("$PYTHON" "$home/launch/exit_code.py" "$run_dir" "$code" ${received:+--signal "$received"})"
