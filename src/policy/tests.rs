//! What rules do to sources.

use super::*;
use crate::dockerfile::address::Address;
use crate::dockerfile::git_url::GitUrl;
use crate::oci::Reference;
use serde_json::json;

#[expect(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
fn policies(rules: serde_json::Value) -> Policies {
    let mut policies = Policies::default();
    let document = json!({"version": 1, "rules": rules}).to_string();
    policies.add(document.as_bytes(), Path::new("/p.json")).unwrap();
    policies
}

fn image(name: &str) -> Source {
    Source::image(&name.parse::<Reference>().unwrap().or_latest())
}

/// The identifier after the rules, or the error.
fn applied(rules: serde_json::Value, source: &Source) -> String {
    match policies(rules).apply(source) {
        Ok(Some(next)) => next.identifier,
        Ok(None) => "as it is".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_last_of_allow_and_deny_counts() {
    let rule = |action: &str, identifier: &str| json!({"action": action, "selector": {"identifier": identifier}});
    let hub = "docker-image://docker.io/*";
    let own = "docker-image://docker.io/library/*";
    let denied = "docker-image://docker.io/corp/x:latest is denied by rule 1 of /p.json";
    let rules = json!([rule("DENY", hub), rule("ALLOW", own)]);
    assert_eq!(applied(rules.clone(), &image("corp/x")), denied);
    assert_eq!(applied(rules, &image("busybox")), "as it is");
    let rules = json!([rule("ALLOW", own), rule("DENY", hub)]);
    assert!(applied(rules, &image("busybox")).contains("denied by rule 2"));
    // Numbers are protobuf's.
    let rules =
        json!([{"action": 1, "selector": {"identifier": "local://context", "matchType": 1}}]);
    assert!(applied(rules, &Source::local("context")).contains("denied"));
}

#[test]
fn sources_are_replaced_until_no_rule_does() {
    let convert = |from: &str, kind: &str, to: &str| json!({"action": "CONVERT", "selector": {"identifier": from, "matchType": kind}, "updates": {"identifier": to}});
    let hub = "docker-image://docker.io/library/";
    let rules = json!([
        convert(&format!("{hub}*:latest"), "WILDCARD", "docker-image://mirror.example/${1}:1"),
        convert(
            "^docker-image://mirror.example/(b.*):1$",
            "REGEX",
            "docker-image://other.example/$1:2"
        ),
    ]);
    assert_eq!(applied(rules.clone(), &image("busybox")), "docker-image://other.example/busybox:2");
    assert_eq!(applied(rules, &image("alpine")), "docker-image://mirror.example/alpine:1");
    let endless = json!([convert("docker-image://*", "WILDCARD", "docker-image://x.example/${1}")]);
    assert!(applied(endless, &image("busybox")).contains("more than 20 times"));
    let unfit = json!([convert(&format!("{hub}busybox:latest"), "EXACT", "https://a.example/x")]);
    assert!(applied(unfit, &image("busybox")).contains("cannot stand in its place"));
}

#[test]
fn downloads_and_repositories_have_attributes() {
    let address = Address::parse("https://a.example/x.tar");
    let pin = json!([{"action": "CONVERT", "selector": {"identifier": "https://a.example/x.tar"},
        "updates": {"attrs": {"http.checksum": "sha256:00"}}}]);
    let pinned = policies(pin).apply(&Source::download(&address, None)).unwrap().unwrap();
    assert_eq!(pinned.to_address(), (address.clone(), Some("sha256:00".to_owned())));
    let unpinned = json!([{"action": "DENY", "selector": {"identifier": "https://*",
        "constraints": [{"key": "http.checksum", "value": "^sha256:", "condition": "NOTEQUAL"},
            {"key": "http.checksum", "value": "^$", "condition": "MATCHES"}]}}]);
    assert!(applied(unpinned.clone(), &Source::download(&address, None)).contains("denied"));
    assert_eq!(applied(unpinned, &Source::download(&address, Some("sha256:00"))), "as it is");

    for (text, identifier) in [
        ("https://git.example/a/b.git#v1:dir", "git://git.example/a/b.git#v1:dir"),
        ("git@git.example:a/b.git", "git://git.example/a/b.git"),
        ("ssh://me@git.example/a/b.git#:dir", "git://git.example/a/b.git#:dir"),
    ] {
        let source = Source::git(&GitUrl::parse(text).unwrap().unwrap());
        assert_eq!(source.identifier, identifier, "{text}");
    }
    let url = GitUrl::parse("https://git.example/a/b.git#v1").unwrap().unwrap();
    let rules = json!([{"action": "CONVERT", "selector": {"identifier": "git://git.example/*#v1"},
        "updates": {"identifier": "git://git.example/${1}#v2"}}]);
    let next = policies(rules).apply(&Source::git(&url)).unwrap().unwrap();
    assert_eq!(next.to_address().0.text, "https://git.example/a/b.git#v2");
}

#[test]
fn what_is_not_understood_is_an_error_and_never_passed_over() {
    for (text, what) in [
        ("{", "line 1"),
        (r#"{"version": 2}"#, "version 2"),
        (r#"{"rules": [{"action": "FORBID", "selector": {"identifier": "x"}}]}"#, "FORBID"),
        (r#"{"rules": [{"action": "DENY"}]}"#, "selector"),
        (r#"{"rules": [{"action": "DENY", "selector": {"identifier": "x", "kind": 1}}]}"#, "kind"),
        (
            r#"{"rules": [{"action": "DENY", "selector": {"identifier": "(", "matchType": "REGEX"}}]}"#,
            "rule 1",
        ),
        (
            r#"{"rules": [{"action": "DENY", "selector": {"identifier": "x"}, "updates": {"identifier": "y"}}]}"#,
            "CONVERT",
        ),
    ] {
        let error = Policies::default().add(text.as_bytes(), Path::new("/p.json")).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("/p.json") && said.contains(what), "{text}: {said}");
    }
}
