#!/usr/bin/env bash
# For the other scripts to source, after they set `script` (such as launch/train.sh) and `home` (the checkout's folder).
set -uo pipefail

fail() { # MESSAGE
    printf '%s: %s\n' "${script:?}" "$1" >&2
    exit 2
}

show_help() { # print the comment at the top of the script
    sed -nE '2,/^([^#]|#SBATCH)/s/^#( |$)//p' "${home:?}/${script:?}"
}

# With -P the working folder does not count: it holds the project's code, but not what the code imports.
is_usable() { # INTERPRETER
    command "$1" -P -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("stylefinetune")))' \
        2>/dev/null
}

# Set PYTHON, unless the user has set it, to the first interpreter that can import the project: the active environment's
# (VIRTUAL_ENV, CONDA_PREFIX), `python` on PATH, .venv. Without any, PYTHON is empty.
find_python() {
    local candidate
    if [[ ${PYTHON:-} ]]; then
        is_usable "$PYTHON" || fail "PYTHON is $PYTHON, which can't import torch and stylefinetune; install them there, or unset PYTHON"
        PYTHON=$(type -P "$PYTHON")
        export PYTHON
        return
    fi
    for candidate in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} ${CONDA_PREFIX:+"$CONDA_PREFIX/bin/python"} \
        python "$home/.venv/bin/python"; do
        if is_usable "$candidate"; then
            PYTHON=$(type -P "$candidate")
            export PYTHON
            return
        fi
    done
}

require_number() { # NAME MINIMUM MAXIMUM: the variable NAME must have a number in this range
    local value=${!1:-}
    if [[ ! $value =~ ^[0-9]{1,9}$ ]] || ((10#$value < $2 || 10#$value > $3)); then
        fail "$1 is ${value:-empty}; it must be a number from $2 to $3"
    fi
}

require_python() {
    find_python
    [[ ${PYTHON:-} ]] || fail "no Python here can import torch and stylefinetune; run launch/install.sh, or activate an environment that can"
}

start_job() { # HOW_TO_SUBMIT ARGUMENT...    for the scripts in slurm/
    if [[ ${2:-} == --help ]]; then
        show_help
        exit
    fi
    [[ ${SLURM_JOB_ID:-} ]] || fail "this is a job script; submit it: $1"
    require_python
}

# Create .venv or bring it up to date, unless another environment is active.
find_or_install_python() { # the argument of launch/install.sh, or ""
    find_python
    if [[ ! ${PYTHON:-} || $(dirname "$PYTHON") -ef $home/.venv/bin ]]; then
        env -u PYTHON "$home/launch/install.sh" ${1:+"$1"} || exit
        export PYTHON=$home/.venv/bin/python
    fi
}
