//! The second rung: commands in a root directory of their own, where root of a container can make no
//! namespace.

use crate::kit::pod::Pod;
use crate::kit::{Archive, Kit, Run, host};
use std::fs;

/// What commands leave behind, in all the forms that a layer has, with all kinds of mounts.
const DOCKERFILE: &str = "\
FROM fixture/base AS one
RUN mkdir -p /d/sub /gone/deep && echo 1 > /d/f && echo 2 > /d/sub/g && mkfifo /d/pipe
RUN chown -R app:app /d && chmod 4711 /d/f && ln /d/f /d/hard && ln -s f /d/link && touch -d @1500000000 /d/sub/g
RUN rm -r /gone /d/sub && mkdir /d/sub && echo new > /d/sub/h && mv /d/hard /d/moved && chmod 0700 /home
RUN mv /d/sub /d/renamed && mkdir /d/sub && ln /d/moved /again && cp /d/renamed/h /d/copy
USER app
WORKDIR /home/app/w
RUN id -u > uid && echo $HOME >> uid && echo x > /dev/null && cat /etc/hosts > /dev/null && test ! -w /etc
FROM fixture/base
COPY --from=one /d /d
COPY --from=one /home/app /home/app
RUN --mount=type=cache,target=/cache/deep --mount=type=tmpfs,target=/t --mount=type=bind,from=one,source=/d,target=/b \\
    cp -a /b/f /t/ && cp -a /t/f /kept && echo x >> /cache/deep/x && wc -l < /cache/deep/x
RUN --mount=type=secret,id=s,target=/run/s,mode=0440 --mount=type=bind,source=f,target=/made/here/f \\
    grep -q hidden /run/s && grep -q 1 /made/here/f && touch /etc/motd
RUN <<EOF
#!/bin/sh
rm /d/pipe && test ! -e /run/s && test ! -e /made && test ! -e /cache
EOF
COPY f /bin/env
RUN test -s /bin/env && touch /last
";

fn kit() -> Kit {
    let kit = Kit::new();
    kit.file("f", "1").file("secret", "hidden\n").dockerfile(DOCKERFILE);
    kit
}

fn build(kit: &Kit) -> Run {
    let secret = kit.path("secret");
    let secret = secret.exists().then(|| format!("--secret=id=s,src={}", secret.display()));
    kit.build().env("SOURCE_DATE_EPOCH", "1600000000").args(secret)
}

fn digest(kit: &Kit, lay: impl FnOnce(Run) -> Run) -> String {
    let archive = kit.out("image.tar");
    let output = format!("-otype=oci,dest={},rewrite-timestamp=true", archive.display());
    lay(build(kit).arg(output)).ok();
    Archive::open(&archive).digest
}

#[test]
fn commands_in_a_root_directory_make_the_same_image() {
    if !Pod::can_run() {
        return;
    }
    let (plain, pod) = (kit(), kit());
    let refused = build(&plain).arg("--confinement=chroot").fails(2);
    refused.says(&["--confinement=chroot is for places without namespaces"]);
    let wanted = digest(&plain, |run| run);
    let got = digest(&pod, |run| run.in_pod(Pod::Docker));
    assert_eq!(got, wanted);
    assert_eq!(fs::read_dir(pod.store().join("tmp")).unwrap().count(), 0, "nothing is left");
    // A change in the middle goes on from what the cache has, and the cache mount has its files.
    let changed = DOCKERFILE.replace("cp -a /t/f /kept", "cp -a /t/f /other");
    for kit in [&plain, &pod] {
        kit.dockerfile(&changed);
    }
    let wanted = digest(&plain, |run| run);
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Docker)), wanted);
    pod.dockerfile(
        "FROM fixture/base\nRUN --mount=type=cache,target=/cache/deep wc -l < /cache/deep/x\n",
    );
    let outcome = pod.build_showing("plain").in_pod(Pod::Docker).ok();
    outcome.says(&["--confinement=chroot", "in a root directory of their own", " 2\n"]);
}

