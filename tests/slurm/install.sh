#!/usr/bin/env bash
# Installs Debian's Slurm and munge, with which the tests start their own cluster. Starts no service.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
if command -v slurmctld >/dev/null && command -v munged >/dev/null; then exit 0; fi
if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "Slurm is missing and can't be installed here (that takes root and apt-get); its tests will be skipped"
    exit 0
fi
# Another apt may be running.
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y \
    --no-install-recommends slurm-wlm munge >/dev/null; }; then
    echo "Slurm could not be installed; its tests will be skipped"
fi
