//! The attempts of `tests/escape` on the second and third rung: what leads out of namespaces nowhere
//! leads out of a root directory, or of a tree whose paths are resolved, nowhere.

use crate::kit::pod::Pod;
use crate::kit::{Kit, host, make_dir, users};
use std::fs;

/// Runs the attempts while a process outside sleeps and another has a socket; `$1` is the program,
/// `$2` the layout of a base image, `$3` the context, `$4` what holds a socket of the name `$5`.
const CALLS: &str = r#"
set -e
witness=/tmp/witness
echo untouched >$witness
chmod 600 $witness
sleep 1000 & victim=$!
"$4" hold "$5" & holds=$!
"$1" build --progress=plain --build-arg "VICTIM=$victim" --build-arg "SOCKET=$5" --build-context "fixture/base=oci-layout://$2" "$3" 2>&1
kill "$victim" "$holds"
[ "$(cat $witness)" = untouched ] && [ "$(stat -c %a $witness)" = 600 ]
"#;

fn cc(kit: &Kit, name: &str, source: &str) -> String {
    let program = kit.path(name);
    let program = program.to_str().unwrap();
    let source = format!("{}/{source}", env!("CARGO_MANIFEST_DIR"));
    host::tool(&["cc", "-static", "-w", "-O1", "-pthread", "-o", program, &source]);
    program.to_owned()
}

