#!/usr/bin/env bash
# Starts one node of the cluster in DIR, or brings it back after node-kill.sh.
#
#   tests/slurm/node-up.sh DIR NODE
set -euo pipefail
base=$1 node=$2
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$base/etc/slurm.conf"
if [[ $(<"$base/etc/isolate") == 1 ]]; then
    # sh is process 1 of the node and reaps its orphans. When unshare is killed, the whole node is killed too.
    setsid unshare --uts --pid --fork --kill-child=KILL --mount-proc \
        sh -c "hostname $node; slurmd -D -f '$SLURM_CONF' -N $node & wait" </dev/null >>"$base/log/node.$node.out" 2>&1 &
    echo $! >"$base/run/node.$node.pid"
else
    slurmd -f "$SLURM_CONF" -N "$node"
fi
