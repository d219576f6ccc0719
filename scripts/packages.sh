# Sourced by the other scripts: the Debian packages they need, and how to become root.
# shellcheck shell=bash

# Some tools live where only root's PATH looks, and cargo where rustup puts it.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin"
export PATH

# The words that make a command run as root: none when we are root already.
as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "$0: be root, or have sudo" >&2
        exit 1
    }
    as_root=(sudo -E env "PATH=$PATH")
fi

# Tells whether a busybox that needs no libraries is here.
has_static_busybox() {
    [ -x /bin/busybox ] && ! ldd /bin/busybox 2>/dev/null | grep -q '=>'
}

# need COMMAND=PACKAGE …: installs the packages whose command is not in PATH, or in tool_path if that is set.
# The command may be a path (a header, say); `busybox` means a static one.
need() {
    local pair command missing=()
    for pair; do
        command=${pair%%=*}
        case $command in
        busybox) has_static_busybox && continue ;;
        /*) [ -e "$command" ] && continue ;;
        *) (PATH=${tool_path:-$PATH} command -v "$command" >/dev/null) && continue ;;
        esac
        missing+=("${pair#*=}")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } </dev/null >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

# What compiling needs beside cargo: a linker, and a C compiler for zstd and xz.
need_compiler() {
    need cc=gcc /usr/include/stdio.h=libc6-dev
    command -v cargo >/dev/null || {
        echo "$0: cargo is missing: https://rustup.rs" >&2
        exit 1
    }
}
