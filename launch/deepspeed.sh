#!/usr/bin/env bash
# Trains with DeepSpeed, started by its own launcher. Checks the flags first, and ends with the run's own exit code.
#
#   launch/deepspeed.sh --config FILE [FLAG of training ...]
#   HOSTFILE=FILE launch/deepspeed.sh --config FILE ...       on the nodes that FILE names, a line each: HOST slots=8
#
# NPROC_PER_NODE is how many processes a node starts, unless given: as many as FILE says; without FILE one for each GPU,
# or one. Each HOST is reached by ssh, without a password, and has checkout, FILE, shards and run_dir under the same
# paths. All ranks meet at the first one: at MASTER_ADDR, unless given the first that `hostname -I` says there, and
# MASTER_PORT, unless given any free port.
# launch/train.sh --engine deepspeed trains the same, started by torchrun, which starts lost ranks anew.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$home/.venv/bin/python
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
ssh=(ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15)
# What of the environment goes along to other nodes, by the beginnings of names.
along='^(PYTHON|OMP_|MKL_|OPENBLAS_|NCCL_|GLOO_|UCX_|TORCH|DS_|DEEPSPEED_|WANDB_|AWS_|LD_LIBRARY_PATH$|[a-zA-Z]+_(proxy|PROXY)$)'

fail() {
    printf 'launch/deepspeed.sh: %s\n' "$1" >&2
    exit 2
}

read_hostfile() { # into hosts
    local line number=0
    [[ -f $HOSTFILE && -r $HOSTFILE ]] || fail "HOSTFILE is $HOSTFILE, which can't be read"
    while read -r line || [[ $line ]]; do
        number=$((number + 1))
        if [[ ! $line || $line == \#* ]]; then continue; fi
        [[ $line =~ ^([^[:space:]#-][^[:space:]]*)[[:space:]]+slots=([1-9][0-9]*)[[:space:]]*$ ]] ||
            fail "$HOSTFILE, line $number: \"$line\" isn't of the form HOST slots=NUMBER"
        local host=${BASH_REMATCH[1]} slots=${BASH_REMATCH[2]}
        [[ " ${hosts[*]} " != *" $host "* ]] || fail "$HOSTFILE, line $number: $host is there twice"
        ((${NPROC_PER_NODE:-1} <= slots)) ||
            fail "NPROC_PER_NODE is $NPROC_PER_NODE, but $HOSTFILE, line $number, says $host slots=$slots"
        hosts+=("$host")
    done <"$HOSTFILE"
    ((${#hosts[@]})) || fail "$HOSTFILE names no host; a line is of the form HOST slots=NUMBER"
}

# shellcheck disable=SC2329 # nodes, which supervise calls, calls it
meet() { # looks at each node, before any is started; sets MASTER_ADDR and MASTER_PORT
    local host said code
    for host in "${hosts[@]}"; do
        code=0
        # shellcheck disable=SC2016 # the node expands it
        said=$(printf 'cd %q && [[ -r %q && -x %q ]] && echo "$(hostname -I) $(%q -c %q)"\n' \
            "$PWD" "$HOSTFILE" "$python" "$python" "$free_port" | "${ssh[@]}" "$host" exec bash -s 2>&1) || code=$?
        said=${said##*$'\n'}
        if ((code == 255)); then fail "$host can't be reached by ssh: ${said%$'\r'}"; fi
        ((code == 0)) || fail "$host has not all of the folder $PWD, $HOSTFILE and $python, which each node must have"
        MASTER_ADDR=${MASTER_ADDR:-${said%% *}} MASTER_PORT=${MASTER_PORT:-${said##* }}
    done
}

# shellcheck disable=SC2329 # nodes, which supervise calls, calls it
orders() { # NODE_RANK FLAG...    what a node's shell reads; its arguments would be seen by all users of the node
    local name
    printf 'cd %q\n' "$PWD"
    for name in $(compgen -e); do
        if [[ $name =~ $along ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
    done
    printf 'export %q %q %q %q %q\n' "NODE_RANK=$1" "HOSTFILE=$HOSTFILE" "MASTER_ADDR=$MASTER_ADDR" \
        "MASTER_PORT=$MASTER_PORT" "NPROC_PER_NODE=${NPROC_PER_NODE:-}"
    shift
    printf 'exec %q' "$home/launch/deepspeed_node.sh"
    printf ' %q' "$@"
    echo
}

# A node's input stays open for as long as its `sleep` lives, and its ranks train for as long as that. When one node has
# failed, the others have 30 s to leave by themselves, with what their ranks know about it.
# shellcheck disable=SC2329 # supervise calls it
nodes() {
    local code=0 ended stop_at="" rank input holds=() sshs=()
    trap 'stop_at=0' TERM INT HUP USR1
    meet
    for rank in "${!hosts[@]}"; do
        exec {input}< <(orders "$rank" "$@" && exec sleep infinity)
        holds+=("$!")
        "${ssh[@]}" "${hosts[rank]}" exec bash -s <&"$input" &
        sshs[rank]=$!
        exec {input}<&-
    done
    while ((${#sshs[@]})); do
        if [[ $stop_at ]] && ((SECONDS >= stop_at)); then kill "${holds[@]}" 2>/dev/null || true; fi
        sleep 0.2
        for rank in "${!sshs[@]}"; do
            if kill -0 "${sshs[rank]}" 2>/dev/null; then continue; fi
            ended=0
            wait "${sshs[rank]}" || ended=$?
            unset "sshs[rank]"
            if ((ended == 255)); then
                printf 'launch/deepspeed.sh: the connection to %s was lost\n' "${hosts[rank]}" >&2
                ended=5
            fi
            if ((ended)); then code=$((code ? code : ended)) stop_at=${stop_at:-$((SECONDS + 30))}; fi
        done
    done
    kill "${holds[@]}" 2>/dev/null || true
    exit "$code"
}

# shellcheck disable=SC2329 # supervise calls it
node() {
    exec "$home/launch/deepspeed_node.sh" "$@"
}

if [[ ${1:-} == --help ]]; then
    sed -n '2,12s/^# \{0,1\}//p' "$home/launch/deepspeed.sh"
    exit
fi
[[ -x $python ]] || fail "there is no $python; run launch/install.sh first"
[[ -x $home/.venv/bin/deepspeed ]] || fail "there is no DeepSpeed; $python -m pip install 'deepspeed>=0.19.8'"
[[ ${NPROC_PER_NODE:-1} =~ ^[1-9][0-9]*$ ]] || fail "NPROC_PER_NODE is $NPROC_PER_NODE; it must be a number of processes"
hosts=() launcher=node
if [[ ${HOSTFILE:-} ]]; then
    read_hostfile
    launcher=nodes
else
    # Runs that met at its launcher's one usual port would take each other's ranks for their own.
    MASTER_PORT=${MASTER_PORT:-$("$python" -c "$free_port")}
    export MASTER_PORT
    unset HOSTFILE
fi

# shellcheck source=launch/supervise.sh
source "$home/launch/supervise.sh"
supervise "TERM INT HUP USR1" "$launcher" --engine deepspeed "$@"
exit "$("$python" "$home/launch/ending.py" "$run_dir" "$code" ${asked:+--asked "$asked"})"
