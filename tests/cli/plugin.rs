//! Docker's own client runs this program as its plugin, without any engine.

use crate::kit::{Kit, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Finds docker's client: in `PATH`, or where `scripts/test.sh` puts it.
fn client() -> Option<PathBuf> {
    let installed = ["/usr/local/bin", "/usr/bin"].map(|dir| Path::new(dir).join("docker"));
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/docker");
    let found = installed.into_iter().chain([fetched]).find(|path| path.exists());
    if found.is_none() {
        cannot_run_here!("docker's client is missing: scripts/test.sh cli fetches it");
    }
    found
}

/// A command line for docker's client, with the home and the store of a kit and no engine to reach.
fn docker(client: &Path, kit: &Kit, words: &[&str]) -> Outcome {
    let mut command = Command::new(client);
    command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", kit.beside("home"));
    command.env("BUILDER_ROOT", kit.store()).env("DOCKER_HOST", "unix:///no/engine.sock");
    Outcome::of(command.output().unwrap())
}

#[test]
fn docker_build_runs_builder_without_an_engine() {
    let Some(client) = client() else { return };
    let kit = Kit::new();
    kit.file("f", "content").dockerfile("FROM scratch\nCOPY f /f\n");
    let config = kit.beside("home/.docker/config.json");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    std::fs::write(&config, r#"{"psFormat": "x"}"#).unwrap();
    let context = kit.path("").display().to_string();
    let told = kit.builder(["plugin", "install", "--alias"]).ok().stdout();
    assert!(told.contains("docker build … runs builder"), "{told}");
    // A second time changes nothing.
    kit.builder(["plugin", "install", "--alias"]).ok();
    for (number, words) in [
        ["build", "-t"].as_slice(),
        &["image", "build", "-t"],
        &["builder", "build", "-t"],
        &["ocibuilder", "build", "-t"],
        &["--log-level", "error", "build", "-t"],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("x:{number}");
        let outcome = docker(&client, &kit, &[words, &[name.as_str(), context.as_str()]].concat());
        assert_eq!(outcome.status, Some(0), "{words:?}: {}{}", outcome.text(), outcome.stdout());
        let id = kit.builder(["images", "-q", &name]).ok().stdout();
        assert_eq!(id.lines().count(), 1, "{words:?}: {id}");
    }
    let missing = docker(&client, &kit, &["build", "-f", "nowhere", &context]);
    assert_eq!(missing.status, Some(3), "{}", missing.text());
    let other = docker(&client, &kit, &["-H", "tcp://127.0.0.1:1", "build", &context]);
    assert!(other.text().contains("docker's -H is not used"), "{}", other.text());

    kit.builder(["plugin", "uninstall"]).ok();
    let text = std::fs::read_to_string(&config).unwrap();
    let left: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(left, serde_json::json!({"psFormat": "x", "aliases": {}}));
    assert!(!kit.beside("home/.docker/cli-plugins/docker-ocibuilder").is_symlink());
    let told = kit.builder(["plugin", "uninstall"]).ok().stdout();
    assert_eq!(told, "the plugin is not installed\n");
}

#[test]
fn a_program_of_that_name_that_is_not_ours_is_kept() {
    let kit = Kit::new();
    let link = kit.beside("home/.docker/cli-plugins/docker-ocibuilder");
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::fs::write(&link, "other").unwrap();
    let outcome = kit.builder(["plugin", "install"]).fails(5);
    let said = outcome.text();
    assert!(said.contains("is not builder's") && said.contains("rm "), "{said}");
    assert_eq!(std::fs::read_to_string(&link).unwrap(), "other");
}

#[test]
fn commands_in_dockers_groups_are_ours() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nLABEL a=b\n");
    let context = kit.path("").display().to_string();
    kit.builder(["buildx", "build", "-t", "x", &context]).ok();
    kit.builder(["image", "tag", "x", "y"]).ok();
    assert!(kit.builder(["image", "ls"]).ok().stdout().contains("\ny "));
    kit.builder(["image", "rm", "y"]).ok();
    kit.builder(["builder", "prune", "-f"]).ok();
    let create = kit.builder(["buildx", "create", "--use", "--name", "ci"]).ok();
    assert!(create.text().contains("no builder instances"), "{}", create.text());
    kit.builder(["image", "frobnicate"]).fails(2);
}
