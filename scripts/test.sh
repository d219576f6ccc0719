#!/usr/bin/env bash
# Runs all tests. All a Debian 12 machine with cargo needs; arguments go to the test runner.
#
# The tests build images with the real sandbox, so they run as root: as another user, sudo starts them.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
source scripts/packages.sh
need_compiler
# The tests run tools of these directories only; a `jsonschema` of pip's elsewhere is not what they run.
# shellcheck disable=SC2034 # used by need
tool_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
need busybox=busybox-static slirp4netns=slirp4netns pasta=passt newuidmap=uidmap useradd=passwd ip=iproute2 \
    skopeo=skopeo podman=podman buildah=buildah umoci=umoci runc=runc docker-registry=docker-registry \
    mmdebstrap=mmdebstrap mkfs.ext4=e2fsprogs qemu-system-x86_64=qemu-system-x86 strip=binutils \
    git=git ssh-agent=openssh-client htpasswd=apache2-utils openssl=openssl zstd=zstd xz=xz-utils bzip2=bzip2 \
    python3=python3 jsonschema=python3-jsonschema chromium=chromium \
    /usr/share/gocode/src/github.com/opencontainers/image-spec/schema=golang-github-opencontainers-image-spec-dev

if [ ${#as_root[@]} != 0 ]; then
    # cargo and nextest start each test program through this; compiling stays with the caller.
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=${as_root[*]}"
fi

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked "$@"
    cargo test --locked --quiet --doc # which nextest leaves out
else
    cargo test --locked "$@"
fi
echo "all tests passed"
