//! Each command that needs no namespace, in places where none can be made.

use crate::kit::pod::Pod;
use crate::kit::{Kit, base, users};
use crate::server::{Kind, PASSWORD, Registry, USER};
use std::fs;

/// Runs them one after the other; `$1` is the program, `$2` the registry, `$3` a directory to write in,
/// `$4` the layout of a base image.
const SCRIPT: &str = r#"
set -eu
b=$1 registry=$2 out=$3 base=$4
run() { "$b" "$@" >"$out/stdout" 2>"$out/stderr" || { echo "builder $*: $?"; cat "$out/stdout" "$out/stderr"; exit 1; } }
says() { grep -q -- "$1" "$out/stdout" || { echo "no $1 in:"; cat "$out/stdout"; exit 1; } }
cd "$out"
run version; says builder
run help; says COMMAND
run help build
run completions bash
run man "$out/man"
printf 'FROM base AS one\nCOPY a /a\nFROM one\nWORKDIR /w\nLABEL x=y\nCMD ["a"]\n' >"$out/Dockerfile"
echo a >"$out/a"
run check --build-context "base=oci-layout://$base" "$out"
printf %s "$PASSWORD" | "$b" login -u "$USER" --password-stdin "$registry" >/dev/null 2>&1
run copy -q "oci:$base" "docker://$registry/base:1"
run copy -q "docker://$registry/base:1" "oci:$out/layout"
run pull "$registry/base:1"
run images; says base
run inspect "$registry/base:1"
run history "$registry/base:1"
run tag "$registry/base:1" other:2
run save -o "$out/saved.tar" other:2
run rmi other:2
run load -i "$out/saved.tar"
run build --build-context "base=oci-layout://$base" -t "$registry/app:1" "$out"
run push "$registry/app:1"
run build --build-context "base=oci-layout://$base" -t "$registry/app:1" -o "type=local,dest=$out/files" "$out"
[ "$(cat "$out/files/a")" = a ]
run explain
run history builds; says ok
if "$b" diff other:2 "$registry/app:1" >"$out/stdout"; then exit 1; fi
says '+ /w'
run df
run doctor; says 'no user namespace can be made'; says "fix: "
run doctor --format=json; says '"works": true'
run store verify
run prune --all
run logout "$registry"
printf 'FROM base\nCOPY a /a\nRUN echo ran\n' >"$out/Dockerfile"
if "$b" build --confinement=namespaces --build-context "base=oci-layout://$base" "$out" >"$out/stdout" 2>&1; then echo 'RUN ran'; exit 1; fi
says 'RUN echo ran: commands cannot be confined here: no user namespace can be made'
says 'Dockerfile:3'
says "hint: start the container"
if "$b" run --confinement=namespaces other:2 true 2>"$out/stdout"; then exit 1; fi
says 'commands cannot be confined here'
"$b" build --progress=plain --confinement=emulated --build-context "base=oci-layout://$base" "$out" >"$out/stdout" 2>&1 || true
says '--confinement=emulated is for users in containers\|^#.* ran$'
"#;

fn all_commands(kit: &Kit, pod: Pod, store: &str) {
    let Some(registry) = Registry::start(Kind::Login) else { return };
    let script = kit.out("script");
    fs::write(&script, SCRIPT).unwrap();
    let out = kit.out("work");
    fs::create_dir(&out).unwrap();
    if let Some(user) = kit.user() {
        std::os::unix::fs::chown(&out, Some(user.uid), Some(user.gid)).unwrap();
    }
    let base = base::layout().to_str().unwrap();
    let builder = kit.builder([""; 0]).program();
    let run = kit.command("/bin/sh").arg(&script).arg(builder).arg(registry.host()).arg(&out);
    let run = run.arg(base).env("BUILDER_ROOT", store);
    run.env("USER", USER).env("PASSWORD", PASSWORD).in_pod(pod).ok();
}

#[test]
fn commands_work_for_root_of_a_container_without_namespaces() {
    if Pod::can_run() {
        // The store is on the container's own root, an overlay.
        all_commands(&Kit::new(), Pod::Docker, "/var/lib/builder");
    }
}

#[test]
fn commands_work_for_a_user_without_capabilities() {
    if Pod::can_run() {
        // The store is in memory.
        all_commands(&Kit::of(users::without_ranges()), Pod::Restricted, "/tmp/store");
    }
}
