#!/usr/bin/env bash
# Trains on one node or on several, without a scheduler. Checks the flags first, and ends with the run's own exit code.
#
#   launch/train.sh --config FILE [FLAG of training ...]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST launch/train.sh --config FILE ...       on the second node NODE_RANK=1
#   NNODES=1:2 NODE_RANK=0 MASTER_ADDR=HOST launch/train.sh --config FILE ...     elastic: goes on with 1 node or 2
#
# MASTER_ADDR is node 0, which has to be there from first to last; MASTER_PORT a free port there, 29500 unless given.
# NPROC_PER_NODE is how many processes a node starts: one for each GPU unless given; without GPUs, one.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$home/.venv/bin/python

fail() {
    printf 'launch/train.sh: %s\n' "$1" >&2
    exit 2
}

if [[ ${1:-} == --help ]]; then
    sed -n '2,9s/^# \{0,1\}//p' "$home/launch/train.sh"
    exit
fi
[[ -x $python ]] || fail "there is no $python; run launch/install.sh first"
export NNODES=${NNODES:-1}
[[ $NNODES =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || fail "NNODES is $NNODES; it must be a number of nodes, or MIN:MAX"
if [[ $NNODES == 1 ]]; then
    export NODE_RANK=0 MASTER_ADDR=localhost MASTER_PORT=${MASTER_PORT:-0} # any free port
else
    [[ ${MASTER_ADDR:-} ]] || fail "NNODES is $NNODES; set MASTER_ADDR to node 0's name, on every node"
    [[ ${NODE_RANK:-} =~ ^[0-9]+$ ]] || fail "NNODES is $NNODES; set NODE_RANK to this node's number, from 0"
    export NODE_RANK MASTER_ADDR MASTER_PORT=${MASTER_PORT:-29500}
fi
if [[ ! ${NPROC_PER_NODE:-} ]]; then
    if nvidia-smi -L >/dev/null 2>&1; then NPROC_PER_NODE=gpu; else NPROC_PER_NODE=1; fi
fi
export NPROC_PER_NODE

# A signal to one node stops the ranks of all; the other nodes' agents would wait ten minutes for that one's return.
# shellcheck disable=SC2154,SC2329 # supervise sets run_dir; agent, which it calls, calls this
leave_with_the_others() { # process id of the agent
    while kill -0 "$1" 2>/dev/null; do
        if grep -qs '"reason": "stopped"' "$run_dir/exit.json"; then
            sleep 5
            kill -TERM "$1" 2>/dev/null || true
            return
        fi
        sleep 1
    done
}

# Elastic, a stop may be for a node that comes, and those left go on by themselves.
# shellcheck disable=SC2329 # supervise calls it
agent() {
    local agent=$BASHPID
    if [[ $NNODES != 1 && $NNODES != *:* ]]; then leave_with_the_others "$agent" & fi
    exec "$home/launch/agent.sh" "$@"
}

# shellcheck source=launch/supervise.sh
source "$home/launch/supervise.sh"
supervise "TERM INT HUP USR1" agent "$@"
exit "$("$python" "$home/launch/ending.py" "$run_dir" "$code" ${asked:+--asked "$asked"})"
