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

#[test]
fn a_secret_that_a_command_writes_is_masked_as_it_is_and_in_base64() {
    const MOUNT: &str = "RUN --mount=type=secret,id=token";
    let kit = kit(&format!(
        "{MOUNT} S=$(cat /run/secrets/token); echo a-$S-b; printf %s x:$S | base64 >&2; printf hunter2-; \\\n  \
         printf 'correct-%s\\n' horse\n"
    ));
    let outcome = kit.build_showing("plain").arg(flag(&kit)).args(["-t", "x"]).ok();
    outcome.says(&["a-***-b", "the command wrote a secret: it is shown and kept as ***"]);
    let encoded = "aHVudGVyMi1jb3JyZWN0LWhvcnNl";
    let list = kit.builder(["history", "builds", "--format", "json"]).ok().stdout();
    let id = list.split("\"build\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let log = kit.builder(["history", "logs", id]).ok().stdout();
    assert!(log.contains("a-***-b"), "{log}");
    for text in [outcome.text(), &log] {
        assert!(!text.contains(VALUE) && !text.contains(encoded), "{text}");
        assert!(!text.contains("Omh1bnRlcjItY29ycmVjdC1ob3Jz"), "{text}");
    }
}

#[test]
fn a_secret_names_a_file_by_its_id_or_has_the_name_of_its_file() {
    let kit = Kit::new();
    let path = kit.beside("token");
    fs::write(&path, VALUE).unwrap();
    let path = path.display().to_string();
    for (flag, id) in [
        (format!("id={path}"), path.as_str()),
        (format!("src={path}"), "token"),
        (format!("src={path}"), path.as_str()),
    ] {
        kit.dockerfile(&format!(
            "FROM fixture/base\nRUN --mount=type=secret,id={id},required,target=/s test -s /s && echo y > /y\n"
        ));
        assert_eq!(kit.build().args(["--secret", &flag]).image().text("/y"), "y\n", "{flag}");
    }
    kit.build().args(["--secret", "id=nothing"]).fails(2).says(&["nothing"]);
}

#[test]
fn a_step_with_an_ssh_mount_has_the_variable_with_an_agent_or_without() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN --mount=type=ssh echo $SSH_AUTH_SOCK > /a\n\
         RUN --mount=type=ssh,target=/x/agent echo $SSH_AUTH_SOCK > /b\n\
         ENV SSH_AUTH_SOCK=/own\nRUN --mount=type=ssh echo $SSH_AUTH_SOCK > /c\n",
    );
    let image = kit.image();
    let all = ["/a", "/b", "/c"].map(|path| image.text(path));
    assert_eq!(all, ["/run/buildkit/ssh_agent.0\n", "/x/agent\n", "/own\n"]);
}