/// Runs a build in a container in which it is watched from outside.
const WATCHED: &str = r#"
set -eu
b=$1 context=$2 base=$3
mkdir -p /var/lib/builder && echo untouched >/witness && chmod 600 /witness
build() { "$b" build --progress=plain --build-context "fixture/base=oci-layout://$base" "$@"; }
runs() { for f in /proc/[0-9]*/comm; do read -r name 2>/dev/null <"$f" && [ "$name" = sleep ] && return 0; done; return 1; }
build -f "$context/attempts" "$context"
# Processes that a command leaves end with it.
build -f "$context/leaves" "$context"
if runs; then echo "a process is left"; exit 1; fi
# So do those of a builder that is killed.
"$b" build --progress=plain --build-context "fixture/base=oci-layout://$base" -f "$context/waits" "$context" &
pid=$!
until runs; do :; done
kill -9 "$pid"
while runs; do :; done
# A process that outlives the one above it finds no way out in what goes back to the store.
"$b" build --progress=plain --build-context "fixture/base=oci-layout://$base" -f "$context/stays" "$context" 2>/tmp/lost &
pid=$!
until runs; do :; done
for f in /proc/[0-9]*/comm; do read -r name 2>/dev/null <"$f" && [ "$name" = sleep ] && asleep=${f%/comm}; done
parent() { sed -n 's/^PPid:[[:space:]]*//p' "/proc/$1/status"; }
keeper=$(parent "$(parent "${asleep#/proc/}")")
kill -9 "$keeper"
if wait "$pid"; then exit 1; fi
grep -q "may still run" /tmp/lost
for f in /proc/[0-9]*/cmdline; do if tr '\0' ' ' 2>/dev/null <"$f" | grep -q '^/bin/sh /climber'; then f=${f#/proc/}; kill -9 "${f%/cmdline}"; fi; done
kill -9 "${asleep#/proc/}"
[ "$(cat /witness)" = untouched ] && [ "$(stat -c %a:%u /witness)" = 600:0 ]
if build --confinement=namespaces -f "$context/leaves" --no-cache "$context" 2>/tmp/said; then exit 1; fi
grep -q "commands cannot be confined here: no user namespace" /tmp/said
"$b" doctor | grep -q "RUN steps get a root directory of their own"
echo watched to the end
"#;

#[test]
fn commands_reach_nothing_outside_their_root_directory() {
    if !Pod::can_run() {
        return;
    }
    let kit = kit();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/attempts.c");
    let program = kit.path("attempt");
    host::tool(&["cc", "-static", "-O1", "-o", program.to_str().unwrap(), source]);
    kit.file("attempts", "FROM fixture/base\nCOPY attempt /attempt\nRUN /attempt\n");
    let leaves = "(setsid sleep 1000 &) && sleep 1000 & sleep 1000 > /dev/null 2>&1 & true";
    kit.file("leaves", format!("FROM fixture/base\nRUN {leaves}\n"));
    let climber = "while :; do chmod 777 ../../../../../../../../../witness 2>/dev/null; done";
    kit.file("climber", climber);
    let stays = "mkdir /c/sub && (cd /c/sub && setsid /bin/sh /climber &); sleep 1000; true";
    kit.file(
        "stays",
        format!("FROM fixture/base\nCOPY climber /\nRUN --mount=type=cache,target=/c {stays}\n"),
    );
    kit.file("waits", "FROM fixture/base\nRUN (setsid sleep 1000 &); sleep 1000\n");
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    let script = kit.out("script");
    fs::write(&script, WATCHED).unwrap();
    let builder = kit.builder([""; 0]).program();
    let base = crate::kit::base::layout();
    let run = kit.command("/bin/sh").arg(&script).arg(builder).arg(kit.path("")).arg(base);
    let outcome = run.env("BUILDER_ROOT", "/var/lib/builder").in_pod(Pod::Docker).ok();
    let text = outcome.text();
    assert!(text.contains("all was tried"), "{text}");
    assert!(!text.contains("BREACH"), "{text}");
    assert!(outcome.stdout().contains("watched to the end"), "{}", outcome.stdout());
}

/// Runs a build, and then a command in a terminal, while a process outside has a terminal; `$1` is the
/// program of attempts.
const LOOKED_AT: &str = r#"
set -e
echo untouched >/witness
chmod 600 /witness
attempt=$1 builder=$2
shift
"$attempt" hold & holds=$!
"$@" >/tmp/said 2>&1 || s=$?
cat /tmp/said
[ "${s:-0}" = 0 ]
[ "$(stat -c %a:%u:%g /witness)" = 600:0:0 ]
"$attempt" terminal "$builder" run -it --rm own sh -c 'tty; echo x >/dev/tty; [ -t 0 ]'
kill "$holds"
"#;

#[test]
fn what_proc_shows_is_the_commands_own_and_leads_nowhere() {
    if !Pod::can_run() {
        return;
    }
    let kit = kit();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/attempts_proc.c");
    let program = kit.path("proc-attempt");
    let words = ["cc", "-static", "-O1", "-pthread", "-o", program.to_str().unwrap(), source];
    host::tool(&words);
    kit.dockerfile(
        "FROM fixture/base\nCOPY proc-attempt /\nRUN ln -s /proc/self/mounts /mtab && echo 1 > /roots && chmod 640 /roots\n\
         RUN [\"/proc-attempt\"]\n\
         USER app\nRUN [\"/proc-attempt\"]\n",
    );
    let script = kit.out("script");
    fs::write(&script, LOOKED_AT).unwrap();
    let base = format!("fixture/base=oci-layout://{}", crate::kit::base::layout().display());
    let run = kit.command("/bin/sh").arg(&script).arg(&program).arg(kit.builder([""; 0]).program());
    let run = run.args(["build", "--progress=plain", "-t", "own", "--build-context", &base]);
    let run = run.arg(kit.path("")).env("BUILDER_ROOT", kit.store());
    let in_groups = |config: &mut serde_json::Value| {
        config["process"]["user"]["additionalGids"] = serde_json::json!([0, 42]);
    };
    let text = run.in_pod_where(Pod::Docker, in_groups).ok().stdout();
    assert_eq!(text.matches("all was tried").count(), 2, "{text}");
    assert!(text.contains("/dev/pts/"), "{text}");
    assert!(!text.contains("BREACH"), "{text}");
    assert!(!text.contains("lacks"), "{text}");
}

#[test]
fn programs_that_look_at_themselves_work_in_a_root_directory() {
    if !Pod::can_run() {
        return;
    }
    let (plain, pod) = (kit(), kit());
    let dockerfile = "FROM fixture/base\n\
        RUN echo in | cat /dev/stdin > /in && cat /in > /dev/stdout && echo err > /dev/stderr\n\
        RUN readlink /proc/self/exe > /exe && cat /proc/self/comm > /comm && ls /proc/self/fd | wc -l > /fds\n\
        RUN ln -s /dev/stdout /log && echo through a link > /log && ls -l /dev/fd/ > /dev/null\n\
        RUN grep -c ^processor /proc/cpuinfo > /dev/null && df / > /dev/null && nproc > /dev/null && ps > /dev/null\n\
        RUN exec 5>/five && echo five > /proc/self/fd/5 && test -e /proc/$$/fd/5 && cd /proc/self && cat status > /dev/null\n\
        RUN test ! -e /proc/1/root && ! cat /proc/1/environ && ! echo 1 > /proc/sys/kernel/panic\n\
        RUN su app -s /bin/sh -c 'readlink /proc/self/exe; cat /proc/self/comm' > /app\n";
    let only_own =
        |text: &str| text.replace("test ! -e /proc/1/root && ! cat /proc/1/environ && ", "");
    plain.dockerfile(&only_own(dockerfile));
    let built = plain.build_showing("plain").ok();
    built.says(&["through a link", " err\n"]);
    pod.dockerfile(dockerfile);
    pod.build_showing("plain").in_pod(Pod::Docker).ok().says(&["through a link", " err\n"]);
    for kit in [&plain, &pod] {
        kit.dockerfile(&only_own(dockerfile));
    }
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Docker)), digest(&plain, |run| run));
}

