//! The third rung: commands whose every path is resolved for them, in a pod without any privilege.

use crate::builds::digest;
use crate::kit::pod::Pod;
use crate::kit::wait::eventually;
use crate::kit::{Kit, base, host, users};
use std::fs;

/// What commands leave behind, in all the forms that a layer has.
const DOCKERFILE: &str = "\
FROM fixture/base AS one
RUN mkdir -p /d/sub /gone/deep && echo 1 > /d/f && echo 2 > /d/sub/g && mkfifo /d/pipe
RUN chown -R app:app /d && chmod 4711 /d/f && ln /d/f /d/hard && ln -s f /d/link && touch -d @1500000000 /d/sub/g
RUN rm -r /gone /d/sub && mkdir /d/sub && echo new > /d/sub/h && mv /d/hard /d/moved && chmod 0700 /home
RUN mv /d/sub /d/renamed && mkdir /d/sub && ln /d/moved /again && cp /d/renamed/h /d/copy
RUN mkdir /process /procs && ln -s a /process/l && chown -h app:app /process/l && echo 1 > /procs/f && \\
    ln /procs/f /process/hard && sed -i s/1/2/ /procs/f && cp -a /process /proc.old
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

/// Builds what `make` puts into a context, as root of a plain machine and in a pod without privileges,
/// and compares the images.
fn makes_the_same_image(make: impl Fn(&Kit)) {
    let (plain, pod) = (Kit::new(), Kit::of(users::without_ranges()));
    make(&plain);
    make(&pod);
    let wanted = digest(&plain, |run| run);
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Restricted)), wanted);
}

#[test]
fn commands_in_a_pod_without_privileges_make_the_same_image() {
    if Pod::can_run() {
        makes_the_same_image(|kit| _ = kit.file("f", "1").dockerfile(DOCKERFILE));
    }
}

/// More links than have room in an attribute by their names, of one owner and of several.
const LINKS: &str = "\
FROM fixture/base
RUN mkdir -p /app/bin && cd /app/bin && for i in $(seq 1 5000); do ln -s ../package-$i/cli.js program-$i; done
RUN chown -R 1000:1000 /app
RUN cd /app/bin && chown -h 7 *3 && mv program-5 moved && ln moved /app/again && rm *8
RUN mkdir /from /to && cd /to && for i in $(seq 1 185); do ln -s x quite-a-long-name-of-a-link-$i; done && \\
    chown -h 3:3 quite-a-long-name-of-a-link-1 && cd /from && \\
    for i in $(seq 1 40); do ln -s y t$i && chown -h 7:7 t$i && mv t$i /to/ || exit 1; done && mkdir /to/d && \\
    if mv -T /to/t1 /to/d; then exit 1; fi && mv /to/t2 /to/t3 && ls -ln /to | awk '{ print $3, $4, $9 }' > /seen
FROM fixture/base
COPY --from=0 /app /app
COPY --from=0 /to /seen /to/
";

#[test]
fn thousands_of_links_in_a_directory_have_their_owners() {
    if Pod::can_run() {
        makes_the_same_image(|kit| _ = kit.dockerfile(LINKS));
    }
}

