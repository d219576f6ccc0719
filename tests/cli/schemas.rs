//! Documents of ours against the JSON schemas of the OCI image specification.

use crate::kit::{Kit, host};
use std::path::Path;
use std::process::Command;

/// Where Debian's package of the specification has them.
const SCHEMAS: &str = "/usr/share/gocode/src/github.com/opencontainers/image-spec/schema";

/// What is wrong with a layout; empty where nothing is.
fn violations(layout: &Path) -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/validate_layout.py");
    let mut command = Command::new("/usr/bin/python3");
    let output = command.args([program, SCHEMAS]).arg(layout).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)) && said.is_empty(), "{said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn is_there() -> bool {
    host::has("python3", "python3")
        && host::has("jsonschema", "python3-jsonschema")
        && host::has_file(
            &format!("{SCHEMAS}/config-schema.json"),
            "golang-github-opencontainers-image-spec-dev",
        )
}

#[test]
fn layouts_of_ours_are_valid() {
    if !is_there() {
        return;
    }
    let kit = Kit::new();
    // All that a config can hold.
    kit.dockerfile(
        "FROM fixture/base\nMAINTAINER me\nRUN touch /x\nENV A=1 B=\nLABEL a=b \"c d\"=\"\"\n\
         EXPOSE 80 81/udp\nVOLUME /v /w\nUSER 1:2\nWORKDIR /w\nSTOPSIGNAL SIGINT\nSHELL [\"/bin/sh\", \"-c\"]\n\
         HEALTHCHECK --interval=5s CMD true\nONBUILD RUN true\nENTRYPOINT [\"a\"]\nCMD [\"b\"]\n",
    );
    let annotations = ["index:x=1", "manifest:x=2", "manifest-descriptor:x=3"];
    let annotations = annotations.iter().flat_map(|text| ["--annotation", text]);
    for compression in ["gzip", "zstd", "estargz", "uncompressed"] {
        let dest = kit.out(compression);
        let output = format!(
            "--output=type=oci,tar=false,dest={},compression={compression},force-compression=true",
            dest.display()
        );
        kit.build().args(["-t", "named:1"]).args(annotations.clone()).arg(output).ok();
        assert_eq!(violations(&dest), "", "{compression}");
    }
    assert_eq!(violations(kit.store()), "", "the store is a layout");
    let cache = kit.out("cache");
    let to = format!("--cache-to=type=local,mode=max,dest={}", cache.display());
    kit.build().arg(to).ok();
    let bare = kit.out("bare");
    let output = format!("--output=type=oci,tar=false,dest={}", bare.display());
    kit.dockerfile("FROM scratch\nCOPY Dockerfile /\n").build().arg(output).ok();
    let copied = kit.out("copied");
    kit.builder(["copy", "-q", "named:1", &format!("oci:{}:1", copied.display())]).ok();
    for layout in [bare, copied] {
        assert_eq!(violations(&layout), "", "{}", layout.display());
    }
}

/// Reads every document that a layout's index leads to with the types of oci-spec.
fn parse_all(layout: &Path) {
    use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
    let blob = |descriptor: &Descriptor| {
        layout
            .join("blobs/sha256")
            .join(descriptor.digest().to_string().rsplit(':').next().unwrap())
    };
    let index = ImageIndex::from_file(layout.join("index.json")).unwrap();
    assert!(!index.manifests().is_empty());
    for descriptor in index.manifests() {
        let manifest = ImageManifest::from_file(blob(descriptor)).unwrap();
        let config = ImageConfiguration::from_file(blob(manifest.config())).unwrap();
        assert_eq!(config.rootfs().diff_ids().len(), manifest.layers().len());
        assert!(config.history().as_ref().is_some_and(|history| !history.is_empty()));
    }
}

#[test]
fn oci_spec_parses_every_document_of_an_image() {
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN touch /x\nENV A=1 B=\nLABEL a=b\nEXPOSE 80 81/udp\nVOLUME /v\nUSER 1:2\n\
         WORKDIR /w\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=5s CMD true\nCMD [\"b\"]\n",
    );
    for compression in ["gzip", "zstd", "uncompressed"] {
        let dest = kit.out(compression);
        let fields = format!("tar=false,dest={},compression={compression}", dest.display());
        let run = kit.build().arg(format!("--output=type=oci,{fields}"));
        run.args(["-t", "named:1", "--annotation", "manifest:x=2"]).ok();
        parse_all(&dest);
    }
}

#[test]
fn what_is_not_valid_is_found() {
    if !is_there() {
        return;
    }
    let kit = Kit::new();
    let dest = kit.out("layout");
    let output = format!("--output=type=oci,tar=false,dest={}", dest.display());
    kit.dockerfile("FROM fixture/base\n").build().arg(output).ok();
    let index = dest.join("index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    for (old, new, what) in [
        ("\"schemaVersion\":2", "\"schemaVersion\":3", "schemaVersion: 3 is greater"),
        ("\"sha256:", "\"sha256.", "digest: 'sha256."),
    ] {
        std::fs::write(&index, text.replace(old, new)).unwrap();
        let found = violations(&dest);
        assert!(found.contains(what), "{found}");
    }
}
