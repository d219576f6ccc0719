//! Mounts of RUN steps on the rungs where nothing can be mounted: what holds, and what is said of what
//! does not.

use crate::kit::pod::Pod;
use crate::kit::wait::eventually;
use crate::kit::{Kit, Outcome, Run, host, users};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Stdio;

/// Mounts that can be read only, with one in them that can be written.
const READ_ONLY: &str = "\
FROM fixture/base AS files
RUN mkdir -p /s/d/e /s/rw && echo f > /s/f && echo g > /s/d/g && mkfifo /s/p && ln -s f /s/l && \\
    ln -s none /s/dangling && ln -s /tmp/out /s/out
FROM fixture/base
COPY attempt /attempt
RUN ln -s /m /to-m
RUN --mount=type=bind,from=files,source=/s,target=/m --mount=type=cache,target=/m/rw \\
    --mount=type=cache,id=ro,from=files,source=/s,target=/deep/er/m,readonly \\
    --mount=type=bind,source=one,target=/one --mount=type=secret,id=s ATTEMPTS
";

fn with_attempts(kit: Kit, attempts: &str) -> Kit {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/readonly.c");
    let program = kit.path("attempt");
    host::tool(&["cc", "-static", "-O1", "-w", "-o", program.to_str().unwrap(), source]);
    kit.file("one", "one\n").file("secret", "hush\n");
    kit.dockerfile(&READ_ONLY.replace("ATTEMPTS", attempts));
    kit
}

fn build(kit: &Kit) -> Run {
    kit.build_showing("plain").arg(format!("--secret=id=s,src={}", kit.path("secret").display()))
}

/// The attempts, each with its result.
fn said(outcome: &Outcome) -> Vec<String> {
    let attempt = |line: &str| Some(line[line.find("try ")?..].to_owned());
    outcome.text().lines().filter_map(attempt).collect()
}

#[test]
fn what_is_mounted_read_only_refuses_all_changes_where_paths_are_resolved_as_mounts_do() {
    if !Pod::can_run() {
        return;
    }
    let plain = with_attempts(Kit::new(), "/attempt");
    let pod = with_attempts(Kit::of(users::without_ranges()), "/attempt");
    let (wanted, got) = (build(&plain).ok(), build(&pod).in_pod(Pod::Restricted).ok());
    let wanted = said(&wanted);
    assert!(wanted.iter().filter(|line| line.ends_with("EROFS")).count() > 40, "{wanted:#?}");
    assert_eq!(said(&got), wanted);
}

#[test]
fn a_command_that_writes_to_a_read_only_mount_in_a_root_directory_is_named() {
    if !Pod::can_run() {
        return;
    }
    let kit = Kit::new();
    kit.file("s/f", "f\n").file("s/rw/g", "g\n").dockerfile(
        "FROM fixture/base\n\
         RUN --mount=type=bind,source=s,target=/read --mount=type=cache,target=/read/rw \
             cat /read/f && echo x > /read/rw/x && ls -R /read\n\
         RUN --mount=type=bind,source=s,target=/written --mount=type=bind,source=s,target=/beside \
             echo more >> /written/f && cat /beside/f\n\
         RUN --mount=type=cache,id=c,target=/cached,readonly touch /cached/x\n\
         RUN --mount=type=cache,id=c,target=/c test ! -e /c/x\n",
    );
    let outcome = kit.build_showing("plain").in_pod(Pod::Docker).ok();
    let written: Vec<&str> = outcome
        .text()
        .lines()
        .filter_map(|line| Some(line.split_once("has written to ")?.1.split_once(',')?.0))
        .collect();
    assert_eq!(written, ["/written", "/cached"], "{}", outcome.text());
}

