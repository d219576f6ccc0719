//! The files of podman and buildah that say which registries are used and trusted.

use super::fixture::{Packing, busybox, file, image};
use super::kit::{Kit, write_file};
use super::proxy::{self, Do};
use super::server::{Kind, Registry};

/// A registry with `team/tool:1`, and a kit.
fn with_tool() -> Option<(Registry, Kit)> {
    let registry = Registry::start(Kind::Plain)?;
    busybox().put(registry.host(), "team/tool", "1");
    Some((registry, Kit::new()))
}

fn containers(kit: &Kit, name: &str, text: &str) {
    write_file(&kit.beside(&format!("home/.config/containers/{name}")), text.as_bytes());
}

#[test]
fn short_names_and_locations_are_those_of_registries_conf() {
    let Some((registry, kit)) = with_tool() else { return };
    let host = registry.host();
    containers(
        &kit,
        "registries.conf",
        &format!("[[registry]]\nprefix = \"corp.example/apps\"\nlocation = \"{host}/team\"\n"),
    );
    containers(
        &kit,
        "registries.conf.d/names.conf",
        &format!("[aliases]\n\"tool\" = \"{host}/team/tool\"\n"),
    );
    for name in ["tool:1", "corp.example/apps/tool:1"] {
        kit.dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
        kit.build().ok();
    }
    let told = kit.builder(["pull", "tool:1"]).ok().stdout();
    assert!(told.starts_with(&format!("{host}/team/tool:1@sha256:")), "{told}");
    // Of two registries neither of which is docker.io, none is guessed.
    containers(
        &kit,
        "registries.conf",
        "unqualified-search-registries = [\"a.example\", \"b.example\"]\n",
    );
    let outcome = kit.builder(["pull", "other"]).fails(6);
    assert!(outcome.text().contains("a.example or b.example"), "{}", outcome.text());
    assert!(outcome.text().contains("registries.conf"), "{}", outcome.text());
}

#[test]
fn mirrors_are_asked_for_digests_or_tags_as_registries_conf_says() {
    let Some((registry, kit)) = with_tool() else { return };
    let digest = busybox().put(registry.host(), "team/tool", "1");
    let mirror = proxy::before(registry.host(), |_, _| Do::Carry);
    containers(
        &kit,
        "registries.conf",
        &format!(
            "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n\
             pull-from-mirror = \"digest-only\"\n",
            registry.host(),
            mirror.host()
        ),
    );
    kit.builder(["pull", "-q", &format!("{}/team/tool:1", registry.host())]).ok();
    assert!(mirror.seen().is_empty(), "{:?}", mirror.seen());
    let other = Kit::new();
    let conf = kit.beside("home/.config/containers/registries.conf").display().to_string();
    let pinned = format!("{}/team/tool@{digest}", registry.host());
    other.builder(["pull", "-q", &pinned]).env("CONTAINERS_REGISTRIES_CONF", conf).ok();
    assert!(!mirror.seen().is_empty());
}

#[test]
fn what_a_file_forbids_is_not_pulled_and_the_file_is_named() {
    let Some((registry, kit)) = with_tool() else { return };
    let host = registry.host();
    let proxy = proxy::before(host, |_, _| Do::Carry);
    let name = format!("{}/team/tool:1", proxy.host());
    kit.dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let open = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}";
    let signed = format!(
        "{{\"default\": [{{\"type\": \"insecureAcceptAnything\"}}], \"transports\": {{\"docker\": \
         {{\"{}/team\": [{{\"type\": \"sigstoreSigned\", \"keyPath\": \"/k\"}}]}}}}}}",
        proxy.host()
    );
    for (conf, policy, file, what) in [
        (
            format!("[[registry]]\nlocation = \"{}\"\nblocked = true\n", proxy.host()),
            open,
            "registries.conf",
            "is blocked",
        ),
        (String::new(), "{\"default\": [{\"type\": \"reject\"}]}", "policy.json", "reject"),
        (String::new(), &*signed, "policy.json", "signatures are not verified"),
    ] {
        containers(&kit, "registries.conf", &conf);
        containers(&kit, "policy.json", policy);
        let copy = format!("docker://{name}");
        for run in [
            kit.build(),
            kit.builder(["pull", &name]),
            kit.builder(["copy", &copy, "here:1"]),
            kit.builder(["run", &name, "true"]),
        ] {
            let outcome = run.any();
            assert!(outcome.status != Some(0), "{what}");
            let said = outcome.text();
            assert!(
                said.contains("forbidden") && said.contains(file) && said.contains(what),
                "{said}"
            );
        }
        assert!(proxy.seen().is_empty(), "no request is made: {:?}", proxy.seen());
    }
    // A file that cannot be read as one is no permission.
    containers(&kit, "policy.json", "{");
    assert!(kit.builder(["pull", &name]).fails(2).text().contains("policy.json"));
    containers(&kit, "policy.json", open);
    containers(&kit, "registries.conf", "");
    kit.builder(["pull", "-q", &name]).ok();
}

#[test]
fn rules_replace_and_deny_images() {
    let Some((registry, kit)) = with_tool() else { return };
    image(&[(file("data", 1000), Packing::Plain)]).put(registry.host(), "mirror/tool", "1");
    let policy = kit.beside("policy.json");
    let host = registry.host();
    let rules = |rules: String| write_file(&policy, format!("{{\"rules\": [{rules}]}}").as_bytes());
    rules(format!(
        "{{\"action\": \"CONVERT\", \"selector\": {{\"identifier\": \"docker-image://{host}/team/*\"}}, \
         \"updates\": {{\"identifier\": \"docker-image://{host}/mirror/${{1}}\"}}}}"
    ));
    kit.dockerfile(&format!("FROM {host}/team/tool:1\nLABEL a=b\n"));
    let name = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
    let made = kit.build().env(name, &policy).image();
    assert!(made.find("data").is_some(), "the other image is the base");
    rules(format!(
        "{{\"action\": \"DENY\", \"selector\": {{\"identifier\": \"docker-image://{host}/*\"}}}}"
    ));
    // What is in the store already is denied as well.
    let denied = kit.build().env(name, &policy).any();
    assert_eq!(denied.status, Some(3), "{}", denied.text());
    assert!(denied.text().contains("is denied by rule 1"), "{}", denied.text());
    assert!(denied.text().contains("Dockerfile:1:6"), "{}", denied.text());
    kit.dockerfile(&format!("FROM scratch\nCOPY --from={host}/team/tool:1 /one /one\n"));
    kit.build().env(name, &policy).fails(3);
}
