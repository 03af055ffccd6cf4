#!/usr/bin/env bash
# Ends the cluster in DIR and all its jobs, which it finds by the cluster's pid files. It may be run more than once.
#
#   tests/slurm/down.sh DIR
set -uo pipefail
base=$1
[[ -d $base/run ]] || exit 0
export SLURM_CONF="$base/etc/slurm.conf"

# kill -0 also succeeds for a zombie, so the state comes from /proc. The command's name is compared too, so that an old
# pid file never ends another process.
is_alive() { # PID NAME
    local state
    [[ $(cat "/proc/$1/comm" 2>/dev/null) == "$2" ]] || return 1
    state=$(awk '/^State:/{print $2}' "/proc/$1/status" 2>/dev/null)
    [[ $state && $state != Z ]]
}
stop() { # PIDFILE NAME SIGNAL
    local pid
    [[ -s $1 ]] || return 0
    pid=$(<"$1")
    if is_alive "$pid" "$2"; then
        kill "-$3" "$pid" 2>/dev/null
        for _ in $(seq 50); do
            is_alive "$pid" "$2" || break
            sleep 0.1
        done
        if is_alive "$pid" "$2"; then kill -KILL "$pid" 2>/dev/null; fi
    fi
    rm -f "$1"
}

# Without cgroups, Slurm loses track of processes whose parent has exited, and a slurmstepd waits for their output. So end
# our own orphans that have this cluster in their environment; repeat it for their children.
sweep() {
    local process found
    for _ in 1 2 3; do
        found=0
        for process in $(ps -o pid= --ppid 1 2>/dev/null); do
            [[ -O /proc/$process ]] || continue
            grep -qzxF "SLURM_CONF=$SLURM_CONF" "/proc/$process/environ" 2>/dev/null || continue
            if [[ $(cat "/proc/$process/comm" 2>/dev/null) == slurmstepd ]] ||
                grep -qz '^SLURM_JOB_ID=' "/proc/$process/environ" 2>/dev/null; then
                kill -KILL "$process" 2>/dev/null && found=1
            fi
        done
        if ((!found)); then return; fi
        sleep 0.2
    done
}

controller=$base/run/slurmctld.pid
if [[ -s $controller ]] && is_alive "$(<"$controller")" slurmctld; then
    # Jobs first, since a slurmstepd outlives its slurmd.
    timeout 5 scancel --quiet --state=PENDING,RUNNING,SUSPENDED 2>/dev/null
    timeout 5 scancel --quiet --full --signal=KILL --state=RUNNING 2>/dev/null
    for _ in $(seq 30); do
        if [[ ! $(timeout 5 squeue -h 2>/dev/null) ]]; then break; fi
        sleep 0.1
    done
fi
shopt -s nullglob
for file in "$base"/run/node.*.pid; do
    stop "$file" unshare KILL # the whole node
    node=${file##*/node.}
    rm -f "$base/run/slurmd.${node%.pid}.pid" # contains a pid of the node's own namespace
done
for file in "$base"/run/slurmd.*.pid; do stop "$file" slurmd TERM; done
stop "$controller" slurmctld TERM
stop "$base/run/munged.pid" munged TERM
if [[ $(cat "$base/etc/isolate" 2>/dev/null) == 0 ]]; then sweep; fi
# In a container /etc/hosts is a mount, so it can't be replaced.
if [[ -w /etc/hosts ]] && grep -q " # $base\$" /etc/hosts; then
    kept=$(grep -v " # $base\$" /etc/hosts)
    printf '%s\n' "$kept" >/etc/hosts
fi
exit 0
