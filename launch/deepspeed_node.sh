#!/usr/bin/env bash
# Runs one node's ranks with DeepSpeed's launcher, and exits after the last of them. SIGTERM stops them.
# launch/deepspeed.sh starts it with PYTHON and MASTER_PORT. On several nodes it starts it by ssh, with HOSTFILE,
# NODE_RANK and MASTER_ADDR too. There the end of the input also stops the ranks: ssh passes no signals on.
set -euo pipefail
flags=(--master_port "$MASTER_PORT")
if ! nvidia-smi -L >/dev/null 2>&1; then
    export DS_ACCELERATOR=cpu # which DeepSpeed would detect with a warning from each process
    if [[ ! ${HOSTFILE:-} ]]; then NPROC_PER_NODE=${NPROC_PER_NODE:-1}; fi
fi
if [[ ${NPROC_PER_NODE:-} ]]; then flags+=(--num_accelerators "$NPROC_PER_NODE"); fi

# DeepSpeed's launcher is two processes, and the outer one doesn't pass signals on. So a signal goes to the whole
# process group, and this script waits until the group is empty.
code=0 input_watch=""
trap 'trap "" TERM; kill -TERM 0' TERM INT HUP USR1
if [[ ${HOSTFILE:-} ]]; then
    flags+=(--hostfile "$HOSTFILE" --no_ssh --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR")
    { read -r -d "" || kill -TERM "$$"; } <&0 &
    input_watch=$!
else
    flags+=(--hostfile /dev/null) # the default is /job/hostfile
fi
"$PYTHON" -m deepspeed.launcher.runner --quiet "${flags[@]}" --no_local_rank --module stylefinetune.train "$@" &
wait "$!" || code=$?
if [[ $input_watch ]]; then kill "$input_watch" 2>/dev/null || true; fi
while (($(pgrep -c -g "$$") > 1)); do sleep 0.2; done # more than this shell
exit "$code"
