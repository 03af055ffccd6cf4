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
    printf '\n== %s\n' "$*"
    local result=passed
    "$@" || result="FAILED ($?)"
    if [[ $result != passed ]]; then failures=$((failures + 1)); fi
    summary+=$(printf '%-12s %s' "$1" "$result")$'\n'
}

shopt -s nullglob
check ruff check
check ruff format --check
check pyright
check lint-imports
check shellcheck launch/*.sh slurm/*.sh .ci/run
check pytest "$@"

printf '\n== summary\n%s' "$summary"
((failures == 0))
