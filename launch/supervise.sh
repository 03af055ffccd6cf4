#!/usr/bin/env bash
# For launch/train.sh, launch/deepspeed.sh and slurm/finetune.sh to source: checks a training run, starts it, passes
# signals on to it and waits for its end.
set -euo pipefail

received="" # the last signal, such as TERM
child=""    # process id of the launcher

pass_on() { # SIGNAL
    received=$1 interrupted=1
    if [[ $child ]]; then kill "-$1" "$child" 2>/dev/null || true; fi
}

# supervise SIGNALS LAUNCHER FLAG...
#
# Checks the flags of training in one process, so that a mistake is one line and exit code 2. Then calls the function
# LAUNCHER, which starts the ranks with these flags, and passes each of SIGNALS on to it, once.
# Sets run_dir, the run's folder, and code, the exit code of LAUNCHER.
# shellcheck disable=SC2034 # the caller reads code
supervise() {
    local name launcher=$2
    for name in $1; do
        # shellcheck disable=SC2064 # expanded now
        trap "pass_on $name" "$name"
    done
    shift 2
    [[ ${OMP_NUM_THREADS:-1} =~ ^[1-9][0-9]*(,[1-9][0-9]*)*$ ]] ||
        fail "OMP_NUM_THREADS is $OMP_NUM_THREADS; it must be a number of threads, at least 1"
    run_dir=$("$PYTHON" -m stylefinetune.check "$@") || exit
    rm -f -- "$run_dir/exit.json" # of an earlier run
    code=0
    if [[ $received ]]; then return; fi
    # The launcher has a separate process group, so that it gets the signals of a terminal only once, through pass_on.
    set -m
    "$launcher" "$@" &
    child=$!
    set +m
    until
        interrupted="" code=0
        wait "$child" || code=$?
        [[ ! $interrupted ]] # a signal interrupts wait
    do :; done
}
