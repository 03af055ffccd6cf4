#!/usr/bin/env bash
# Runs one node's ranks with DeepSpeed's launcher, and ends when the last of them has left. SIGTERM stops them.
# launch/deepspeed.sh starts it with MASTER_PORT; on several nodes by ssh, with HOSTFILE, NODE_RANK and MASTER_ADDR too,
# and there the end of its input stops the ranks as well: ssh passes no signal on, but that end always comes through.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
where=(--master_port "$MASTER_PORT")
if ! nvidia-smi -L >/dev/null 2>&1; then
    export DS_ACCELERATOR=cpu # what it would find out, with a warning from each process
    if [[ ! ${HOSTFILE:-} ]]; then NPROC_PER_NODE=${NPROC_PER_NODE:-1}; fi
fi
if [[ ${NPROC_PER_NODE:-} ]]; then where+=(--num_accelerators "$NPROC_PER_NODE"); fi

# Its launcher is two processes, of which the outer one takes no care of signals: all of the group get them, and the
# end is when the last rank has left.
code=0 watch=""
trap 'trap "" TERM; kill -TERM 0' TERM INT HUP USR1
if [[ ${HOSTFILE:-} ]]; then
    where+=(--hostfile "$HOSTFILE" --no_ssh --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
    { read -r -d "" || kill -TERM "$$"; } <&0 &
    watch=$!
else
    where+=(--hostfile /dev/null) # without one, it would look for /job/hostfile
fi
"$home/.venv/bin/deepspeed" --quiet "${where[@]}" --no_local_rank --module stylefinetune.train "$@" &
wait "$!" || code=$?
if [[ $watch ]]; then kill "$watch" 2>/dev/null || true; fi
while (($(pgrep -c -g "$$") > 1)); do sleep 0.2; done # more than this shell
exit "$code"