/// Returns the names of the attempts that succeeded, as root of the image and as a user of it.
fn successes(kit: &Kit, pod: Pod) -> Vec<String> {
    cc(kit, "attempts", "tests/escape/attempts.c");
    let holder = cc(kit, "holder", "tests/pods/attempts_proc.c");
    kit.dockerfile(
        "FROM fixture/base\nCOPY attempts /\nARG VICTIM SOCKET\n\
         RUN /attempts /tmp/witness $SOCKET $VICTIM 7 65024\n\
         USER app\nRUN /attempts /tmp/witness $SOCKET $VICTIM 7 65024\n",
    );
    let script = kit.out("script");
    fs::write(&script, CALLS).unwrap();
    let run = kit.command("/bin/sh").arg(&script).arg(kit.builder([""; 0]).program());
    let run = run.arg(crate::kit::base::layout()).arg(kit.path("")).arg(holder);
    // The machine's network has the names of all containers that tests run.
    let run = run.arg(format!("builder-outside-{pod:?}-{}", std::process::id()));
    let text = run.env("BUILDER_ROOT", kit.store()).in_pod(pod).ok().stdout();
    assert!(text.matches(" refused: ").count() > 140, "{text}");
    let lines = text.lines().filter(|line| line.starts_with('#'));
    lines
        .filter_map(|line| line.splitn(3, ' ').nth(2)?.strip_suffix(" SUCCEEDED"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn calls_that_lead_out_of_no_namespace_lead_out_of_no_root_directory() {
    if Pod::can_run() {
        // What can't hold without namespaces: a process may learn that another one is there.
        assert_eq!(successes(&Kit::new(), Pod::Docker), ["pidfd of the victim"; 2]);
    }
}

#[test]
fn calls_that_lead_out_of_no_namespace_lead_out_of_no_tree_whose_paths_are_resolved() {
    if Pod::can_run() {
        let kit = Kit::of(users::without_ranges());
        assert_eq!(successes(&kit, Pod::Restricted), ["pidfd of the victim"; 2]);
    }
}

/// Names that an image or a user chose, aimed at what the builder and its caller have open.
const NAMES: &str = r#"
set -e
b=$1 base=$2 context=$3
canary=/tmp/canary
mkdir $canary
echo hush-from-outside >$canary/secret
printf '#!/bin/sh\necho ran-from-outside\n' >$canary/prog
chmod 755 $canary/prog
exec 9<$canary 8<$canary/secret 7</
look='cat secret ../canary/secret; ./prog; echo > written; pwd'
count=0
said() { count=$((count + 1)); "$@" >>/tmp/said 2>&1 </dev/null || true; }
build() { "$b" build --no-cache --progress=plain --build-context "fixture/base=oci-layout://$base" "$@"; }
of() { printf '%s\n' "$@" >/tmp/Dockerfile; said build -f /tmp/Dockerfile "$context"; }
of 'FROM fixture/base' 'RUN true'
printf '%s\n' 'FROM fixture/base' 'RUN mkdir /v && ln -s /proc/self/fd/9 /link && ln -s /link /second && ln -s /proc/self/exe /exe' >/tmp/Dockerfile
build -q -t base -f /tmp/Dockerfile "$context" >>/tmp/said 2>&1
for place in /proc/self/fd/3 /proc/self/fd/7 /proc/self/fd/8 /proc/self/fd/9 /proc/1/fd/9 /proc/1/root /proc/1/cwd \
    /proc/self/fd/9/../canary /dev/fd/9 /dev/fd/7 /proc/thread-self/fd/9 /proc/self/root/proc/self/cwd \
    /proc/self/exe /proc/self/fd/9/made/here /link /second/made /v/../link /proc/self/root/..$canary; do
    said "$b" run --rm -w "$place" base sh -c "$look"
done
for program in /proc/self/exe /proc/1/exe /proc/self/fd/9/prog /proc/self/fd/7/..$canary/prog /proc/1/root$canary/prog \
    /dev/fd/9/prog /link/prog /exe; do
    said "$b" run --rm base "$program"
    said "$b" run --rm base sh -c "$program; cat ${program%/*}/secret"
done
for target in /proc /proc/sys/kernel /proc/self/fd/9 /proc/self/root/x /link /link/made /dev/fd/9 /v/../proc/sys; do
    of 'FROM base' "RUN --mount=type=tmpfs,target=$target $look"
    of 'FROM base' "RUN --mount=type=cache,target=$target $look"
done
for number in 0 1 2 3 4; do
    of 'FROM base' "COPY links/$number/ /etc/" "RUN $look"
done
for name in proc sys dev; do
    for number in 0 1 2 3; do
        of 'FROM scratch' 'COPY --from=fixture/base /bin /bin' "COPY own/$name/$number/ /" "RUN $look"
    done
done
echo "$count attempts"
if grep -E '^.*(hush|ran)-from-outside$' /tmp/said; then exit 1; fi
[ "$(ls $canary)" = "prog
secret" ]
ls / /tmp >/tmp/root
if grep -E '^(written|made|v|link)$' /tmp/root; then exit 1; fi
"#;

fn names_lead_nowhere(kit: &Kit, pod: Pod) {
    let link = |target: &str, path: String| {
        let path = kit.path(&path);
        make_dir(path.parent().unwrap());
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    let leads = [
        "/proc/self/fd/9/made",
        "/proc/sys/kernel/core_pattern",
        "/proc/1/cwd/x",
        "/dev/null",
        "/sys/x",
    ];
    for (number, target) in leads.iter().enumerate() {
        link(target, format!("links/{number}/hosts"));
        link(target, format!("links/{number}/resolv.conf"));
    }
    for name in ["proc", "sys", "dev"] {
        for (number, target) in ["real", "bin", "/none", "/proc/self/fd/9"].iter().enumerate() {
            link(target, format!("own/{name}/{number}/{name}"));
        }
    }
    let script = kit.out("script");
    fs::write(&script, NAMES).unwrap();
    let run = kit.command("/bin/sh").arg(&script).arg(kit.builder([""; 0]).program());
    let run = run.arg(crate::kit::base::layout()).arg(kit.path(""));
    let text = run.env("BUILDER_ROOT", kit.store()).in_pod(pod).ok().stdout();
    assert!(text.contains("68 attempts"), "{text}");
}

#[test]
fn names_that_images_choose_lead_out_of_no_root_directory() {
    if Pod::can_run() {
        names_lead_nowhere(&Kit::new(), Pod::Docker);
    }
}

#[test]
fn names_that_images_choose_lead_out_of_no_tree_whose_paths_are_resolved() {
    if Pod::can_run() {
        names_lead_nowhere(&Kit::of(users::without_ranges()), Pod::Restricted);
    }
}
