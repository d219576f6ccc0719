//! The third rung: commands whose every path is resolved for them, in a pod without any privilege.

use crate::kit::pod::Pod;
use crate::kit::{Archive, Kit, Run, base, host, users};
use std::fs;

/// What commands leave behind, in all the forms that a layer has.
const DOCKERFILE: &str = "\
FROM fixture/base AS one
RUN mkdir -p /d/sub /gone/deep && echo 1 > /d/f && echo 2 > /d/sub/g && mkfifo /d/pipe
RUN chown -R app:app /d && chmod 4711 /d/f && ln /d/f /d/hard && ln -s f /d/link && touch -d @1500000000 /d/sub/g
RUN rm -r /gone /d/sub && mkdir /d/sub && echo new > /d/sub/h && mv /d/hard /d/moved && chmod 0700 /home
RUN mv /d/sub /d/renamed && mkdir /d/sub && ln /d/moved /again && cp /d/renamed/h /d/copy
USER app
WORKDIR /home/app/w
RUN id -u > uid && echo $HOME >> uid && echo x > /dev/null && cat /etc/hosts > /dev/null
FROM fixture/base
COPY --from=one /d /d
COPY --from=one /home/app /home/app
RUN --mount=type=cache,target=/cache/deep --mount=type=tmpfs,target=/t --mount=type=bind,from=one,source=/d,target=/b \\
    cp -a /b/f /t/ && cp -a /t/f /kept && echo x >> /cache/deep/x && wc -l < /cache/deep/x
RUN <<EOF
#!/bin/sh
rm /d/pipe && test ! -e /cache && echo done | cat > /piped
EOF
COPY f /bin/env
RUN test -s /bin/env && touch /last
";

fn digest(kit: &Kit, lay: impl FnOnce(Run) -> Run) -> String {
    let archive = kit.out("image.tar");
    let run = kit.build().env("SOURCE_DATE_EPOCH", "1600000000");
    let output = format!("-otype=oci,dest={},rewrite-timestamp=true", archive.display());
    lay(run.arg(output)).ok();
    Archive::open(&archive).digest
}

#[test]
fn commands_in_a_pod_without_privileges_make_the_same_image() {
    if !Pod::can_run() {
        return;
    }
    let (plain, pod) = (Kit::new(), Kit::of(users::without_ranges()));
    for kit in [&plain, &pod] {
        kit.file("f", "1").dockerfile(DOCKERFILE);
    }
    let wanted = digest(&plain, |run| run);
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Restricted)), wanted);
}

/// Runs a build in a pod in which it is watched from outside, then the same attempts without it.
const WATCHED: &str = r#"
set -eu
b=$1 context=$2 base=$3
echo untouched >/tmp/witness && chmod 666 /tmp/witness
"$context/attempt" serve &
until [ -S /tmp/witness.sock ]; do :; done
facts() { stat -c '%n %a %u %s %Y %Z' /tmp /tmp/* "$context/attempt" "$context/Dockerfile"; ls /tmp; }
before=$(facts)
"$b" build --progress=plain --confinement=emulated --build-context "fixture/base=oci-layout://$base" "$context"
[ "$(facts)" = "$before" ] && [ "$(cat /tmp/witness)" = untouched ]
"$b" doctor | grep -q "RUN steps have every path resolved for them"
if "$b" build --confinement=chroot --no-cache --build-context "fixture/base=oci-layout://$base" "$context" 2>/tmp/said; then exit 1; fi
echo watched to the end
"$context/attempt" 2>/dev/null | grep -c BREACH || true
"#;

#[test]
fn commands_whose_paths_are_resolved_reach_nothing_of_their_pod() {
    if !Pod::can_run() {
        return;
    }
    let kit = Kit::of(users::without_ranges());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/paths.c");
    let program = kit.path("attempt");
    host::tool(&["cc", "-static", "-O1", "-w", "-o", program.to_str().unwrap(), source]);
    kit.dockerfile("FROM fixture/base\nCOPY attempt /attempt\nRUN /attempt\n");
    let script = kit.out("script");
    fs::write(&script, WATCHED).unwrap();
    let builder = kit.builder([""; 0]).program();
    let run =
        kit.command("/bin/sh").arg(&script).arg(builder).arg(kit.path("")).arg(base::layout());
    let outcome = run.env("BUILDER_ROOT", kit.store()).in_pod(Pod::Restricted).ok();
    let text = outcome.text();
    assert!(text.contains("all was tried"), "{text}");
    assert!(!text.contains("BREACH") && !text.contains("failed: "), "{text}");
    let stdout = outcome.stdout();
    let (_, native) = stdout.split_once("watched to the end\n").unwrap();
    let found: usize = native.trim().parse().unwrap();
    assert!(found > 10, "what is not confined reaches most of it: {native}");
}

#[test]
fn commands_of_debian_make_the_same_image_in_a_pod_without_privileges() {
    if !Pod::can_run() || !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let (plain, pod) = (Kit::new(), Kit::of(users::without_ranges()));
    plain.dockerfile(crate::chroot::DEBIAN);
    pod.dockerfile(crate::chroot::DEBIAN);
    plain.builder(["import"]).arg(base::debian()).arg("debian:bookworm").ok();
    // The same, with the time of its import.
    let saved = pod.beside("debian.tar");
    plain.builder(["save", "debian:bookworm", "-o"]).arg(&saved).ok();
    pod.builder(["load", "-i"]).arg(&saved).in_pod(Pod::Restricted).ok();
    let wanted = digest(&plain, |run| run);
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Restricted)), wanted);
}
