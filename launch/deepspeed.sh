#!/usr/bin/env bash
# Trains with DeepSpeed, started by its own launcher. Checks the flags first, and ends with the run's own exit code.
#
#   launch/deepspeed.sh --config FILE [FLAG of training ...]
#   HOSTFILE=FILE launch/deepspeed.sh --config FILE ...       on the nodes that FILE names, a line each: HOST slots=8
#
# NPROC_PER_NODE is how many processes a node starts: one for each GPU unless given; without GPUs, one.
# launch/train.sh --engine deepspeed trains the same, started by torchrun, which starts lost ranks anew.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$home/.venv/bin/python

fail() {
    printf 'launch/deepspeed.sh: %s\n' "$1" >&2
    exit 2
}

if [[ ${1:-} == --help ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "$home/launch/deepspeed.sh"
    exit
fi
[[ -x $python ]] || fail "there is no $python; run launch/install.sh first"
[[ -x $home/.venv/bin/deepspeed ]] || fail "there is no DeepSpeed; $python -m pip install 'deepspeed>=0.19.8'"
where=(--hostfile "${HOSTFILE:-/dev/null}") # without one, its launcher would look for /job/hostfile
if [[ ${HOSTFILE:-} && ! -r $HOSTFILE ]]; then fail "HOSTFILE is $HOSTFILE, which can't be read"; fi
if ! nvidia-smi -L >/dev/null 2>&1; then
    export DS_ACCELERATOR=cpu NPROC_PER_NODE=${NPROC_PER_NODE:-1} # what it would find out, with a warning from each process
fi
if [[ ${NPROC_PER_NODE:-} ]]; then
    [[ $NPROC_PER_NODE =~ ^[1-9][0-9]*$ ]] || fail "NPROC_PER_NODE is $NPROC_PER_NODE; it must be a number of processes"
    where+=(--num_accelerators "$NPROC_PER_NODE")
fi

# Its launcher is two processes, of which the outer one takes no care of signals: all of the group get them, and the
# end is when the last rank has left.
# shellcheck disable=SC2329 # supervise calls it
ranks() {
    local code=0 group=$BASHPID
    trap 'trap "" TERM; kill -TERM 0' TERM INT HUP USR1
    "$home/.venv/bin/deepspeed" --quiet "${where[@]}" --no_local_rank --module stylefinetune.train "$@" &
    wait "$!" || code=$?
    while (($(pgrep -c -g "$group") > 1)); do sleep 0.2; done # more than this shell
    exit "$code"
}

# shellcheck source=launch/supervise.sh
source "$home/launch/supervise.sh"
supervise "TERM INT HUP USR1" ranks --engine deepspeed "$@"
exit "$("$python" "$home/launch/ending.py" "$run_dir" "$code" ${asked:+--asked "$asked"})"
