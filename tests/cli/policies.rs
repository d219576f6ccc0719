//! Rules on what a build may read from elsewhere.

use crate::kit::{Kit, write_file};

fn kit() -> Kit {
    let kit = Kit::new();
    kit.file("f", "f").dockerfile("FROM scratch\nCOPY f /f\n");
    kit
}

#[test]
fn a_policy_in_rego_refuses_the_build_and_is_named() {
    let kit = kit();
    kit.build().ok();
    kit.file("Dockerfile.rego", "package docker\ndefault allow := false\n");
    let outcome = kit.build().fails(2);
    assert!(outcome.text().contains("Dockerfile.rego"), "{}", outcome.text());
    assert!(outcome.text().contains("--policy disabled=true"), "{}", outcome.text());
    kit.build().args(["--policy", "disabled=true"]).ok();
    // Of another Dockerfile it says nothing; that one has its own.
    kit.file("other", "FROM scratch\nCOPY f /f\n");
    let other = kit.path("other");
    kit.build().arg("-f").arg(&other).ok();
    kit.symlink("nowhere", "other.rego");
    kit.build().arg("-f").arg(&other).fails(2);
    let refused = kit.build().args(["--policy", "filename=x.rego"]).fails(2);
    assert!(refused.text().contains("not evaluated"), "{}", refused.text());
    // A context on standard input has one too.
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in
        [("Dockerfile", "FROM scratch\nCOPY Dockerfile /f\n"), ("Dockerfile.rego", "")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    let outcome = kit.builder(["build", "-"]).input(bytes).fails(2);
    assert!(outcome.text().contains("Dockerfile.rego"), "{}", outcome.text());
}

#[test]
fn what_a_rule_denies_is_not_read() {
    let kit = kit();
    let policy = kit.beside("policy.json");
    let rules = |rules: &str| std::fs::write(&policy, format!("{{\"rules\": [{rules}]}}")).unwrap();
    let deny = |identifier: &str| {
        format!("{{\"action\": \"DENY\", \"selector\": {{\"identifier\": \"{identifier}\"}}}}")
    };
    rules(&deny("local://context"));
    let denied = kit.build().arg("--source-policy-file").arg(&policy).fails(3);
    assert!(denied.text().contains("local://context is denied by rule 1"), "{}", denied.text());
    assert!(denied.text().contains("policy.json"), "{}", denied.text());

    rules(&deny("https://*"));
    kit.build().arg("--source-policy-file").arg(&policy).ok();
    kit.dockerfile("FROM scratch\nADD https://127.0.0.1:9/x /x\n");
    let by_variable = kit.build().env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", &policy).fails(3);
    let said = by_variable.text();
    assert!(said.contains("line 2") && said.contains("https://127.0.0.1:9/x is denied"), "{said}");

    kit.dockerfile("FROM scratch\nCOPY --from=named f /f\n");
    let context = format!("named={}", kit.path("").display());
    rules(&deny("local://named"));
    let named = kit.build().args(["--build-context", &context]).arg("--source-policy-file");
    assert!(named.arg(&policy).fails(3).text().contains("local://named is denied"));

    // The short form of a repository is one, and no directory.
    rules(&deny("git://*"));
    let short = kit.builder(["build", "github.com/team/app", "--source-policy-file"]);
    let short = short.arg(&policy).fails(3);
    assert!(short.text().contains("git://github.com/team/app.git is denied"), "{}", short.text());

    std::fs::write(&policy, "{\"rules\": [{}]}").unwrap();
    let malformed = kit.build().arg("--source-policy-file").arg(&policy).fails(2);
    assert!(malformed.text().contains("is not a source policy"), "{}", malformed.text());
    kit.build().args(["--source-policy-file", "/no/such/policy"]).fails(2);
}

#[test]
fn a_replacement_that_cannot_be_read_is_an_error_of_its_own() {
    let kit = kit();
    let policy = kit.beside("policy.json");
    let convert = |from: &str, updates: &str| {
        let rule = format!(
            "{{\"action\": \"CONVERT\", \"selector\": {{\"identifier\": \"{from}\"}}, \"updates\": {updates}}}"
        );
        std::fs::write(&policy, format!("{{\"rules\": [{rule}]}}")).unwrap();
    };
    let repository = "https://127.0.0.1:9/a.git";
    let pin = "{\"attrs\": {\"http.checksum\": \"sha256:00\"}}";
    for (dockerfile, from, updates, what) in [
        (
            format!("FROM scratch\nADD {repository} /a\n"),
            "git://*",
            "{\"identifier\": \"git://127.0.0.1:9/b\"}",
            "cannot stand for each other",
        ),
        (
            format!("FROM scratch\nADD {repository}?checksum=00 /a\n"),
            "git://*",
            "{\"identifier\": \"git://127.0.0.1:9/b.git\"}",
            "its query would be lost",
        ),
        (
            "FROM scratch\nADD https://127.0.0.1:9/x https://127.0.0.1:9/y /a/\n".to_owned(),
            "https://127.0.0.1:9/x",
            pin,
            "an ADD of one source",
        ),
    ] {
        kit.dockerfile(&dockerfile);
        convert(from, updates);
        let outcome = kit.build().arg("--source-policy-file").arg(&policy).fails(3);
        assert!(outcome.text().contains(what), "{dockerfile}: {}", outcome.text());
    }
    convert("https://*", pin);
    let context = kit.builder(["build", "https://127.0.0.1:9/x.tar", "--source-policy-file"]);
    let context = context.arg(&policy).fails(3);
    assert!(context.text().contains("not for contexts"), "{}", context.text());
}

#[test]
fn policy_json_is_asked_for_layouts_and_archives() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\n").build().args(["-t", "app:1"]).ok();
    let (layout, oci, docker) = (kit.out("layout"), kit.out("oci.tar"), kit.out("docker.tar"));
    let places = [
        format!("oci:{}:1", layout.display()),
        format!("oci-archive:{}", oci.display()),
        format!("docker-archive:{}:app:1", docker.display()),
    ];
    for place in &places {
        kit.builder(["copy", "-q", "app:1", place]).ok();
    }
    let policy = kit.beside("home/.config/containers/policy.json");
    let set = |transport: &str, scope: &str| {
        let text = format!(
            "{{\"default\": [{{\"type\": \"insecureAcceptAnything\"}}], \"transports\": \
             {{\"{transport}\": {{\"{scope}\": [{{\"type\": \"reject\"}}]}}}}}}"
        );
        write_file(&policy, text.as_bytes());
    };
    let refused = |words: &[&str], is_refused: bool| {
        let outcome = kit.builder(words).any();
        let says =
            outcome.text().contains("is forbidden by") && outcome.text().contains("policy.json");
        assert_eq!(says, is_refused, "{words:?}: {}", outcome.text());
    };
    let out = kit.out("").display().to_string();
    let out = out.trim_end_matches('/');
    set("oci", out);
    refused(&["copy", "-q", &places[0], "other:1"], true);
    refused(&["copy", "-q", &places[1], "other:1"], false);
    refused(&["inspect", &places[0]], true);
    let context = format!("--build-context=x=oci-layout://{}:1", layout.display());
    refused(&["build", &context, kit.path("").to_str().unwrap()], true);
    refused(&["load", "-i", oci.to_str().unwrap()], false);
    set("oci-archive", oci.to_str().unwrap());
    refused(&["inspect", &places[1]], true);
    refused(&["load", "-i", oci.to_str().unwrap()], true);
    refused(&["load", "-i", docker.to_str().unwrap(), "-t", "x"], false);
    set("docker-archive", "");
    refused(&["load", "-i", docker.to_str().unwrap()], true);
    refused(&["copy", "-q", &places[2], "other:1"], true);
    refused(&["copy", "-q", &places[0], "other:1"], false);
}

#[test]
fn only_a_build_that_pulls_reads_the_settings_of_registries() {
    let kit = Kit::new();
    write_file(&kit.beside("home/.config/containers/registries.conf"), b"[[registry]\n");
    kit.dockerfile("FROM fixture/base\nRUN true\n").build().args(["-t", "here:1"]).ok();
    kit.dockerfile("FROM here:1\nRUN true\n").build().ok();
    kit.builder(["run", "here:1", "true"]).ok();
    kit.dockerfile("FROM gone:1\n").build().fails(2).says(&["registries.conf"]);
    kit.builder(["run", "gone:1", "true"]).fails(125).says(&["registries.conf"]);
}
