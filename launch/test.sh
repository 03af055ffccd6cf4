#!/usr/bin/env bash
# Runs every check of the project, even where an earlier one fails, and sums them up.
#
#   launch/test.sh [ARGUMENTS of pytest]        such as: launch/test.sh -m "not slow" tests/shards
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
if [[ ${1:-} == --help ]]; then
    sed -n '2,4s/^# \{0,1\}//p' launch/test.sh
    exit
fi

launch/install.sh dev || exit
export PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD"

summary="" failures=0
check() {
    local name=$1 result=passed
    shift
    printf '\n== %s\n' "$*"
    "$@" || result="FAILED ($?)"
    if [[ $result != passed ]]; then failures=$((failures + 1)); fi
    summary+=$(printf '%-14s %s' "$name" "$result")$'\n'
}

shopt -s nullglob
check lint ruff check
check format ruff format --check
check types pyright
check layers lint-imports
check scripts shellcheck launch/*.sh slurm/*.sh tests/slurm/*.sh .ci/run
check tests pytest "$@"

printf '\n== summary\n%s' "$summary"
((failures == 0))
