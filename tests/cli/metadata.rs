//! Instructions that change only the configuration, and the history they leave.

use crate::kit::Kit;
use serde_json::json;

#[test]
fn every_metadata_instruction_reaches_the_config() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\n\
         LABEL a=1 b=\"two words\"\n\
         MAINTAINER somebody\n\
         ENV X=1 Y=\"two words\"\n\
         ENV old style value\n\
         EXPOSE 80 443/tcp 53/udp 8000-8002\n\
         VOLUME /data /logs\n\
         WORKDIR /work\n\
         USER app:users\n\
         STOPSIGNAL SIGUSR1\n\
         SHELL [\"/bin/sh\", \"-ec\"]\n\
         HEALTHCHECK --interval=5s --timeout=2s --retries=4 CMD test -e /ok\n\
         ENTRYPOINT [\"/bin/echo\", \"said\"]\n\
         CMD word another\n\
         ONBUILD RUN touch /child\n",
    );
    let image = kit.image();
    let config = image.config();
    assert_eq!(config["Labels"], json!({"a": "1", "b": "two words"}));
    assert_eq!(image.document["author"], "somebody");
    assert_eq!((image.env("X"), image.env("Y")), (Some("1"), Some("two words")));
    assert_eq!(image.env("old"), Some("style value"));
    let ports = config["ExposedPorts"].as_object().unwrap().keys().collect::<Vec<_>>();
    assert_eq!(ports, ["443/tcp", "53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
    assert_eq!(config["Volumes"], json!({"/data": {}, "/logs": {}}));
    assert_eq!(config["WorkingDir"], "/work");
    assert_eq!(config["User"], "app:users");
    assert_eq!(config["StopSignal"], "SIGUSR1");
    assert_eq!(config["Shell"], json!(["/bin/sh", "-ec"]));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD-SHELL", "test -e /ok"]));
    assert_eq!(config["Healthcheck"]["Interval"], json!(5_000_000_000_u64));
    assert_eq!(config["Healthcheck"]["Retries"], json!(4));
    assert_eq!(config["Entrypoint"], json!(["/bin/echo", "said"]));
    assert_eq!(config["Cmd"], json!(["/bin/sh", "-ec", "word another"]));
    assert_eq!(config["OnBuild"], json!(["RUN touch /child"]));
}

#[test]
fn history_matches_the_layers() {
    let kit = Kit::new();
    kit.file("a", "a").dockerfile(
        "FROM fixture/base\nENV a=1\nCOPY a /a\nARG v=1\nRUN touch /b\nWORKDIR /w\nCMD [\"x\"]\n",
    );
    let image = kit.image();
    let history = image.document["history"].as_array().unwrap();
    let filled = history.iter().filter(|entry| entry["empty_layer"] != json!(true)).count();
    assert_eq!(filled, image.layers.len());
    assert!(
        history.iter().all(|entry| entry["created"].is_string() && entry["created_by"].is_string())
    );
    let by = history.iter().map(|entry| entry["created_by"].as_str().unwrap()).collect::<Vec<_>>();
    assert!(by.iter().any(|text| text.contains("|1 v=1")), "arguments a RUN sees: {by:?}");
    assert!(by.last().unwrap().starts_with("CMD"), "{by:?}");
}

#[test]
fn entrypoint_clears_an_inherited_command() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nENTRYPOINT [\"/e\"]\n");
    assert!(kit.image().config()["Cmd"].is_null(), "the base's CMD is gone");
    kit.dockerfile("FROM fixture/base\nCMD [\"c\"]\nENTRYPOINT [\"/e\"]\n");
    assert_eq!(kit.image().config()["Cmd"], json!(["c"]), "this stage's is kept");
}

#[test]
fn metadata_makes_no_layer() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nENV a=1\nLABEL b=2\nUSER app\nEXPOSE 1\nVOLUME /v\nCMD x\n");
    assert_eq!(kit.image().layers.len(), 1, "the base's");
}

#[test]
fn workdir_is_created_and_relative_ones_add_up() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nENV d=deep\nWORKDIR /a\nWORKDIR b/$d\nRUN pwd > /said\n");
    let image = kit.image();
    assert_eq!(image.text("/said"), "/a/b/deep\n");
    assert_eq!(image.entry("/a/b/deep").mode, 0o755);
}

#[test]
fn onbuild_runs_in_the_child() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nONBUILD RUN echo triggered > /t\n");
    kit.build().args(["-t", "parent"]).ok();
    kit.dockerfile("FROM parent\nRUN cat /t > /u\n");
    let image = kit.image();
    assert_eq!(image.text("/u"), "triggered\n");
    assert!(image.config()["OnBuild"].is_null(), "triggers are not inherited twice");
}

#[test]
fn unknown_fields_of_a_base_survive() {
    let kit = Kit::new();
    let mut base = crate::kit::base::Layout::of(&crate::kit::base::rootfs());
    base.config["ArgsEscaped"] = json!(true);
    base.config["Healthcheck"] = json!({"Test": ["NONE"]});
    base.config["x-ours"] = json!({"deep": [1, 2]});
    base.write(&kit.beside("odd"));
    kit.dockerfile("FROM odd\nENV a=1\n");
    let context = format!("--build-context=odd=oci-layout://{}", kit.beside("odd").display());
    let image = kit.build().arg(context).image();
    assert_eq!(image.config()["x-ours"], json!({"deep": [1, 2]}));
    assert_eq!(image.config()["Healthcheck"], json!({"Test": ["NONE"]}));
}
