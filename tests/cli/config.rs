//! Files of defaults: what goes before what, and what is said of mistakes.

use crate::kit::{Kit, write_file};
use std::path::Path;

fn own(kit: &Kit, text: &str) {
    write_file(&kit.beside("home/.config/builder/config.toml"), text.as_bytes());
}

/// The host name of a RUN step, which a file can set.
const PROBE: &str = "FROM fixture/base\nRUN hostname > /name\n";

#[test]
fn a_flag_goes_before_the_environment_and_that_before_files() {
    let kit = Kit::new();
    kit.dockerfile(PROBE);
    own(&kit, "[build]\nhostname = \"of-file\"\nprogress = \"rawjson\"\n");
    assert_eq!(kit.image().text("/name"), "of-file\n");
    // A host name and a limit are in no cache key.
    let again = || kit.build().arg("--no-cache");
    assert_eq!(again().arg("--hostname=of-flag").image().text("/name"), "of-flag\n");
    write_file(&kit.beside("other.toml"), b"[build]\nhostname = \"of-other\"\n");
    let other = kit.beside("other.toml");
    let built = again().arg("--config").arg(&other).image();
    assert_eq!(built.text("/name"), "of-other\n", "a file that is named takes the place of it");
    let built = again().env("BUILDER_CONFIG", &other).image();
    assert_eq!(built.text("/name"), "of-other\n");

    // The same build to explain as to build: its steps are cached.
    own(&kit, "[build]\nnetwork = \"none\"\n");
    kit.build().ok();
    let explained = kit.explain().args(["--format", "json"]).ok().json();
    let plain = kit.explain().args(["--format", "json", "--network=default"]).ok().json();
    assert_ne!(explained, plain, "the file counts for explain");
    own(&kit, "[build]\nplatform = \"linux/s390x\"\n[store]\nroot = \"/of-file\"\n");
    let show = |name: &str, value: &str, words: &[&str]| {
        let run = kit.builder(["config", "show", "--format", "{{.Key}} {{.Value}} {{.From}}"]);
        let shown = run.args(words).env(name, value).ok().stdout();
        let keys = ["build.platform ", "store.root ", "build.network "];
        let lines = shown.lines().filter(|line| keys.iter().any(|key| line.starts_with(key)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let file = kit.beside("home/.config/builder/config.toml");
    let (file, store) = (file.display(), kit.store().display());
    let network = "build.network default default".to_owned();
    assert_eq!(
        show("DOCKER_DEFAULT_PLATFORM", "linux/arm64", &[]),
        [
            "build.platform linux/arm64 environment DOCKER_DEFAULT_PLATFORM".to_owned(),
            network.clone(),
            format!("store.root {store} environment BUILDER_ROOT"),
        ]
    );
    assert_eq!(
        show("BUILDER_ROOT", "", &[]),
        [
            format!("build.platform linux/s390x {file}:2"),
            network,
            format!("store.root /of-file {file}:4"),
        ]
    );
}

#[test]
fn limits_of_a_file_give_way_to_those_of_the_command_line() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN ulimit -n > /limit\n");
    own(
        &kit,
        "[build]\nulimit = [\"nofile=100:100\"]\ncpus = 1.5\nmemory-swap = \"64m\"\nmemory = \"64m\"\n",
    );
    assert_eq!(kit.image().text("/limit"), "100\n");
    let given = ["--no-cache", "--ulimit=nofile=200:200", "--cpu-quota=50000", "--memory=128m"];
    assert_eq!(kit.build().args(given).image().text("/limit"), "200\n");
    own(&kit, "[build]\nkeep-cache-mounts = true\nrequire-attestations = true\n");
    kit.build().arg("--provenance=true").fails(2).says(&["required"]);
    kit.build().args(["--provenance=true", "--require-attestations=false"]).ok();
}

#[test]
fn a_policy_of_a_file_counts_besides_those_of_flags() {
    let kit = Kit::new();
    kit.dockerfile("FROM busybox:1\n");
    let deny = |image: &str| {
        format!(
            "{{\"rules\": [{{\"action\": \"DENY\", \"selector\": {{\"identifier\": \"{image}\"}}}}]}}"
        )
    };
    write_file(&kit.beside("deny.json"), deny("docker-image://*busybox*").as_bytes());
    write_file(&kit.beside("none.json"), b"{\"rules\": []}");
    let path = kit.beside("deny.json");
    own(&kit, &format!("[policy]\nsource-policy-files = [\"{}\"]\n", path.display()));
    let run = kit.build().arg("--source-policy-file").arg(kit.beside("none.json"));
    run.any().says(&["deny.json"]);
}

#[test]
fn a_wrong_file_is_named_and_does_not_stop_the_commands_that_help() {
    let kit = Kit::new();
    kit.dockerfile(PROBE);
    own(&kit, "[build]\nhostnam = \"x\"\n");
    let file = kit.beside("home/.config/builder/config.toml").display().to_string();
    kit.build().fails(2).says(&["\"hostnam\"", &format!("{file}:2:1"), "did you mean `hostname`?"]);
    kit.builder(["run", "x"]).fails(125);
    for words in [&["version"][..], &["doctor"], &["completions", "bash"]] {
        let outcome = kit.builder(words).any();
        assert!(!outcome.text().contains("hostnam"), "{words:?}");
    }
    kit.builder(["--config", "/dev/null", "images"]).ok();
    own(&kit, "[build]\nnetwork = \"wide\"\n");
    kit.build().fails(2).says(&["build.network", &format!("{file}:2:11")]);
    kit.builder(["images"]).ok();
    kit.builder(["config", "show"]).fails(2);
    kit.builder(["--config", "gone.toml", "images"]).fails(2).says(&["gone.toml"]);
    let own = kit.beside("home/.config/builder/config.toml");
    std::fs::write(&own, "").unwrap();
    std::os::unix::fs::chown(&own, Some(54_321), None).unwrap();
    kit.builder(["images"]).fails(2).says(&["user 54321 owns it", "hint: "]);
}

#[test]
fn a_directory_is_dockers() {
    let kit = Kit::new();
    let config = "{\"proxies\": {\"default\": {\"httpProxy\": \"http://p.invalid\"}}}";
    write_file(&kit.beside("docker/config.json"), config.as_bytes());
    kit.dockerfile("FROM fixture/base\nRUN echo $HTTP_PROXY > /proxy\n");
    let directory: &Path = &kit.beside("docker");
    let built = kit.build().arg("--config").arg(directory).image();
    assert_eq!(built.text("/proxy"), "http://p.invalid\n");
    kit.builder(["--config"]).arg(directory).args(["image", "ls"]).ok();
}
