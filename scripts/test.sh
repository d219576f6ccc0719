#!/usr/bin/env bash
# Runs all tests, or with the name of a test program (cli, registry, …) that one alone. All that a
# Debian 12 machine with cargo needs; further arguments go to the test runner.
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
schemas=/usr/share/gocode/src/github.com/opencontainers/image-spec/schema
# What each test program runs; `common` is for all of them.
declare -A tools=(
    [common]="busybox=busybox-static strip=binutils dpkg-deb=dpkg"
    [lib]="git=git python3=python3"
    [house]=""
    [fuzz_smoke]=""
    [cli]="slirp4netns=slirp4netns pasta=passt newuidmap=uidmap useradd=passwd ip=iproute2 skopeo=skopeo
        podman=podman umoci=umoci runc=runc git=git ssh-agent=openssh-client zstd=zstd xz=xz-utils
        bzip2=bzip2 mmdebstrap=mmdebstrap mkfs.ext4=e2fsprogs python3=python3
        jsonschema=python3-jsonschema chromium=chromium
        $schemas=golang-github-opencontainers-image-spec-dev"
    [registry]="skopeo=skopeo docker-registry=docker-registry htpasswd=apache2-utils openssl=openssl git=git
        ip=iproute2 ssh-agent=openssh-client"
    [sandbox]="slirp4netns=slirp4netns pasta=passt newuidmap=uidmap useradd=passwd ip=iproute2"
    [escape]="slirp4netns=slirp4netns pasta=passt newuidmap=uidmap useradd=passwd ip=iproute2"
    [rootless]="slirp4netns=slirp4netns pasta=passt newuidmap=uidmap useradd=passwd ip=iproute2
        mmdebstrap=mmdebstrap"
    [cgroup_v2]="qemu-system-x86_64=qemu-system-x86"
    [pods]="runc=runc useradd=passwd docker-registry=docker-registry htpasswd=apache2-utils skopeo=skopeo
        openssl=openssl mmdebstrap=mmdebstrap dpkg-deb=dpkg git=git curl=curl python3=python3
        /usr/lib/python3/dist-packages/yaml=python3-yaml
        /usr/share/containers/seccomp.json=golang-github-containers-common"
    [crash]="useradd=passwd newuidmap=uidmap"
    [hostile_images]=""
    [oracle]="git=git ssh-agent=openssh-client useradd=passwd mmdebstrap=mmdebstrap"
    [conformance]="python3=python3 buildah=buildah podman=podman skopeo=skopeo git=git"
)

# Docker's client, and not the engine that Debian has in the same package: unpacked below target/, where
# the tests look for what PATH does not have.
need_docker_client() {
    local to=target/tools dir
    { (PATH=$tool_path command -v docker >/dev/null) || [ -x $to/docker ]; } && return
    echo "fetching docker's client"
    dir=$(mktemp -d)
    (
        cd "$dir"
        apt-get download -qq docker-cli 2>/dev/null || {
            "${as_root[@]}" apt-get update -qq
            apt-get download -qq docker-cli 2>/dev/null || apt-get download -qq docker.io
        }
        dpkg -x ./*.deb unpacked
    ) </dev/null
    mkdir -p $to
    cp "$dir/unpacked/usr/bin/docker" $to/
    rm -rf "$dir"
}

# Programs of other processors and emulators, fetched before a test waits for them; tests/kit/emulation.rs
# has the same directory.
need_emulation() {
    local to=${CARGO_TARGET_DIR:-target}/tmp/emulation-1
    [ -d "$to" ] && return
    echo "fetching emulators, and busybox for other processors"
    mkdir -p "$(dirname "$to")"
    scripts/emulation.sh "$to"
}

# `scripts/test.sh NAME …` runs one test program and installs only what it needs.
programs=("${!tools[@]}")
if [[ ${1:-} != -* && -n ${1:-} && $1 != common && -v "tools[$1]" ]]; then
    programs=("$1")
    case $1 in
    lib) set -- --lib "${@:2}" ;;
    *) set -- --test "$@" ;;
    esac
fi
[[ ${programs[*]} =~ ^(lib|house|fuzz_smoke)$ ]] || programs+=(common)
packages=()
for program in "${programs[@]}"; do
    # shellcheck disable=SC2206 # words of a list
    packages+=(${tools[$program]})
done
[ ${#packages[@]} = 0 ] || need "${packages[@]}"
[[ " ${programs[*]} " != *" cli "* ]] || need_docker_client
# Fetched while the tests are compiled.
fetching=
[[ ! " ${programs[*]} " =~ " "(cli|pods)" " ]] || { need_emulation & fetching=$!; }

if [ ${#as_root[@]} != 0 ]; then
    # cargo and nextest start each test program through this; compiling stays with the caller.
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_RUNNER=${as_root[*]}"
fi

if cargo nextest --version >/dev/null 2>&1; then
    if [ -n "$fetching" ]; then
        cargo nextest run --locked --no-run "$@"
        wait "$fetching"
    fi
    cargo nextest run --locked "$@"
    [ ${#programs[@]} -le 2 ] || cargo test --locked --quiet --doc # which nextest leaves out
else
    [ -z "$fetching" ] || wait "$fetching"
    cargo test --locked "$@"
fi
echo "the tests passed"