/// As Yama's scope 2 and old profiles have it.
#[test]
fn commands_run_without_proc_where_their_memory_cannot_be_read() {
    if !Pod::can_run() {
        return;
    }
    let kit = kit();
    kit.dockerfile(
        "FROM fixture/base\nRUN test ! -e /proc/self/status && ! cat /proc/cpuinfo && echo it ran\n",
    );
    let unreadable = |config: &mut serde_json::Value| {
        for rule in config["linux"]["seccomp"]["syscalls"].as_array_mut().unwrap() {
            rule["names"].as_array_mut().unwrap().retain(|name| name != "process_vm_readv");
        }
    };
    let outcome = kit.build_showing("plain").in_pod_where(Pod::Docker, unreadable).ok();
    outcome.says(&["it ran", "/proc of commands is empty", "cannot be read"]);
}

#[test]
fn a_command_without_network_has_sockets_of_files_only() {
    if !Pod::can_run() {
        return;
    }
    let kit = kit();
    kit.dockerfile(
        "FROM fixture/base\nRUN --network=none ! ping -c 1 127.0.0.1 2> /said && cat /said && ! test -e /proc/net/tcp\n\
         RUN test -e /proc/net/tcp\n",
    );
    let outcome = kit.build_showing("plain").in_pod(Pod::Docker).ok();
    outcome.says(&["Address family not supported", "have no loopback"]);
}

