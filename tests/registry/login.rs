//! Logins are checked, and kept where docker and podman find them.

use super::kit::{Kit, host, write_file};
use super::server::{Kind, PASSWORD, Registry, USER};
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn a_login_is_checked_and_kept_for_its_owner() {
    let Some(registry) = Registry::start(Kind::Login) else { return };
    let kit = Kit::new();
    let file = kit.beside("home/.docker/config.json");
    let login = |password: &str| {
        kit.builder(["login", "-u", USER, "--password-stdin", registry.host()]).input(password)
    };
    let outcome = login("wrong-password").fails(6);
    outcome.says(&["refuses these credentials"]);
    assert!(!outcome.text().contains("wrong-password"));
    assert!(!file.exists(), "what is wrong is not kept");
    let outcome = login(&format!("{PASSWORD}\n")).ok();
    outcome.says(&["unencrypted"]);
    assert_eq!(outcome.stdout(), "Login Succeeded\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);

    let name = format!("{}/app:1", registry.host());
    kit.dockerfile("FROM fixture/base\nRUN true\n");
    kit.build().args(["-t", &name, "--push"]).ok();
    // skopeo finds the same login.
    let authfile = format!("--authfile={}", file.display());
    host::tool(&[
        "skopeo",
        "inspect",
        &authfile,
        "--tls-verify=false",
        &format!("docker://{name}"),
    ]);

    assert_eq!(
        kit.builder(["logout", registry.host()]).ok().stdout(),
        format!("Removed the login to {}\n", registry.host())
    );
    assert!(!std::fs::read_to_string(&file).unwrap().contains(registry.host()));
    kit.builder(["push", &name]).fails(6).says(&["wants credentials"]);
    kit.builder(["logout", registry.host()]).ok();
}

#[test]
fn a_helper_keeps_logins_instead_of_the_file() {
    let Some(registry) = Registry::start(Kind::Login) else { return };
    let kit = Kit::new();
    let (bin, kept) = (kit.beside("bin"), kit.beside("kept"));
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0} ;;\nget) [ -s {0} ] && cat {0} || {{ echo credentials not found in native keychain; exit 1; }} ;;\nerase) rm {0} ;;\nesac\n",
        kept.display()
    );
    let helper = bin.join("docker-credential-tests");
    write_file(&helper, script.as_bytes());
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = kit.beside("home/.docker/config.json");
    write_file(&file, b"{\"credsStore\": \"tests\"}");
    let path = format!("{}:/usr/sbin:/usr/bin:/bin", bin.display());
    let run = |words: &[&str]| kit.builder(words).env("PATH", &path);
    let outcome =
        run(&["login", "-u", USER, "--password-stdin", registry.host()]).input(PASSWORD).ok();
    assert!(!outcome.text().contains("unencrypted"));
    assert!(!std::fs::read_to_string(&file).unwrap().contains("auths"));
    assert!(std::fs::read_to_string(&kept).unwrap().contains(PASSWORD));
    let name = format!("{}/app:1", registry.host());
    kit.dockerfile("FROM fixture/base\n");
    kit.build().args(["-t", &name, "--push"]).env("PATH", &path).ok();
    run(&["logout", registry.host()]).ok();
    assert!(!kept.exists());
}

#[test]
fn a_login_needs_a_name_and_a_password() {
    let kit = Kit::new();
    kit.builder(["login", "--password-stdin", "127.0.0.1:1"]).fails(2).says(&["needs --username"]);
    kit.builder(["login", "127.0.0.1:1"]).fails(2).says(&["no terminal"]);
    kit.builder(["login", "-u", "me", "--password-stdin", "a/b"])
        .input("x")
        .fails(2)
        .says(&["not a registry"]);
    kit.builder(["login", "-u", "me", "--password-stdin", "127.0.0.1:1"])
        .fails(2)
        .says(&["is empty"]);
}