/// Files with set-id bits and capabilities whose content changes, and what is seen of them.
const CHANGED: &str = "\
FROM fixture/base
COPY rewrite /rewrite
RUN /rewrite make && /rewrite change > /seen
RUN /rewrite make
RUN /rewrite change > /later
RUN for f in /f/*-4555 /f/*-6511; do cat /seen > $f; done; cp /seen /f/none-755 && chown 5 /f/none-4755 && \\
    chmod 4511 /f/append-755 && /rewrite show >> /later
";

#[test]
fn what_the_kernel_takes_from_a_file_that_changes_is_taken_from_what_is_written_down() {
    if !Pod::can_run() {
        return;
    }
    makes_the_same_image(|kit| {
        compile(kit, "rewrite.c", "rewrite");
        kit.dockerfile(CHANGED);
    });
}

/// Makes a program of this directory's in a context.
fn compile(kit: &Kit, source: &str, name: &str) {
    let source = format!("{}/tests/pods/{source}", env!("CARGO_MANIFEST_DIR"));
    let program = kit.path(name);
    host::tool(&["cc", "-static", "-O1", "-w", "-o", program.to_str().unwrap(), &source]);
}

/// A user's kit with the program of all attempts and what is to run it.
fn with_attempts(steps: &str) -> Kit {
    let kit = Kit::of(users::without_ranges());
    compile(&kit, "paths.c", "attempt");
    kit.dockerfile(&format!("FROM fixture/base\nCOPY attempt /attempt\n{steps}"));
    kit
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
    let kit = with_attempts(
        "RUN /attempt\nRUN test -e /proc/net/dev\n\
         RUN --network=none test -e /proc/self/stat && ! ls /proc/net && ! ls /proc/self/net\n",
    );
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
fn a_command_that_ends_while_a_thread_of_it_executes_a_program_is_seen_to_end() {
    if !Pod::can_run() {
        return;
    }
    let kit = with_attempts(
        "RUN cp /attempt /raised && chmod 4755 /raised && chown app /raised && chmod 4755 /raised\n\
         RUN [\"/attempt\", \"ends\"]\n",
    );
    let outcome = kit.build_showing("plain").in_pod(Pod::Restricted).any();
    assert!(outcome.text().contains("exit code: 139 "), "{}", outcome.text());
}

/// Owners, modes and names of all kinds of files, by programs that look closely.
const FILES: &str = r#"
USER root
RUN ln -s /tmp/x /l && chown -h 7:8 /l && mv /l /l2 && ln /l2 /l3 && cp -a /l2 /l4 && \
    mkdir -p /deep/a && cp -a /l2 /deep/a/ && mv /deep /deeper && mkfifo -m 640 /fifo && \
    chown 3:4 /fifo && mv /fifo /deeper/ && \
    perl -e 'use Socket; socket(S,AF_UNIX,SOCK_STREAM,0); bind(S,sockaddr_un("/sock")) or die "$!"'
RUN mkdir -m 2755 /g && chgrp 55 /g && mkdir /g/sub && touch /g/f && ln -s x /g/l && \
    chmod 0 /g/f && echo more >> /g/f && chmod 4755 /g/f && chown 9:9 /g/f && \
    mkdir -m 0 /none && touch /none/in && cp /bin/true /suid && chmod 4711 /suid && chmod 1777 /none
RUN perl -e 'open F,">","/sparse"; seek F,1000000,0; print F "e"; utime 5,7,"/sparse"' && \
    chown -R 5:5 /usr/share/doc/perl* && rm -rf /usr/share/man && \
    mv /usr/share/doc/dpkg /usr/share/doc/moved && sed -i s/a/b/ /etc/debian_version && \
    chmod u+s /usr/bin/env
USER app
RUN umask 027; id > ~/id; touch /tmp/app; mkdir -p ~/x/y; ln ~/id ~/id2; chmod 2775 ~/x; touch ~/x/z
USER root
RUN tar cf /t.tar --numeric-owner /home/app /g /l2 /deeper && mkdir /out && \
    tar xpf /t.tar -C /out && rm /t.tar && cp -a /out /copied && \
    find / -xdev -perm -4000 -printf '%p %m %u\n' | sort > /suids
SHELL ["/bin/bash", "-c"]
RUN cat <(echo a) - <<< here > /sub && exec 3<>/tmp/rw && echo w >&3 && cat /proc/self/fd/3 >> /sub && \
    cd /tmp && mkdir q && cd q && rmdir ../q && ls && script -qc 'test -t 0' /dev/null
"#;

#[test]
fn commands_of_debian_make_the_same_image_in_a_pod_without_privileges() {
    if !Pod::can_run() || !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let (plain, pod) = (Kit::new(), Kit::of(users::without_ranges()));
    let dockerfile = [crate::chroot::DEBIAN, FILES].concat();
    plain.dockerfile(&dockerfile);
    pod.dockerfile(&dockerfile);
    plain.builder(["import"]).arg(base::debian()).arg("debian:bookworm").ok();
    // The same, with the time of its import.
    let saved = pod.beside("debian.tar");
    plain.builder(["save", "debian:bookworm", "-o"]).arg(&saved).ok();
    pod.builder(["load", "-i"]).arg(&saved).in_pod(Pod::Restricted).ok();
    let wanted = digest(&plain, |run| run);
    assert_eq!(digest(&pod, |run| run.in_pod(Pod::Restricted)), wanted);
}

/// Numbers of all processes, and those of their parents.
fn processes() -> Vec<(i32, i32)> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    numbers.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// The same of those that have a word in their command line.
fn processes_with(word: &str) -> Vec<(i32, i32)> {
    let mut found = processes();
    found.retain(|(pid, _)| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    });
    found
}

#[test]
fn what_a_keeper_leaves_is_ended_and_it_keeps_no_process_of_a_dead_caller() {
    if !Pod::can_run() {
        return;
    }
    let word = format!("4{}", std::process::id());
    let kit = with_attempts(&format!(
        "RUN /attempt waiters && (setsid sleep {word} &) && exec sleep {word}\n"
    ));
    let run = kit.build_showing("plain").in_pod(Pod::Restricted);
    let mut command = run.into_command();
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut builder = command.spawn().unwrap();
    eventually("both commands run", || processes_with(&word).len() == 2);
    // The one that was left to the keeper, and the keeper's own child.
    let parents: Vec<i32> = processes_with(&word).iter().map(|(_, parent)| *parent).collect();
    assert_eq!(parents[0], parents[1]);
    let children = || processes().iter().filter(|(_, parent)| *parent == parents[0]).count();
    eventually("the helpers of callers that were killed end", || children() == 2);
    let keeper = rustix::process::Pid::from_raw(parents[0]).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    eventually("nothing of the step is left", || processes_with(&word).is_empty());
    assert!(!builder.wait().unwrap().success());
}
