#!/usr/bin/env bash
# Cuts a node's power: kills its slurmd, its job steps and their processes at once, without a message to the controller.
#
#   tests/slurm/node-kill.sh DIR NODE
set -uo pipefail
base=$1 node=$2
export SLURM_CONF="$base/etc/slurm.conf"
if [[ $(<"$base/etc/isolate") == 1 ]]; then
    kill -KILL "$(<"$base/run/node.$node.pid")" && rm -f "$base/run/node.$node.pid"
    exit
fi
victims=()
# Each step has a socket spool.NODE/NODE_JOB.STEP, and its slurmstepd knows its processes.
for socket in "$base/spool.$node/${node}"_*.*; do
    job=${socket##*/"${node}"_}
    for process in $(timeout 5 scontrol listpids "${job%%.*}" "$node" 2>/dev/null | awk '$1 ~ /^[0-9]+$/ {print $1}'); do
        victims+=("$process")
        parent=$(awk '/^PPid:/{print $2}' "/proc/$process/status" 2>/dev/null)
        if [[ $(cat "/proc/$parent/comm" 2>/dev/null) == slurmstepd ]]; then victims+=("$parent"); fi
    done
done
kill -KILL "$(<"$base/run/slurmd.$node.pid")" && rm -f "$base/run/slurmd.$node.pid"
if ((${#victims[@]})); then kill -KILL "${victims[@]}" 2>/dev/null; fi
exit 0
