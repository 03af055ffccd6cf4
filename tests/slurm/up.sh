#!/usr/bin/env bash
# Starts a real Slurm cluster of virtual nodes n1, n2, ... on this host. down.sh DIR ends it.
#
#   tests/slurm/up.sh DIR NODES        then: export SLURM_CONF=DIR/etc/slurm.conf
#
# Needs slurm-wlm and munge (install.sh), but no systemd and no cgroups. If unshare is permitted, each node has its own
# host name, address and process namespace, so that killing one process cuts its power. Otherwise node-kill.sh looks for
# the node's processes.
set -euo pipefail
base=$1 # short: it begins the paths of Unix sockets, which have at most 108 bytes
count=$2
readonly CPUS=8 GPUS=8 MEMORY=16000
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$base/etc/slurm.conf"
me=$(id -un)

states() { timeout 3 sinfo -h -o '%T %D' 2>/dev/null | sort; }
# The first of a row of free ports: one for the controller, then one per node.
port=$(python3 -c 'import random, socket, sys
for first in random.sample(range(16000, 30000, 10), 200):
    sockets = [socket.socket() for _ in range(int(sys.argv[1]) + 1)]
    try:
        for offset, one in enumerate(sockets):
            one.bind(("", first + offset))
        print(first)
        break
    except OSError:
        continue' "$count")

mkdir -p "$base"/{etc,run,log,state,dev,munge}
chmod 755 "$base"
chmod 711 "$base/munge"
isolate=0
if [[ -w /etc/hosts ]] && unshare --uts --pid --fork --mount-proc true 2>/dev/null; then isolate=1; fi
echo "$isolate" >"$base/etc/isolate"
address() { if ((isolate)); then echo "127.0.0.$((10 + $1))"; else echo 127.0.0.1; fi; }

(umask 077 && head -c 1024 /dev/urandom >"$base/munge/munge.key")
munged --key-file="$base/munge/munge.key" --socket="$base/run/munge.socket" --pid-file="$base/run/munged.pid" \
    --log-file="$base/log/munged.log" --seed-file="$base/munge/munged.seed"

# gres/gpu needs character devices; links to /dev/null are enough and need no mknod.
for ((gpu = 0; gpu < GPUS; gpu++)); do ln -s /dev/null "$base/dev/nvidia$gpu"; done
echo "NodeName=n[1-$count] Name=gpu File=$base/dev/nvidia[0-$((GPUS - 1))]" >"$base/etc/gres.conf"

{
    cat <<CONF
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$base/run/munge.socket,cred_expire=5
CredType=cred/munge

# Avoids the job ids of an earlier cluster, by which files are named.
FirstJobId=$((1000 + RANDOM))

SlurmctldPidFile=$base/run/slurmctld.pid
SlurmdPidFile=$base/run/slurmd.%n.pid
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool.%n
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.%n.log

# For machines without cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
# The node lines below count, not the hardware.
SlurmdParameters=config_overrides

# Start jobs quickly and notice a lost node quickly.
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0,default_queue_depth=1000
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
BatchStartTimeout=10
InactiveLimit=0
KillWait=5
UnkillableStepTimeout=20
CompleteWait=0
MinJobAge=900
MaxArraySize=1001
ReturnToService=2
JobRequeue=1
EnforcePartLimits=ALL
AccountingStorageType=accounting_storage/none

CONF
    for ((node = 1; node <= count; node++)); do
        # Debian's build refuses two slurmd of one NodeHostname.
        echo "NodeName=n$node NodeHostname=n$node NodeAddr=$(address "$node") Port=$((port + node)) CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:$GPUS State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=n[1-$count] Default=YES MaxTime=INFINITE DefaultTime=10 State=UP"
} >"$SLURM_CONF"

# Jobs resolve the name of the head node.
if [[ -w /etc/hosts ]]; then
    for ((node = 1; node <= count; node++)); do
        echo "$(address "$node") n$node # $base" >>/etc/hosts
    done
fi

slurmctld -c -f "$SLURM_CONF"
for ((node = 1; node <= count; node++)); do
    mkdir -p "$base/spool.n$node"
    "$here/node-up.sh" "$base" "n$node"
done
for _ in $(seq 1200); do
    if [[ $(states) == "idle $count" ]]; then exit 0; fi
    sleep 0.1
done
echo "the cluster did not start:" >&2
states >&2
tail -n 20 "$base"/log/*.log >&2
exit 1
