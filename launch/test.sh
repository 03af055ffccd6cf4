#!/usr/bin/env bash
# Runs the linters and the tests, each of them even if another fails, and prints a summary.
#
#   launch/test.sh [ARGUMENT of pytest ...]          the fast tier: the tests that aren't marked slow
#   launch/test.sh --all [ARGUMENT of pytest ...]    all tests
#   launch/test.sh --slow [ARGUMENT of pytest ...]   the slow tests only, without the linters
#
# The tests run on all cores; with -n 0 they run in one process. Example: launch/test.sh -n 0 tests/shards
# Runs launch/install.sh dev first, unless PYTHON or an active environment gives another interpreter with the project.
set -uo pipefail
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=launch/test.sh
# shellcheck source=launch/functions.sh
source "$home/launch/functions.sh"
cd "$home" || exit 2

tier=fast
case ${1:-} in
--help)
    show_help
    exit
    ;;
--all | --slow)
    tier=${1#--}
    shift
    ;;
esac

find_or_install_python dev
PATH="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH"
export PATH PYTHONPATH="$PWD"
export -n PYTHON # the tests of the scripts set it

summary="" failures=0
check() { # NAME COMMAND...
    local name=$1 result=passed code=0
    shift
    printf '\n== %s\n' "$*"
    "$@" || code=$?
    if ((code == 5)) && [[ $name == tests && $tier == slow ]]; then
        result="none selected" # pytest exits with 5
    elif ((code)); then
        result="FAILED ($code)" failures=$((failures + 1))
    fi
    summary+=$(printf '%-14s %s' "$name" "$result")$'\n'
}

if [[ $tier != slow ]]; then
    check lint ruff check
    check format ruff format --check
    check types pyright --pythonpath "$PYTHON"
    check layers lint-imports
    check scripts shellcheck -x launch/*.sh slurm/*.sh tests/slurm/*.sh .ci/run
fi
case $tier in
fast) markers=(-m "not slow") ;;
slow) markers=(-m slow) ;;
all) markers=() ;;
esac
check tests pytest ${markers[@]+"${markers[@]}"} -n logical --dist loadgroup "$@"

printf '\n== summary\n%s' "$summary"
((failures == 0))
