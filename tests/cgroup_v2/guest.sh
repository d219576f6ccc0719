#!/bin/sh
# Process 1 of a small machine whose control groups are version 2 throughout. Runs the builder in it,
# prints a line `ok NAME` or `not ok NAME: WHY` for each check, and switches the machine off.

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/shm /tmp /root /var/lib
for module in /modules/*.ko; do
    case $module in
    *brd.ko) insmod "$module" rd_nr=1 rd_size=262144 ;;
    *) insmod "$module" ;;
    esac
done
# The store has a real file system, one whose mounts can map ids.
/sbin/mke2fs -q -t ext4 -O ^has_journal /dev/ram0
mount -t ext4 /dev/ram0 /var/lib

group=/sys/fs/cgroup
base=fixture/base
network=--network=none

ok() { echo "ok $1"; }
no() {
    echo "not ok $1: $2"
    sed 's/^/# /' /tmp/out /tmp/err 2>/dev/null
}

# check NAME STATUS COMMAND…: runs it, and compares its status.
check() {
    name=$1 wanted=$2
    shift 2
    "$@" >/tmp/out 2>/tmp/err
    status=$?
    [ "$status" = "$wanted" ] || {
        no "$name" "status $status, expected $wanted"
        return 1
    }
}

# says NAME TEXT FILE: the text is in the file.
says() {
    if grep -qF -e "$2" "$3"; then ok "$1"; else no "$1" "no '$2'"; fi
}

# until_true COMMAND…: waits for what is bound to happen.
until_true() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 3000 ] || return 1
        usleep 10000
    done
}

builder import /base.tar $base >/dev/null || no import "status $?"

# What is asked for stands in the kernel's files, as the command itself sees them.
files='memory.max memory.swap.max memory.oom.group pids.max cpu.max cpu.weight io.max cpuset.cpus'
check limits 0 builder run $network --memory 64m --memory-swap 64m --pids-limit 20 --cpus 0.5 \
    --cpu-shares 262144 --device-read-bps /dev/ram0:1m --cpuset-cpus 0 $base \
    sh -c "cd /sys/fs/cgroup && for f in $files; do echo \$f \$(cat \$f); done" && {
    says memory 'memory.max 67108864' /tmp/out
    says oom-group 'memory.oom.group 1' /tmp/out
    says pids 'pids.max 20' /tmp/out
    says cpu 'cpu.max 50000 100000' /tmp/out
    says cpu-weight 'cpu.weight 10000' /tmp/out
    says io-max '1:0 rbps=1048576' /tmp/out
    says cpuset 'cpuset.cpus 0' /tmp/out
}

mkdir /oom /usage
cat >/oom/Dockerfile <<'DOCKERFILE'
FROM fixture/base
RUN sleep 1000 & tail -c 100m /dev/zero | wc -c; echo survived
DOCKERFILE
check oom 4 builder build $network --progress plain --memory 32m /oom && {
    says oom-explained 'memory limit of 32 MiB' /tmp/err
    if grep -qE '^#[0-9]+ [0-9.]+ survived$' /tmp/err; then no oom-whole 'the shell outlived it'; else ok oom-whole; fi
}

check pids-hold 0 builder run $network --pids-limit 10 $base \
    sh -c '(for i in $(seq 30); do sleep 100 & done) 2>&1 | head -3; cat /sys/fs/cgroup/pids.events' &&
    if grep -q '^max [1-9]' /tmp/out; then ok pids-hold; else no pids-hold 'no limit was met'; fi

cat >/usage/Dockerfile <<'DOCKERFILE'
FROM fixture/base
RUN i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; head -c 8m /dev/zero > /big
DOCKERFILE
check usage 0 builder build $network --progress plain /usage &&
    builder history usage --format json >/tmp/out && {
    if grep -qE '"cpu_us":[1-9]' /tmp/out; then ok usage-cpu; else no usage-cpu 'no time'; fi
    if grep -qE '"peak_memory":[1-9]' /tmp/out; then ok usage-memory; else no usage-memory 'none'; fi
}

# One that runs: frozen with us, thawed with us, killed whole.
builder run $network $base sh -c 'sleep 1234 & while :; do usleep 10000; done' >/tmp/out 2>/tmp/err &
builder=$!
# The process with this command line, an argument a word.
find_process() { grep -l "^$1" /proc/[0-9]*/cmdline 2>/dev/null | grep -v /self/ | head -1 | cut -d/ -f3; }
is_up() { [ -n "$(find_process sleep.1234)" ]; }
events() { cat $group/builder-*/cgroup.events 2>/dev/null | grep -q "$1"; }
if until_true is_up; then
    kill -TSTP $builder
    if until_true events 'frozen 1'; then ok freeze; else no freeze "not frozen"; fi
    kill -CONT $builder
    if until_true events 'frozen 0'; then ok thaw; else no thaw "still frozen"; fi
    kill -TSTP $builder
    until_true events 'frozen 1'
    kill -KILL $builder
    is_gone() { ! is_up; }
    if until_true is_gone; then ok kill-frozen; else no kill-frozen "it lives on"; fi
    wait $builder 2>/dev/null
    # What the killed one left behind goes with the next.
    builder run $network $base true
    if ls -d $group/builder-* >/dev/null 2>&1; then no sweep "groups are left"; else ok sweep; fi
else
    no freeze "it never ran"
fi

# Without a place for groups: an error for what nothing can stand in for, words for the rest.
mount -o remount,ro $group
check undelegated 5 builder build $network --no-cache --cpus 0.5 /usage && says undelegated '--cpus cannot be enforced' /tmp/err
check substitute 0 builder build $network --no-cache --progress plain --memory 256m /usage &&
    says substitute 'ulimit data' /tmp/err

echo done
poweroff -f
