//! Secrets that get into an image: found, told where, and never repeated.

use crate::kit::{Archive, Kit};
use std::fs;

const VALUE: &str = "hunter2-correct-horse";

fn kit(instructions: &str) -> Kit {
    let kit = Kit::new();
    fs::write(kit.beside("token"), format!("{VALUE}\n")).unwrap();
    kit.dockerfile(&format!("FROM fixture/base\nRUN echo first > /first\n{instructions}"));
    kit
}

fn flag(kit: &Kit) -> String {
    format!("--secret=id=token,src={}", kit.beside("token").display())
}

#[test]
fn a_secret_in_the_image_stops_the_export_and_names_step_and_path() {
    const MOUNT: &str = "RUN --mount=type=secret,id=token";
    let arg = format!("ARG T={VALUE}\nRUN echo $T > /dev/null\n");
    for (instructions, says) in [
        (format!("{MOUNT} cp /run/secrets/token /etc/conf\n"), "in /etc/conf, of [3/3] RUN"),
        (format!("{MOUNT} base64 /run/secrets/token > /b\n"), "is in base64 in /b, of [3/3]"),
        (format!("{MOUNT} cat /run/secrets/token\n"), "in its output, of [3/3] RUN"),
        (format!("ENV TOKEN={VALUE}\n"), "in config.Env[1] of the image's configuration"),
        (arg, "in history[2].created_by of the image's configuration"),
    ] {
        let kit = kit(&instructions);
        let output = format!("-otype=oci,dest={}", kit.out("i.tar").display());
        let outcome = kit.build().args([flag(&kit), output]).args(["-t", "leaky"]).fails(3);
        outcome.says(&["secret token is", says, "--allow-secret-in-image"]);
        let message = outcome.text().lines().find(|line| line.starts_with("error")).unwrap();
        assert!(!message.contains(VALUE), "the value is not repeated: {message}");
        assert!(!kit.out("i.tar").exists());
        assert!(!kit.builder(["images"]).ok().stdout().contains("leaky"));
    }
}

#[test]
fn an_allowed_secret_is_noted_in_the_history() {
    let kit = kit("RUN --mount=type=secret,id=token cp /run/secrets/token /etc/conf\n");
    let archive = kit.out("i.tar");
    let output = format!("-otype=oci,dest={}", archive.display());
    let build = kit.build_showing("plain");
    let build = build.args([flag(&kit), output, "--allow-secret-in-image".to_owned()]);
    build.ok().says(&["in /etc/conf", "allowed by --allow-secret-in-image"]);
    assert_eq!(Archive::open(&archive).text("/etc/conf").trim(), VALUE);
    let list = kit.builder(["history", "builds", "--format", "json"]).ok().stdout();
    let id = list.split("\"build\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let record = kit.builder(["history", "inspect", id]).ok().stdout();
    assert!(record.contains("secret token is in /etc/conf"), "{record}");
}

#[test]
fn a_secret_that_is_only_used_stays_out() {
    let kit =
        kit("RUN --mount=type=secret,id=token test -s /run/secrets/token && echo y > /used\n");
    let image = kit.build().arg(flag(&kit)).image();
    assert_eq!(image.text("/used"), "y\n");
    fs::write(kit.beside("token"), "y\n").unwrap();
    let short = kit.build_showing("plain").arg(flag(&kit)).args(["-t", "x"]).ok();
    short.says(&["secret token has less than 8 bytes"]);
}