#[test]
fn a_store_in_memory_misses_no_change() {
    if !Pod::can_run() {
        return;
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/attempts_proc.c");
    let (plain, pod) = (kit(), kit());
    let program = plain.path("attempt");
    host::tool(&["cc", "-static", "-O1", "-pthread", "-o", program.to_str().unwrap(), source]);
    fs::copy(&program, pod.path("attempt")).unwrap();
    // A file of the base, one of the step before, and one with two names.
    let dockerfile = format!(
        "{DOCKERFILE}COPY attempt /\nRUN echo file > /one && echo file > /two && ln /two /three\n\
         RUN /attempt store /etc/passwd && /attempt store /one && touch /after\n\
         RUN grep -q ^soot /etc/passwd && grep -q gile /one && rm /attempt\n"
    );
    for kit in [&plain, &pod] {
        kit.dockerfile(&dockerfile);
    }
    let wanted = digest(&plain, |run| run);
    let got = digest(&pod, |run| run.env("BUILDER_ROOT", "/tmp/store").in_pod(Pod::Docker));
    assert_eq!(got, wanted);
}

/// Packages with accounts, set-id programs, hard links and scripts that run as they are installed.
pub(crate) const DEBIAN: &str = "\
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends make cron && \\
    rm -r /var/log/* /var/cache/* /var/lib/apt/lists/*
RUN useradd -m app && su app -c 'id -un > ~/who' && \\
    rm /etc/*- && sed -i 's/^app:!:[0-9]*/app:!:1/' /etc/shadow
USER app
RUN perl -e 'print \"perl\\n\"' > /home/app/perl
SHELL [\"/bin/bash\", \"-euc\"]
RUN diff <(echo one) <(echo one) && cat < <(echo two) > ~/two && echo three | tee /dev/stderr | cat /dev/stdin > ~/three
RUN script -qec 'test -t 0 && tty | cut -c1-9' /dev/null > ~/terminal && ls -l /proc/self/exe | sed 's/.* //' > ~/exe
";

/// A tar with devices that a command must not open.
fn devices() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_path("random").unwrap();
    header.set_entry_type(tar::EntryType::Char);
    header.set_device_major(1).unwrap();
    header.set_device_minor(8).unwrap();
    header.set_mode(0o666);
    header.set_size(0);
    header.set_cksum();
    tar.append(&header, std::io::empty()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn what_commands_are_given_does_not_stay_and_devices_of_images_do_not_open() {
    if !Pod::can_run() {
        return;
    }
    let (plain, pod) = (kit(), kit());
    let dockerfile = "FROM fixture/base\nADD devices.tar /\n\
        RUN [ \"$(head -c 1 /random 2>/dev/null | wc -c)\" = 0 ] && touch /after\n\
        RUN --mount=type=cache,target=/c chown 1:1 /c && chmod 700 /c\n\
        RUN --mount=type=cache,target=/c [ \"$(stat -c %u:%g:%a /c)\" = 1:1:700 ] && echo one > /c/f\n\
        RUN --mount=type=cache,target=/c ln /c/f /app || cp /c/f /app\n\
        RUN --mount=type=cache,target=/c echo two >> /c/f\n\
        RUN [ \"$(cat /app)\" = one ]\n";
    for kit in [&plain, &pod] {
        kit.file("devices.tar", devices()).dockerfile(dockerfile);
    }
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Docker)), digest(&plain, |run| run));
    for step in [
        "--mount=type=secret,id=s mv /run/secrets/s /leak",
        "--mount=type=secret,id=s ln /run/secrets/s /leak",
        "mv /dev /devices && mkdir /dev",
        "mv /dev/full /full",
    ] {
        pod.dockerfile(&format!("FROM fixture/base\nRUN {step}\n"));
        let refused = build(&pod).in_pod(Pod::Docker).any();
        assert_ne!(refused.status, Some(0), "{step}");
        refused.says(&["moved or linked what it was given"]);
    }
}

