#!/usr/bin/env bash
# Builds `builder`, then an image with it, and shows what happens the second time.
# All a Debian 12 machine with cargo needs; leaves nothing behind but target/.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
source scripts/packages.sh
need_compiler
need busybox=busybox-static slirp4netns=slirp4netns

echo "compiling (release)"
cargo build --release --quiet
program=${CARGO_TARGET_DIR:-target}/release/builder
program=$(realpath "$program")

# A store and a copy of the example of our own: the demo touches nothing else.
work=$(mktemp -d)
trap '"${as_root[@]}" rm -rf "$work"' EXIT
cp -r examples/hello "$work/hello"

builder() {
    printf '\n\033[1m$ builder %s\033[0m\n' "$*"
    "${as_root[@]}" env BUILDER_ROOT="$work/store" "$program" "$@"
}

scripts/mkbase.sh "$work/busybox.tar"
cd "$work"
builder import busybox.tar busybox
builder build -t hello hello
builder run hello
builder run hello you, whoever you are

echo
echo "# Nothing changed: every step comes out of the cache."
builder build -t hello hello

echo
echo "# A new time stamp is not a change; a new mode is, and explain says which file and what it breaks."
touch hello/words/*.txt
chmod 0755 hello/words/evening.txt
builder explain hello
builder build -t hello hello
builder images
