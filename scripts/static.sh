#!/usr/bin/env bash
# static.sh [--profile PROFILE] [--target TRIPLE]: compiles a program that needs no library of the machine
# that runs it, and prints its path. PROFILE is `release` by default.
#
# The default target is this machine's with glibc, linked statically. Where rustup has the target
# x86_64-unknown-linux-musl and musl's C compiler is here, --target takes it; no test does.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=release
target=$(rustc -vV | sed -n 's/^host: //p')
while [ $# != 0 ]; do
    case $1 in
    --profile) profile=$2 ;;
    --target) target=$2 ;;
    *)
        sed -n '2s/^# //p' "$0" >&2
        exit 2
        ;;
    esac
    shift 2
done

# Paths of this machine would show in messages, and make two machines' programs differ.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
remap="--remap-path-prefix=$PWD=/builder --remap-path-prefix=$cargo_home=/cargo"
export RUSTFLAGS="-C target-feature=+crt-static $remap"
export CFLAGS="-ffile-prefix-map=$PWD=/builder -ffile-prefix-map=$cargo_home=/cargo"
unset CARGO_ENCODED_RUSTFLAGS
directory=$profile
[ "$profile" != dev ] || directory=debug
cargo build --locked --quiet --bin builder --profile "$profile" --target "$target" >&2
program=$(realpath "${CARGO_TARGET_DIR:-target}/$target/$directory/builder")

if readelf --program-headers --wide "$program" | grep -qw INTERP; then
    echo "$program is not static: it names an interpreter" >&2
    exit 1
fi
echo "$program"