#[test]
fn what_a_mount_cannot_do_without_namespaces_is_said_by_name() {
    if !Pod::can_run() {
        return;
    }
    for (pod, kit) in
        [(Pod::Docker, Kit::new()), (Pod::Restricted, Kit::of(users::without_ranges()))]
    {
        kit.dockerfile(
            "FROM fixture/base\nRUN --mount=type=tmpfs,target=/t,size=65536 touch /t/x\n\
             RUN --mount=type=tmpfs,target=/free touch /free/x\n",
        );
        let outcome = kit.build_showing("plain").arg("--shm-size=1m").in_pod(pod).ok();
        outcome.says(&[
            "size=65536 of the tmpfs mount at /t has no effect here",
            "--shm-size=1048576 has no effect here",
        ]);
        assert!(!outcome.text().contains("/free has"), "{}", outcome.text());
        let outcome = kit.build_showing("plain").arg("--no-cache").in_pod(pod).ok();
        assert!(!outcome.text().contains("--shm-size"), "{}", outcome.text());
        let volume = format!("--volume={}:/v", kit.path("").display());
        let refused = kit.build().arg("--no-cache").arg(&volume).in_pod(pod).any();
        assert_ne!(refused.status, Some(0));
        refused.says(&["--volume", "at /v", "takes namespaces"]);
        kit.dockerfile(
            "FROM fixture/base\nRUN --mount=type=cache,id=c,target=/a --mount=type=cache,id=c,target=/b true\n",
        );
        let refused = kit.build().in_pod(pod).any();
        assert_ne!(refused.status, Some(0));
        refused.says(&["one cache mount at two targets, the second /b"]);
        kit.dockerfile("FROM fixture/base\n");
        kit.build().args(["-t", "own"]).in_pod(pod).ok();
        let run = |flags: &[&str]| {
            kit.builder(["run", "--rm"]).args(flags).args(["own", "true"]).in_pod(pod)
        };
        run(&[&volume]).any().says(&["--volume", "take namespaces"]);
        run(&["--read-only"]).any().says(&["--read-only takes namespaces"]);
        let outcome = run(&["--tmpfs=/t:size=64k"]).ok();
        outcome.says(&["size=65536 of the tmpfs mount at /t has no effect here"]);
    }
}

/// Runs two builds that use one shared cache mount at one time.
fn both_have_a_shared_cache(kit: &Kit, pod: Pod) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mount = "RUN --mount=type=cache,id=shared,sharing=shared,target=/c";
    let uses = |name: &str, then: &str| {
        let text = format!(
            "FROM fixture/base\n{mount} echo {name} >> /c/log && mkdir -p /c/d && echo {name} > /c/d/{name}{then}\n\
             RUN test ! -e /c && touch /after\n"
        );
        kit.file(name, text);
        kit.build_showing("plain").arg(format!("--file={}", kit.path(name).display())).in_pod(pod)
    };
    let start = |run: Run| {
        let mut command = run.into_command();
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut first = start(uses("first", &format!(" && nc 127.0.0.1 {port} < /dev/null")));
    // The output is read as it comes, so that the build does not wait for a reader.
    let said = |child: &mut std::process::Child| BufReader::new(child.stderr.take().unwrap());
    let first_said = said(&mut first);
    let first_said =
        std::thread::spawn(move || first_said.lines().map_while(Result::ok).collect::<Vec<_>>());
    server.set_nonblocking(true).unwrap();
    let mut holds = None;
    eventually("the first build has the mount", || {
        holds = server.accept().ok();
        holds.is_some()
    });
    let (mut holds, _) = holds.unwrap();
    let mut second = start(uses("second", ""));
    let mut second_said = Vec::new();
    for line in said(&mut second).lines().map_while(Result::ok) {
        if line.contains("waiting for another step that uses cache mount shared") {
            // The first goes on, and ends.
            holds.write_all(b"go on\n").unwrap();
            holds.shutdown(std::net::Shutdown::Both).unwrap();
        }
        second_said.push(line);
    }
    let text = second_said.join("\n");
    assert!(second.wait().unwrap().success(), "{text}");
    assert!(text.contains("waiting for another step"), "{text}");
    let first_said = first_said.join().unwrap();
    assert!(first.wait().unwrap().success(), "{first_said:#?}");
    kit.dockerfile(&format!("FROM fixture/base\n{mount} echo has $(cat /c/log) $(ls /c/d)\n"));
    kit.build_showing("plain").in_pod(pod).ok().says(&["has first second first second"]);
}

#[test]
fn two_builds_without_namespaces_lose_nothing_of_a_cache_mount_that_they_share() {
    if Pod::can_run() {
        both_have_a_shared_cache(&Kit::new(), Pod::Docker);
        both_have_a_shared_cache(&Kit::of(users::without_ranges()), Pod::Restricted);
    }
}
