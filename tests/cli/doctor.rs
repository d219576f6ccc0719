//! `builder doctor`: what this machine offers.

use crate::kit::Kit;
use serde_json::Value;

#[test]
fn a_machine_that_builds_is_said_to() {
    let kit = Kit::new();
    let text = kit.builder(["doctor"]).ok().stdout();
    for name in ["kernel", "store", "overlay", "users", "limits", "network", "sandbox", "seccomp"] {
        let row = text.lines().find(|line| line[6..].starts_with(name));
        let row = row.unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(!row.starts_with("LACKS"), "{row}");
    }
    let json = kit.builder(["doctor", "--format=json"]).ok().stdout();
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["works"], true);
    let checks = document["checks"].as_array().unwrap();
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(check("sandbox")["state"], "ok");
    assert!(check("store")["found"].as_str().unwrap().contains("free"), "{json}");
    // Where something is less than it could be, a command mends it, if one can.
    for check in checks.iter().filter(|check| check["state"] != "ok") {
        let may_stay = check["name"] == "kernel" || check["name"] == "limits";
        assert!(check["fix"].is_string() || may_stay, "{check}");
    }
    // Programs were run, not listed: those of this machine always do.
    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    assert!(check("platforms")["found"].as_str().unwrap().contains(here), "{json}");
}

#[test]
fn a_machine_without_a_place_for_the_store_is_said_not_to() {
    let kit = Kit::new();
    let run = kit.builder(["--root", "/proc/no/store", "doctor"]);
    let outcome = run.fails(5);
    outcome.says(&["builds do not work here: store"]);
    assert!(outcome.stdout().contains("LACKS store"), "{}", outcome.stdout());
    assert!(outcome.stdout().contains("fix: builder --root DIR"), "{}", outcome.stdout());
}
