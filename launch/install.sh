#!/usr/bin/env bash
# Creates .venv, unless it exists, and installs the project into it, with the package versions that were tested.
#
#   launch/install.sh             what the project needs
#   launch/install.sh dev         also the tools that launch/test.sh runs
#   launch/install.sh --refresh   creates .venv anew with the newest versions that pyproject.toml allows, and writes
#                                 launch/constraints.txt; commit that file once launch/test.sh --all has passed
#
# launch/constraints.txt holds the tested versions. Other installs (pip install stylefinetune) may take newer ones.
# PYTHON is the interpreter that creates .venv; default: python3, or the first of python3.11 to python3.13 on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
script=launch/install.sh home=$PWD
# shellcheck source=launch/functions.sh
source launch/functions.sh

readonly DOWNLOAD="3.2 GB" DISK="6.5 GB" # nearly all of it PyTorch and its CUDA libraries
readonly NEEDED_KB=$((8 * 1000 * 1000))
readonly CONSTRAINTS=launch/constraints.txt LOG=.venv/install.log

find_base_python() {
    local name
    for name in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, and ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>/dev/null || echo missing); install it and run this again"
}

# On a terminal each of pip's lines replaces the one before. Elsewhere only the large downloads are shown.
show_progress() {
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

refresh=""
case ${1:-} in
"") extra="" ;;
dev) extra=dev ;;
--refresh) extra=dev refresh=1 ;;
--help)
    show_help
    exit
    ;;
*) fail "unknown argument $1; use dev, --refresh or nothing" ;;
esac

if [[ $refresh ]]; then
    rm -rf .venv
# The scripts of a venv name its interpreter by path, so a venv doesn't survive a move. Nor does a half-made one work.
elif [[ -e .venv ]] && ! .venv/bin/pip --version >/dev/null 2>&1; then
    echo ".venv doesn't work, perhaps because its folder was moved; creating it anew."
    rm -rf .venv
fi

# An installation is valid for one pyproject.toml and one constraints.txt. One with the extra also serves without it.
stamp() { cat pyproject.toml "$CONSTRAINTS" | cksum; }
for file in .venv/installed-dev ".venv/installed${extra:+-$extra}"; do
    if [[ -f $file && $(<"$file") == "$(stamp)" ]]; then exit 0; fi
done

if [[ ! -e .venv ]]; then
    base=$(find_base_python)
    free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
    if ((free_kb < NEEDED_KB)); then
        fail "$PWD has $((free_kb / 1000000)) GB free, and installing needs $((NEEDED_KB / 1000000)) GB; free some space and run this again"
    fi
    echo "Installing into .venv: pip downloads about $DOWNLOAD, which take $DISK on disk. This takes some minutes, once."
    "$base" -m venv .venv || fail "$base -m venv .venv failed; on Debian and Ubuntu: apt install python3-venv"
else
    echo "Bringing .venv up to date with pyproject.toml and $CONSTRAINTS."
fi
# As variables, unlike with -c, the constraints also apply to the build tools: pip before 25.3 reads the first variable
# for these, later versions the second. The path is relative, since pip splits the values at spaces.
if [[ ! $refresh ]]; then export PIP_CONSTRAINT=$CONSTRAINTS PIP_BUILD_CONSTRAINT=$CONSTRAINTS; fi
# In the mode compat, this folder is on Python's path. Otherwise, in the folder above it, `python -m stylefinetune.train`
# takes a folder of the name stylefinetune for the package.
if ! .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
    --config-settings editable_mode=compat -e ".${extra:+[$extra]}" 2>&1 | tee "$LOG" | show_progress; then
    tail -n 5 "$LOG" >&2
    fail "pip could not install the project; its output is in $PWD/$LOG"
fi
if [[ $refresh ]]; then
    {
        echo "# The tested version of each package, which launch/install.sh installs. launch/install.sh --refresh writes this file."
        .venv/bin/python -m pip freeze --all --exclude pip --exclude-editable
    } >"$CONSTRAINTS"
fi
stamp >".venv/installed${extra:+-$extra}"
echo "Installed."
