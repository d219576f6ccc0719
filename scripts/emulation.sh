#!/usr/bin/env bash
# emulation.sh DIR: programs of other processors for tests, from the packages of Debian: a static busybox
# of each architecture, and the emulators. Nothing is installed, and nothing of apt's own is changed: lists
# and status are in DIR.
set -euo pipefail
dir=$(realpath -m "$1")
architectures=(arm64 armhf riscv64 ppc64el s390x i386)
here=$(dpkg --print-architecture)
own=$dir.new
rm -rf "$own"
mkdir -p "$own"/{state/lists/partial,cache/archives/partial,unpacked}
touch "$own/status"
{
    echo "Dir::State \"$own/state\"; Dir::State::status \"$own/status\"; Dir::Cache \"$own/cache\";"
    echo "APT::Architecture \"$here\"; APT::Sandbox::User \"root\"; Acquire::Languages \"none\";"
    echo "APT::Architectures { \"$here\"; $(printf '"%s"; ' "${architectures[@]}") };"
    echo "Dir::Etc::sourcelist \"$own/sources.list\"; Dir::Etc::sourceparts \"/dev/null\";"
} >"$own/apt.conf"
# One suite has all of these architectures; the emulators are those of the machine's own.
mirror=http://deb.debian.org/debian
listed=$(IFS=,; echo "${architectures[*]}")
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-trixie}")
{
    echo "deb [arch=$listed] $mirror trixie main"
    echo "deb [arch=$here] $mirror $suite main"
} >"$own/sources.list"
export APT_CONFIG=$own/apt.conf
# Images of Debian keep no cache of the lists; without one each call makes its own, in ten seconds.
kept=(-o "Dir::Cache::pkgcache=pkgcache.bin" -o "Dir::Cache::srcpkgcache=srcpkgcache.bin")
apt-get "${kept[@]}" update -qq >"$own/log" 2>&1 || {
    cat "$own/log" >&2
    exit 1
}
cd "$own/unpacked"
packages=("${architectures[@]/#/busybox-static:}")
# Later releases have the static ones in qemu-user.
apt-get "${kept[@]}" download -qq "${packages[@]}" qemu-user-static >>"$own/log" 2>&1 ||
    apt-get "${kept[@]}" download -qq "${packages[@]}" qemu-user >>"$own/log" 2>&1 || {
    cat "$own/log" >&2
    exit 1
}
for architecture in "${architectures[@]}"; do
    dpkg-deb -x busybox-static_*_"$architecture".deb "$architecture"
    find "$architecture" -path '*bin/busybox' -type f -exec cp {} "../busybox-$architecture" \;
done
dpkg-deb -x qemu-user*_"$here".deb qemu
for name in aarch64 arm riscv64 ppc64le s390x i386 x86_64; do
    for file in "qemu/usr/bin/qemu-$name-static" "qemu/usr/bin/qemu-$name"; do
        [ ! -f "$file" ] || { cp -L "$file" "../qemu-$name-static"; break; }
    done
done
cd ..
rm -rf state cache unpacked status apt.conf sources.list
ls busybox-arm64 qemu-aarch64-static >/dev/null || { cat "$own/log" >&2; exit 1; }
rm -rf "$dir"
mv "$own" "$dir"
