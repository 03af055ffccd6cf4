#!/usr/bin/env bash
# Becomes one node's torchrun agent. launch/train.sh and slurm/finetune.sh start one on each node, and set NNODES,
# NODE_RANK, MASTER_ADDR, MASTER_PORT and NPROC_PER_NODE; the arguments are flags of training.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A node that comes later would wait for an address that torchrun's agents, sharing one store, give out once only.
if [[ $NNODES == *:* ]]; then export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1; fi

# Node 0 is the host whatever it calls itself. SIGUSR1 would otherwise end the agent and leave its ranks.
exec "$home/.venv/bin/python" -m torch.distributed.run \
    --nnodes="$NNODES" --nproc_per_node="$NPROC_PER_NODE" --max_restarts=3 \
    --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:$MASTER_PORT" --rdzv_id=stylefinetune \
    --rdzv_conf="is_host=$((NODE_RANK == 0))" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    -m stylefinetune.train "$@"
