#!/usr/bin/env bash
# For launch/train.sh and slurm/finetune.sh to source: runs a training run's launcher from its check to its end.
set -euo pipefail

asked="" # the signal that came last
child="" # process id of the launcher

pass_on() { # SIGNAL
    asked=$1 woken=1
    if [[ $child ]]; then kill "-$1" "$child" 2>/dev/null || true; fi
}

# supervise SIGNALS LAUNCHER FLAG...
#
# Checks the flags of training in one plain process, so that a mistake is one line and exit code 2; then lets the
# function LAUNCHER start the ranks with them, and passes each of SIGNALS on to it, once.
# Leaves run_dir, its folder, and code, what LAUNCHER ended with.
# shellcheck disable=SC2034,SC2154 # python is the caller's, code is for it
supervise() {
    local name launcher=$2
    for name in $1; do
        # shellcheck disable=SC2064 # now
        trap "pass_on $name" "$name"
    done
    shift 2
    run_dir=$("$python" -m stylefinetune.check "$@") || exit
    rm -f -- "$run_dir/exit.json" # an earlier run's
    code=0
    if [[ $asked ]]; then return; fi
    # A process group of its own: what a terminal sends to all of one, comes once, through here.
    set -m
    "$launcher" "$@" &
    child=$!
    set +m
    until
        woken="" code=0
        wait "$child" || code=$?
        [[ ! $woken ]] # by a signal, which has been passed on
    do :; done
}
