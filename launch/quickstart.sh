#!/usr/bin/env bash
# The whole way in a few minutes, on two CPU cores and drawn pictures: installs the project into .venv, serves links from
# this machine, some of them dead, downloads them with aria2, packs what lived into shards, trains a narrow CaffeNet on
# two processes, and classifies a picture. Only pip needs the internet.
#
#   launch/quickstart.sh
#
# What it makes lies in data/quickstart_sample, data/quickstart and runs/quickstart. Run again, it goes on where it was;
# remove those three to start over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SAMPLE=data/quickstart_sample SHARDS=data/quickstart RUN=runs/quickstart

fail() {
    printf '%s\n' "$1" >&2
    exit 2
}

# Shows a command as one would type it, and runs it.
run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# Changes with whatever the shards and the run are made from.
fingerprint() {
    cat launch/*.py configs/{shards,finetune}/quickstart.yaml "$SAMPLE/sample.csv" 2>/dev/null | cksum
}

is_assembled() {
    [[ -f $SHARDS/index.parquet && -f $SAMPLE/made_from && $(<"$SAMPLE/made_from") == "$(fingerprint)" ]]
}

# Leaves the server's process id in $server; it ends with this script at the latest.
start_server() {
    mkdir -p "$SAMPLE"
    : >"$SAMPLE/server.log" # the server's own start may come later than our first look
    python -m launch.sample --out "$SAMPLE" >>"$SAMPLE/server.log" 2>&1 &
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

# Goes on with what an earlier quickstart left, where it was made from the same; else removes it.
prepare() {
    if [[ ! -e $SHARDS && ! -e $RUN ]]; then
        echo "Starting."
    elif [[ -f $SAMPLE/made_from && $(<"$SAMPLE/made_from") == "$(fingerprint)" ]]; then
        echo "Going on where the last quickstart stopped."
    else
        echo "Starting over: the sample or its configuration has changed since the last quickstart."
        rm -rf "$SHARDS" "$RUN"
    fi
    fingerprint >"$SAMPLE/made_from"
}

if [[ ${1:-} == --help ]]; then
    sed -n '2,9s/^# \{0,1\}//p' launch/quickstart.sh
    exit
fi
(($# == 0)) || fail "launch/quickstart.sh takes no arguments but --help"
if [[ $(uname) == Darwin ]] && ! command -v aria2c >/dev/null; then
    fail "there is no aria2c; on macOS: brew install aria2, then run this again"
fi

launch/install.sh
export PATH="$PWD/.venv/bin:$PATH"
SECONDS=0
trap 'echo "Stopped. Run it again, and it goes on from here."; exit 130' INT

if is_assembled; then
    echo "Going on where the last quickstart stopped: its shards are complete."
else
    start_server
    prepare
    run python -m shards assemble --config configs/shards/quickstart.yaml
    stop_server
fi
[[ $SHARDS/mean.npy -nt $SHARDS/index.parquet ]] || run python -m shards mean "$SHARDS"

cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((cores > 2 ? cores / 2 : 1)) # of each of the two processes
run torchrun --nproc_per_node 2 -m stylefinetune.train --config configs/finetune/quickstart.yaml
run python -m stylefinetune.predict "$SAMPLE/noir.jpg" --checkpoint "$RUN"

printf '\nDone, in %d seconds without the installing.\n\n' "$SECONDS"
python -m launch.summary "$SHARDS" "$RUN"
cat <<'END'

Next, the real thing: the photographs of Caffe's example, some 250 MB of them,
    .venv/bin/python -m shards assemble --config configs/shards/flickr_style_2000.yaml
and then CaffeNet on them, as configs/finetune/flickr_style_2000.yaml says.
END
