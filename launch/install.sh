#!/usr/bin/env bash
# Makes .venv, unless it is there, and installs the project into it; says first what that downloads.
#
#   launch/install.sh [dev]        dev: with the tools that launch/test.sh runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly DOWNLOAD="3.2 GB" DISK="6.5 GB" # nearly all of it PyTorch and the CUDA libraries that come with it
readonly NEEDED_KB=$((8 * 1000 * 1000))
readonly LOG=.venv/install.log

fail() {
    printf '%s\n' "$1" >&2
    exit 2
}

find_python() {
    local name
    for name in python3 python3.11 python3.12 python3.13; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and python3 is $(python3 --version 2>/dev/null || echo missing); install it and run this again"
}

# Shows pip's lines one over the other on a terminal, and only the large downloads elsewhere.
follow() {
    local line
    while IFS= read -r line; do
        if [[ -t 1 ]]; then
            printf '\r\033[K%.76s' "$line"
        elif [[ $line =~ ^\ *Downloading.*\([0-9]{3,}\.[0-9]+\ MB\) ]]; then
            printf '%s\n' "$line"
        fi
    done
    if [[ -t 1 ]]; then printf '\r\033[K'; fi
}

extra=${1:-}
case $extra in
"") what=. ;;
dev) what=".[dev]" ;;
*) fail "launch/install.sh: $extra is no extra that it knows; use dev, or nothing" ;;
esac

# A folder that was moved leaves scripts that name an interpreter where it was; so does a venv that was cut short.
if [[ -e .venv ]] && ! .venv/bin/pip --version >/dev/null 2>&1; then
    echo ".venv doesn't work, as when its folder has been moved; making it anew."
    rm -rf .venv
fi

# An install is good for one pyproject.toml; one with the extra is as good as one without.
stamp=$(cksum <pyproject.toml)
for stamped in .venv/installed-dev ".venv/installed${extra:+-$extra}"; do
    if [[ -f $stamped && $(<"$stamped") == "$stamp" ]]; then
        exit 0
    fi
done

if [[ ! -e .venv ]]; then
    python=$(find_python)
    free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
    if ((free_kb < NEEDED_KB)); then
        fail "$PWD: $((free_kb / 1000000)) GB are free and installing needs $((NEEDED_KB / 1000000)); make room and run this again"
    fi
    echo "Installing into .venv: pip downloads about $DOWNLOAD, which take $DISK on disk; that takes some minutes, once."
    "$python" -m venv .venv || fail "$python -m venv .venv failed; on Debian and Ubuntu: apt install python3-venv"
else
    echo "Bringing .venv up to date with pyproject.toml."
fi
if ! .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -e "$what" 2>&1 | tee "$LOG" | follow; then
    tail -n 5 "$LOG" >&2
    fail "pip could not install the project; all it said is in $PWD/$LOG"
fi
printf '%s\n' "$stamp" >".venv/installed${extra:+-$extra}"
echo "Installed."
