#!/usr/bin/env bash
# dist.sh [--binary FILE] DIR: writes what a release has into DIR:
#
#     builder_VERSION_ARCH.deb              for Debian and Ubuntu
#     builder-VERSION-linux-ARCH.tar.gz     for all others: unpack it into /usr/local
#     SHA256SUMS                            of both
#
# Without --binary the program is compiled by static.sh. The same program gives the same bytes: owners,
# modes and order are fixed, and all times are SOURCE_DATE_EPOCH, by default that of the commit.
# DIST_LEVEL, 1 to 9, says how hard to compress.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC
usage() {
    sed -n '2s/^# //p' "$0" >&2
    exit 2
}
binary=
if [ "${1:-}" = --binary ]; then
    binary=$(realpath "${2:?}")
    shift 2
fi
[ $# = 1 ] && [[ $1 != -* ]] || usage
out=$(realpath -m "$1")
cd "$(dirname "$0")/.."
[ -n "$binary" ] || binary=$(scripts/static.sh)

epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date -r CHANGELOG.md +%s)}
export SOURCE_DATE_EPOCH=$epoch
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*)
    echo "$0: no release is made for $(uname -m)" >&2
    exit 1
    ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# put MODE FROM TO: one file, with the directories above it.
put() {
    mkdir -p "$(dirname "$3")"
    install -m "$1" "$2" "$3"
}

# settle DIR: gives all that is beneath one time and modes that do not depend on the machine.
settle() {
    find "$1" -type d -exec chmod 0755 {} +
    find "$1" -exec touch --no-dereference --date="@$epoch" {} +
}

# What is linked in, with its licences.
dependencies() {
    echo "Crates that are linked into builder, and their licences:"
    echo
    cargo tree --locked --edges normal,no-proc-macro --prefix none --format '{p} {l}' |
        grep -v '^builder ' | sed 's/ (\*)$//; s/ (proc-macro)//' | sort -u
    echo
    echo "The C library that is linked in is under the GNU Lesser General Public License 2.1 or later."
    echo "All that is needed to link builder with another one is in its source: scripts/static.sh."
}

made=$work/made
mkdir -p "$made/man"
"$binary" man "$made/man"
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$made/$shell"
done
dependencies >"$made/DEPENDENCIES"

# The tarball has the layout of /usr/local, below one directory.
name=builder-$version
tree=$work/tar/$name
put 0755 "$binary" "$tree/bin/builder"
for page in "$made"/man/*.1; do
    put 0644 "$page" "$tree/share/man/man1/$(basename "$page")"
done
put 0644 "$made/bash" "$tree/share/bash-completion/completions/builder"
put 0644 "$made/zsh" "$tree/share/zsh/site-functions/_builder"
put 0644 "$made/fish" "$tree/share/fish/vendor_completions.d/builder.fish"
put 0644 deploy/apparmor "$tree/share/builder/apparmor"
for page in LICENSE README.md CHANGELOG.md "$made/DEPENDENCIES"; do
    put 0644 "$page" "$tree/share/doc/builder/$(basename "$page")"
done
settle "$work/tar"
mkdir -p "$out"
tarball=$name-linux-$arch.tar.gz
tar --create --directory "$work/tar" --format=ustar --sort=name --owner=0 --group=0 --numeric-owner "$name" |
    gzip --no-name "-${DIST_LEVEL:-9}" >"$out/$tarball"

# The package.
deb=$work/deb
put 0755 "$binary" "$deb/usr/bin/builder"
# The name of kaniko's program, and a plugin of docker's client: `docker ocibuilder build`.
mkdir -p "$deb/usr/lib/builder" "$deb/usr/libexec/docker/cli-plugins"
ln -s ../../bin/builder "$deb/usr/lib/builder/executor"
ln -s ../../../bin/builder "$deb/usr/libexec/docker/cli-plugins/docker-ocibuilder"
for page in "$made"/man/*.1; do
    put 0644 "$page" "$deb/usr/share/man/man1/$(basename "$page")"
done
put 0644 "$made/bash" "$deb/usr/share/bash-completion/completions/builder"
put 0644 "$made/zsh" "$deb/usr/share/zsh/vendor-completions/_builder"
put 0644 "$made/fish" "$deb/usr/share/fish/vendor_completions.d/builder.fish"
put 0644 deploy/apparmor "$deb/usr/share/builder/apparmor"
doc=$deb/usr/share/doc/builder
put 0644 deploy/debian/copyright "$doc/copyright"
put 0644 CHANGELOG.md "$doc/changelog"
put 0644 README.md "$doc/README.md"
put 0644 "$made/DEPENDENCIES" "$doc/DEPENDENCIES"
gzip --no-name -9 "$doc/changelog" "$deb"/usr/share/man/man1/*.1
for script in postinst prerm; do
    put 0755 "deploy/debian/$script" "$deb/DEBIAN/$script"
done
(cd "$deb" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$deb/DEBIAN/md5sums"
size=$(find "$deb/usr" -type f -printf '%s\n' | awk '{ sum += int(($1 + 1023) / 1024) } END { print sum }')
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" deploy/debian/control >"$deb/DEBIAN/control"
settle "$deb"
package=builder_${version}_$arch.deb
# More threads would cut the data elsewhere.
dpkg-deb --root-owner-group -Zxz "-z${DIST_LEVEL:-6}" --threads-max=1 --build "$deb" "$out/$package" >/dev/null

(cd "$out" && sha256sum "$package" "$tarball" >SHA256SUMS)
