#!/usr/bin/env bash
# Runs torchrun's agent of one node. launch/train.sh and slurm/finetune.sh start one on each node and set PYTHON,
# NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT and NPROC_PER_NODE. The arguments are flags of training.
set -euo pipefail

# If the agents shared one store, a node that joins later would wait for an address that torchrun publishes only once.
if [[ $NNODES == *:* ]]; then export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; fi

# The id is the same on all nodes, and differs between runs. RUN/.lock compares it, so that restarted ranks wait for the
# exit of their predecessors.
if [[ $NNODES == 1 ]]; then id=$(uname -n)-$$; else id=$MASTER_PORT; fi

# is_host: node 0 is the host, whatever its name is. Without SIGUSR1 in the list, that signal would end the agent and
# leave its ranks running.
exec "$PYTHON" -m torch.distributed.run \
    --nnodes="$NNODES" --nproc_per_node="$NPROC_PER_NODE" --max_restarts=3 \
    --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:$MASTER_PORT" --rdzv_id="stylefinetune-$id" \
    --rdzv_conf="is_host=$((NODE_RANK == 0))" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m stylefinetune.train "$@"
