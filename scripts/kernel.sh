#!/usr/bin/env bash
# kernel.sh DIR: unpacks Debian's kernel for virtual machines into DIR. Nothing is installed.
# Prints nothing; needs apt-get with a Debian mirror, and dpkg-deb.
set -euo pipefail

[ $# = 1 ] || {
    echo "usage: $0 DIR" >&2
    exit 2
}
out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The first package only names the second, whose name has the version.
download() {
    apt-get download -qq "$1" >/dev/null 2>&1 || {
        apt-get update -qq >/dev/null
        apt-get download -qq "$1" >/dev/null
    }
}
download linux-image-cloud-amd64
image=$(dpkg-deb -f linux-image-cloud-amd64_*.deb Depends | sed 's/[ ,(].*//')
download "$image"
dpkg-deb -x "$image"_*.deb tree
# By one rename, so that a killed run leaves nothing that looks whole.
mkdir -p "$(dirname "$out")"
rm -rf "$out.new"
mv tree "$out.new"
mv -T "$out.new" "$out"