#[test]
fn commands_of_debian_make_the_same_image_in_a_root_directory() {
    if !Pod::can_run() || !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let (plain, pod) = (Kit::new(), Kit::new());
    plain.dockerfile(DEBIAN);
    pod.dockerfile(DEBIAN);
    plain.builder(["import"]).arg(crate::kit::base::debian()).arg("debian:bookworm").ok();
    // The same, with the time of its import.
    let saved = pod.beside("debian.tar");
    plain.builder(["save", "debian:bookworm", "-o"]).arg(&saved).ok();
    pod.builder(["load", "-i"]).arg(&saved).in_pod(Pod::Docker).ok();
    let wanted = digest(&plain, |run| run);
    let got = digest(&pod, |run| run.in_pod(Pod::Docker));
    assert_eq!(got, wanted);
}

/// Ways to where the supervisor would write: `$1` has a directory of the container.
const PLANTED: &str = "\
FROM fixture/base
RUN mv /proc/self /proc/away 2>/dev/null; rm -rf /proc/1 /proc/$$; ln -s /witness /proc/$$ && cd /proc/self/fd; \\
    [ -z \"$(ls /witness 2>/dev/null)\" ] && true
";

#[test]
fn nothing_is_made_where_links_in_proc_lead_and_nothing_is_mounted_there() {
    if !Pod::can_run() {
        return;
    }
    let kit = kit();
    kit.dockerfile(PLANTED);
    let script = "mkdir /witness && \"$@\" && [ -z \"$(ls -A /witness)\" ] && echo empty";
    let build = build(&kit);
    let run = kit.command("/bin/sh").args(["-c", script, "sh"]).arg(build.program());
    let run = run.args(build.into_command().get_args()).env("BUILDER_ROOT", kit.store());
    assert!(run.in_pod(Pod::Docker).ok().stdout().ends_with("empty\n"));
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=cache,target=/proc true\n");
    let refused = self::build(&kit).in_pod(Pod::Docker).any();
    refused.says(&["/proc cannot be a mount point"]);
}
