//! Agents and keys for RUN --mount=type=ssh, used by OpenSSH's own tools inside of a step.

use crate::kit::running::{Running, Signal};
use crate::kit::{Kit, host};
use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounts the tools of the context, and the agent.
const MOUNTS: &str = "RUN --mount=type=bind,source=tools,target=/tools --mount=type=ssh";

/// How the tools run in an image without libraries.
const LINKER: &str = "/tools/ld.so --library-path /tools";

/// A kit whose context has `ssh-add` and `ssh-keygen` of this machine with their libraries; `None` without them.
fn kit() -> Option<Kit> {
    let kit = Kit::new();
    for tool in ["ssh-add", "ssh-keygen"] {
        let path = Path::new("/usr/bin").join(tool);
        let Ok(libraries) = Command::new("ldd").arg(&path).output() else { return None };
        if !path.exists() || !libraries.status.success() {
            cannot_run_here!("needs the client of OpenSSH and ldd");
            return None;
        }
        for line in String::from_utf8(libraries.stdout).unwrap().lines() {
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else {
                continue;
            };
            let library = PathBuf::from(library);
            let name = library.file_name().unwrap().to_str().unwrap();
            let name = if name.starts_with("ld-") { "ld.so" } else { name };
            kit.file(&format!("tools/{name}"), fs::read(&library).unwrap())
                .chmod(&format!("tools/{name}"), 0o755);
        }
        let name = format!("tools/{tool}");
        kit.file(&name, fs::read(&path).unwrap()).chmod(&name, 0o755);
    }
    Some(kit)
}

/// Makes a key beside the context; returns its path.
fn key(kit: &Kit, name: &str, args: &[&str]) -> String {
    let path = kit.beside(name).to_str().unwrap().to_owned();
    let rest = ["-q", "-N", "", "-C", "me@home", "-f", &path];
    host::tool(&[&["ssh-keygen"], args, &rest].concat());
    path
}

/// The type and the key of a public half, without its comment.
fn public(path: &str) -> String {
    let text = fs::read_to_string(format!("{path}.pub")).unwrap();
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn keys_from_files_are_listed_in_their_order_and_sign_inside_of_a_step() {
    let Some(kit) = kit() else { return };
    let kinds: [&[&str]; 4] = [
        &["-t", "ed25519"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "ecdsa", "-b", "256", "-m", "PEM"],
    ];
    let keys: Vec<String> =
        kinds.iter().enumerate().map(|(n, args)| key(&kit, &format!("k{n}"), args)).collect();
    let mut text = format!("FROM fixture/base\n{MOUNTS} {LINKER} /tools/ssh-add -L > /listed\n");
    for (number, key) in keys.iter().enumerate() {
        kit.file(&format!("tools/k{number}.pub"), public(key));
        text += &format!(
            "{MOUNTS} echo text > /text{number} && \
             {LINKER} /tools/ssh-keygen -Y sign -n file -f /tools/k{number}.pub /text{number}\n"
        );
    }
    text += &format!("{MOUNTS} {LINKER} /tools/ssh-add -D 2> /removed; test $? != 0\n");
    kit.dockerfile(&text);
    let image = kit.build().args(["--ssh", &format!("default={}", keys.join(","))]).image();
    let listed = image.text("/listed");
    let listed: Vec<&str> = listed.lines().map(str::trim).collect();
    assert_eq!(listed, keys.iter().map(|key| public(key)).collect::<Vec<_>>());
    for (number, key) in keys.iter().enumerate() {
        fs::write(kit.out("signature"), image.text(&format!("/text{number}.sig"))).unwrap();
        fs::write(kit.out("signers"), format!("me {}\n", public(key))).unwrap();
        fs::write(kit.out("text"), "text\n").unwrap();
        let arguments = "-Y verify -n file -I me";
        let paths =
            ["signers", "signature", "text"].map(|name| kit.out(name).display().to_string());
        let script =
            format!("ssh-keygen {arguments} -f {} -s {} < {}", paths[0], paths[1], paths[2]);
        host::tool(&["sh", "-c", &script]);
    }
    assert!(!image.text("/removed").is_empty(), "the keys stay");
}

#[test]
fn several_agents_serve_side_by_side_under_their_ids() {
    let Some(kit) = kit() else { return };
    let (one, other) =
        (key(&kit, "one", &["-t", "ed25519"]), key(&kit, "other", &["-t", "ed25519"]));
    kit.dockerfile(&format!(
        "FROM fixture/base\n{MOUNTS},id=a --mount=type=ssh,id=b,target=/b {LINKER} /tools/ssh-add -L > /a && \
         SSH_AUTH_SOCK=/b {LINKER} /tools/ssh-add -L > /listed\n"
    ));
    let flags = ["--ssh".to_owned(), format!("a={one}"), "--ssh".to_owned(), format!("b={other}")];
    let image = kit.build().args(flags).image();
    assert_eq!(
        [image.text("/a").trim(), image.text("/listed").trim()],
        [public(&one), public(&other)]
    );
}

#[test]
fn interrupting_a_step_that_waits_for_an_agent_ends_the_build() {
    let Some(kit) = kit() else { return };
    let silent = UnixListener::bind(kit.beside("agent")).unwrap();
    kit.dockerfile(&format!("FROM fixture/base\n{MOUNTS} {LINKER} /tools/ssh-add -L\n"));
    let flag = format!("default={}", kit.beside("agent").display());
    let mut running = Running::start(kit.build_showing("plain").args(["--ssh", &flag]));
    // The first connection is the build's own, which finds out whether anything listens.
    drop(silent.accept().unwrap());
    let (_connection, _) = silent.accept().unwrap();
    running.signal(Signal::INT);
    let status = running.end();
    assert_eq!(status.code().or(status.signal()), Some(130));
}

#[test]
fn what_cannot_serve_is_an_error_before_the_build() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN --mount=type=ssh touch /ran\n");
    let path = |name: &str| kit.beside(name).display().to_string();
    drop(UnixListener::bind(kit.beside("dead")).unwrap());
    let _alive = UnixListener::bind(kit.beside("alive")).unwrap();
    fs::write(kit.beside("text"), "key").unwrap();
    fs::write(kit.beside("k.pub"), "ssh-ed25519 AAAA me").unwrap();
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    fs::write(kit.beside("locked"), old).unwrap();
    for (value, says) in [
        (format!("default={}", path("nothing")), ["ssh agent default", "nothing"]),
        (format!("default={}", path("dead")), ["cannot connect to", "dead"]),
        (format!("a={}", path("text")), ["ssh agent a", "not a private key"]),
        (format!("a={}", path("k.pub")), ["a public key", "/k\n"]),
        (format!("a={}", path("locked")), ["is encrypted", "ssh-add"]),
        (format!("a={},{}", path("alive"), path("text")), ["ssh agent a", "not a private key"]),
        (format!("a={},{}", path("alive"), path("alive")), ["a socket stands alone", "--ssh a="]),
        ("default".to_owned(), ["SSH_AUTH_SOCK is not set", "--ssh default=PATH"]),
        ("a=x,,y".to_owned(), ["empty path", "a=x,,y"]),
    ] {
        let outcome = kit.build().args(["--ssh", &value]).fails(2);
        outcome.says(&says);
        assert!(outcome.ran().is_empty(), "{value}");
    }
    let twice =
        ["--ssh", &format!("a={}", path("alive")), "--ssh", &format!("a={}", path("alive"))];
    kit.build().args(twice).fails(2).says(&["is given twice"]);
}
