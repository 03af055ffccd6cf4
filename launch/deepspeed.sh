#!/usr/bin/env bash
# Trains with DeepSpeed, started by its own launcher. Checks the flags first, and exits with the exit code of the run.
#
#   launch/deepspeed.sh --config FILE [FLAG of training ...]
#   HOSTFILE=FILE launch/deepspeed.sh --config FILE ...       on several nodes
#
# Environment variables:
# HOSTFILE        file with a line per node: HOST slots=8. Each HOST accepts ssh without a password, and has the
#                 checkout, PYTHON, HOSTFILE, the shards and run_dir under the same paths
# NPROC_PER_NODE  processes per node; default: the slots, or without HOSTFILE one per GPU, or 1 without GPUs
# MASTER_ADDR     address of the first HOST; default: the first one that `hostname -I` prints there
# MASTER_PORT     free port there; default: any
# PYTHON          interpreter; default: the active environment's, else .venv/bin/python
#
# launch/train.sh --engine deepspeed trains the same with torchrun, which also restarts the ranks if one is lost.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=launch/deepspeed.sh
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
ssh=(ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15)
# The environment variables that other nodes get too.
forwarded='^(PYTHON|OMP_|MKL_|OPENBLAS_|NCCL_|GLOO_|UCX_|TORCH|DS_|DEEPSPEED_|WANDB_|AWS_|LD_LIBRARY_PATH$|[a-zA-Z]+_(proxy|PROXY)$)'

read_hostfile() { # sets hosts
    local line number=0
    [[ -f $HOSTFILE && -r $HOSTFILE ]] || fail "HOSTFILE is $HOSTFILE, which can't be read"
    while read -r line || [[ $line ]]; do
        number=$((number + 1))
        if [[ ! $line || $line == \#* ]]; then continue; fi
        [[ $line =~ ^([^[:space:]#-][^[:space:]]*)[[:space:]]+slots=([1-9][0-9]*)[[:space:]]*$ ]] ||
            fail "$HOSTFILE, line $number: \"$line\" isn't of the form HOST slots=NUMBER"
        local host=${BASH_REMATCH[1]} slots=${BASH_REMATCH[2]}
        [[ " ${hosts[*]} " != *" $host "* ]] || fail "$HOSTFILE, line $number: $host is listed twice"
        ((${NPROC_PER_NODE:-1} <= slots)) ||
            fail "NPROC_PER_NODE is $NPROC_PER_NODE, but $HOSTFILE, line $number, has $host slots=$slots"
        hosts+=("$host")
    done <"$HOSTFILE"
    ((${#hosts[@]})) || fail "$HOSTFILE lists no host; write lines of the form HOST slots=NUMBER"
}

# shellcheck disable=SC2329 # start_nodes, which supervise calls, calls it
check_nodes() { # before any of them is started; sets MASTER_ADDR and MASTER_PORT
    local host output code
    for host in "${hosts[@]}"; do
        code=0
        # shellcheck disable=SC2016 # the node expands it
        output=$(printf 'cd %q && [[ -r %q && -x %q ]] && echo "$(hostname -I) $(%q -c %q)"\n' \
            "$PWD" "$HOSTFILE" "$PYTHON" "$PYTHON" "$free_port" | "${ssh[@]}" "$host" exec bash -s 2>&1) || code=$?
        output=${output##*$'\n'}
        if ((code == 255)); then fail "$host can't be reached by ssh: ${output%$'\r'}"; fi
        ((code == 0)) || fail "$host lacks the folder $PWD, $HOSTFILE or $PYTHON, which each node must have"
        MASTER_ADDR=${MASTER_ADDR:-${output%% *}} MASTER_PORT=${MASTER_PORT:-${output##* }}
    done
}

# The node's shell reads these commands from its input, since all users of the node could read its arguments.
# shellcheck disable=SC2329 # start_nodes, which supervise calls, calls it
print_node_commands() { # NODE_RANK FLAG...
    local name
    printf 'cd %q\n' "$PWD"
    for name in $(compgen -e); do
        if [[ $name =~ $forwarded ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
    done
    printf 'export %q %q %q %q %q\n' "NODE_RANK=$1" "HOSTFILE=$HOSTFILE" "MASTER_ADDR=$MASTER_ADDR" \
        "MASTER_PORT=$MASTER_PORT" "NPROC_PER_NODE=${NPROC_PER_NODE:-}"
    shift
    printf 'exec %q' "$home/launch/deepspeed_node.sh"
    printf ' %q' "$@"
    echo
}

# The ranks of a node train as long as the node's input is open, and the input is open as long as its `sleep` runs. When
# one node fails, the others have 30 s to exit by themselves and report what their ranks know.
# shellcheck disable=SC2329 # supervise calls it
start_nodes() {
    local code=0 node_code stop_at="" rank input sleeps=() sshs=()
    trap 'stop_at=0' TERM INT HUP USR1
    check_nodes
    for rank in "${!hosts[@]}"; do
        exec {input}< <(print_node_commands "$rank" "$@" && exec sleep infinity)
        sleeps+=("$!")
        "${ssh[@]}" "${hosts[rank]}" exec bash -s <&"$input" &
        sshs[rank]=$!
        exec {input}<&-
    done
    while ((${#sshs[@]})); do
        if [[ $stop_at ]] && ((SECONDS >= stop_at)); then kill "${sleeps[@]}" 2>/dev/null || true; fi
        sleep 0.2
        for rank in "${!sshs[@]}"; do
            if kill -0 "${sshs[rank]}" 2>/dev/null; then continue; fi
            node_code=0
            wait "${sshs[rank]}" || node_code=$?
            unset "sshs[rank]"
            if ((node_code == 255)); then
                printf '%s: the connection to %s was lost\n' "$script" "${hosts[rank]}" >&2
                node_code=5
            fi
            if ((node_code)); then code=$((code ? code : node_code)) stop_at=${stop_at:-$((SECONDS + 30))}; fi
        done
    done
    kill "${sleeps[@]}" 2>/dev/null || true
    exit "$code"
}

# shellcheck disable=SC2329 # supervise calls it
start_node() {
    exec "$home/launch/deepspeed_node.sh" "$@"
}

if [[ ${1:-} == --help ]]; then
    show_help
    exit
fi
require_python
if [[ ${NPROC_PER_NODE:-} ]]; then require_number NPROC_PER_NODE 1 9999; fi
if [[ ${MASTER_PORT:-} ]]; then require_number MASTER_PORT 1 65535; fi
hosts=() launcher=start_node
if [[ ${HOSTFILE:-} ]]; then
    read_hostfile
    launcher=start_nodes
else
    # The launcher's default port is the same for all runs, which would mix the ranks of two runs on one machine.
    MASTER_PORT=${MASTER_PORT:-$("$PYTHON" -c "$free_port")}
    export MASTER_PORT
    unset HOSTFILE
fi

# shellcheck source=launch/supervise.sh
source "$home/launch/supervise.sh"
supervise "TERM INT HUP USR1" "$launcher" --engine deepspeed "$@"
exit "$("$PYTHON" "$home/launch/exit_code.py" "$run_dir" "$code" ${received:+--signal "$received"})"
