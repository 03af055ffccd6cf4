#!/usr/bin/env bash
# Shows the whole project in a few minutes, on two CPU cores and with generated pictures. It serves the pictures on
# localhost, downloads them with aria2 (some URLs deliberately do not work), packs them into shards (tar files with an
# index), trains a narrow CaffeNet in two processes on the CPU and classifies a picture. Only the installation needs the
# internet.
#
#   launch/quickstart.sh
#
# The results are in data/quickstart_sample, data/quickstart and runs/quickstart. Run it again to continue where it
# stopped; remove these three folders to start over.
# Installs the project into .venv, unless PYTHON or an active environment gives another interpreter with the project.
set -euo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=launch/quickstart.sh
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"
cd "$home"

readonly SAMPLE=data/quickstart_sample SHARDS=data/quickstart RUN=runs/quickstart

python() { "$PYTHON" "$@"; }
shards() { python -m shards "$@"; }
stylefinetune() { python -m stylefinetune "$@"; }
torchrun() { "$PYTHON" -m torch.distributed.run "$@"; }

# Prints a command as a user would type it, and runs it.
run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# Prints a checksum of everything that the shards and the run are made from.
fingerprint() {
    cat launch/*.py configs/{shards,finetune}/quickstart.yaml "$SAMPLE/sample.csv" 2>/dev/null | cksum
}

# The file is written once assemble has succeeded: an assemble that outlives a killed script completes the shards, too,
# but finds no server for the rest of the pictures.
is_assembled() {
    [[ -f $SHARDS/index.parquet && -f $SAMPLE/assembled && $(<"$SAMPLE/assembled") == "$(fingerprint)" ]]
}

# Sets server, the process id of the server, which ends with this script at the latest.
start_server() {
    mkdir -p "$SAMPLE"
    : >"$SAMPLE/server.log" # exists before the server starts to write
    "$PYTHON" -m launch.sample --out "$SAMPLE" >>"$SAMPLE/server.log" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null && wait "$server" || true' EXIT
    until grep -q '^Serving' "$SAMPLE/server.log"; do
        kill -0 "$server" 2>/dev/null || fail "the sample's server ended: $(tail -n 1 "$SAMPLE/server.log")"
        sleep 0.1
    done
    tail -n 1 "$SAMPLE/server.log"
}

stop_server() {
    kill "$server"
    wait "$server" || true
    trap - EXIT
}

# Keeps the results of an earlier quickstart if they were made from the same files, else removes them.
prepare() {
    if [[ ! -e $SHARDS && ! -e $RUN ]]; then
        echo "Starting."
    elif [[ -f $SAMPLE/made_from && $(<"$SAMPLE/made_from") == "$(fingerprint)" ]]; then
        echo "Continuing where the last quickstart stopped."
    else
        echo "Starting over: the sample or its configuration has changed since the last quickstart."
        rm -rf "$SHARDS" "$RUN"
    fi
    fingerprint >"$SAMPLE/made_from"
}

if [[ ${1:-} == --help ]]; then
    show_help
    exit
fi
(($# == 0)) || fail "the only argument is --help"
if [[ $(uname) == Darwin ]] && ! command -v aria2c >/dev/null; then
    fail "aria2c is missing; brew install aria2, then run this again"
fi

find_or_install_python ""
SECONDS=0
trap 'echo "Stopped. Run launch/quickstart.sh again to continue."; exit 130' INT

if is_assembled; then
    echo "Continuing where the last quickstart stopped: its shards are complete."
else
    start_server
    prepare
    retry=()
    if [[ -e $SHARDS ]]; then retry=(--retry passing); fi
    run shards assemble --config configs/shards/quickstart.yaml ${retry[@]+"${retry[@]}"}
    fingerprint >"$SAMPLE/assembled"
    stop_server
fi
[[ $SHARDS/mean.npy -nt $SHARDS/index.parquet ]] || run shards mean "$SHARDS"

export CUDA_VISIBLE_DEVICES="" # both processes train on the CPU, since a machine may have one GPU only
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((cores > 2 ? cores / 2 : 1)) # of each of the two processes
run torchrun --nproc_per_node 2 -m stylefinetune.train --config configs/finetune/quickstart.yaml
run stylefinetune predict "$SAMPLE/noir.jpg" --checkpoint "$RUN"

printf '\nDone in %d seconds, not counting the installation.\n\n' "$SECONDS"
python -m launch.summary "$SHARDS" "$RUN"
cat <<'END'

Next, train on your own pictures, in a folder photos that has a folder for each class:
    source .venv/bin/activate
    stylefinetune init photos
It prints the commands that follow. docs/reproduction.md has those for Caffe's example.
END
