#!/usr/bin/env bash
# mkbase.sh OUT.tar: a small root file system, all of it busybox, to be given to `builder import`.
# Needs Debian's busybox-static. Owners and times are fixed, so equal busyboxes give equal bytes.
set -euo pipefail

[ $# = 1 ] || {
    echo "usage: $0 OUT.tar" >&2
    exit 2
}
umask 022
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sbin,sys,tmp,usr/bin,usr/sbin,var/tmp}
chmod 0755 "$root"
chmod 0700 "$root/root"
chmod 1777 "$root/tmp" "$root/var/tmp"
install -m 0755 /bin/busybox "$root/bin/busybox"
/bin/busybox --list | while read -r applet; do
    [ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"
done
ln -s ../../bin/env "$root/usr/bin/env"
cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
PASSWD
cat >"$root/etc/group" <<'GROUP'
root:x:0:
daemon:x:1:
users:x:100:
nobody:x:65534:
GROUP
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chmod 0644 "$root"/etc/*

tar --create --file "$1" --directory "$root" --format=pax --sort=name \
    --pax-option='delete=atime,delete=ctime' --mtime=@1767225600 \
    --owner=0 --group=0 --numeric-owner .
