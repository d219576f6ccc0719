//! `--platform`: what is wanted, what there is, and what the result says of itself.

use crate::kit::{Archive, Kit, base};

/// The architecture that the machine does not have.
const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

/// The machine's own.
const OWN: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Imports the root file system of `fixture/base` under a name, for a platform.
fn import(kit: &Kit, name: &str, architecture: &str) {
    let platform = format!("--platform=linux/{architecture}");
    kit.builder(["import", &platform, "-", name]).input(base::rootfs()).ok();
}

#[test]
fn a_base_of_another_platform_keeps_its_own_and_is_warned_of_even_quietly() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base AS one\nRUN touch /x\nFROM one\nRUN touch /y\n");
    for flags in [&["-q"][..], &[]] {
        let path = kit.out("image.tar");
        let outcome = kit
            .build()
            .arg(format!("--platform=linux/{OTHER}"))
            .args(flags)
            .arg(format!("--output=type=oci,dest={}", path.display()))
            .ok();
        let said = format!("{}{}", outcome.text(), outcome.log());
        let warning = format!("is for platform linux/{OWN}, not linux/{OTHER}");
        assert!(said.contains("fixture/base") && said.contains(&warning), "{flags:?}: {said}");
        assert_eq!(Archive::open(&path).document["architecture"], OWN, "{flags:?}");
    }
    // Where it was not asked for, nothing is wrong.
    let outcome = kit.build().arg("-q").ok();
    assert_eq!(outcome.text(), "");
    // A stage for the machine that builds is what its author wants, and `scratch` is for any.
    for text in [
        "FROM --platform=$BUILDPLATFORM fixture/base\nRUN true\n",
        "FROM scratch\nCOPY Dockerfile /\n",
    ] {
        let run = kit.dockerfile(text).build().arg(format!("--platform=linux/{OTHER}"));
        assert_eq!(run.image().document["architecture"], OTHER, "{text}");
    }
}

#[test]
fn images_of_another_platform_are_warned_of_when_copied_from_and_run() {
    let kit = Kit::new();
    import(&kit, "localhost:1/foreign", OTHER);
    kit.dockerfile("FROM fixture/base\nCOPY --from=localhost:1/foreign /etc/passwd /copy\n");
    let warning = format!("localhost:1/foreign is for platform linux/{OTHER}, not linux/{OWN}");
    let outcome = kit.build().arg("-q").ok();
    assert!(outcome.text().contains(&warning), "{}", outcome.text());
    let outcome = kit.builder(["run", "localhost:1/foreign", "echo", "ran"]).ok();
    assert_eq!(outcome.stdout(), "ran\n");
    assert!(outcome.text().contains("is for platform"), "{}", outcome.text());
    let platform = format!("--platform=linux/{OTHER}");
    let outcome = kit.builder(["run", &platform, "localhost:1/foreign", "true"]).ok();
    assert!(!outcome.text().contains("is for platform"), "{}", outcome.text());
}

#[test]
fn platforms_that_do_not_exist_are_refused_and_several_where_one_is_meant() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let unknown = kit.build().arg("--platform=linux/amd65").fails(2);
    unknown.says(&["unknown architecture `amd65`", "did you mean `amd64`?"]);
    for command in ["pull", "run"] {
        let status = if command == "run" { 125 } else { 2 };
        for (platform, said) in
            [("amd65", "did you mean `amd64`?"), ("linux/amd64,linux/arm64", "several platforms")]
        {
            // Several can be pulled.
            if command == "pull" && platform.contains(',') {
                continue;
            }
            let run = kit.builder([command, &format!("--platform={platform}"), "localhost:1/x"]);
            run.fails(status).says(&[said]);
        }
    }
    kit.builder(["inspect", "--platform=linus/amd64", "x"])
        .fails(2)
        .says(&["did you mean `linux`?"]);
}

#[test]
fn the_default_platform_is_the_environments() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM scratch\nARG TARGETPLATFORM\nLABEL is=$TARGETPLATFORM\nCOPY Dockerfile /\n",
    );
    let label = |image: Archive| image.config()["Labels"]["is"].as_str().unwrap().to_owned();
    let run = |default: &str| kit.build().env("DOCKER_DEFAULT_PLATFORM", default);
    assert_eq!(label(run("linux/s390x").image()), "linux/s390x");
    assert_eq!(label(run("linux/s390x").arg("--platform=linux/arm/v6").image()), "linux/arm/v6");
    assert_eq!(label(run("").image()), format!("linux/{OWN}"));
    run("linux/amd65").fails(2).says(&["did you mean `amd64`?"]);
    let both = kit.out("both.tar");
    run("linux/amd64,linux/arm64").arg(format!("--output=type=oci,dest={}", both.display())).ok();
    let (_, _, images) = Archive::open_index(&both);
    for (platform, image) in images {
        assert_eq!(label(image), platform);
    }
}
