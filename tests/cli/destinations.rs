//! Destinations that cannot be written are reported before a step runs.

use crate::kit::{Counts, Kit};

#[test]
fn privileged_a_destination_that_cannot_be_written_is_reported_before_a_step_runs() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN echo ran > /ran\n");
    let there = kit.out("there");
    std::fs::create_dir_all(&there).unwrap();
    let file = kit.out("file");
    std::fs::write(&file, "x").unwrap();
    let missing = kit.out("no/such/file");
    let below_file = file.join("x");
    for (flag, value, status, what) in [
        ("--iidfile", missing.display().to_string(), 2, "mkdir -p"),
        ("--metadata-file", missing.display().to_string(), 2, "mkdir -p"),
        ("--iidfile", there.display().to_string(), 2, "it is a directory"),
        ("--output", format!("type=oci,dest={}", missing.display()), 2, "mkdir -p"),
        ("--output", format!("type=tar,dest={}", below_file.display()), 5, "cannot create"),
        ("--output", format!("type=local,dest={}", below_file.display()), 5, "cannot create"),
        (
            "--output",
            format!("type=oci,tar=false,dest={}", below_file.display()),
            5,
            "cannot create",
        ),
        ("--output", String::new(), 2, "output has no type"),
    ] {
        let outcome = kit.build().args([flag, &value]).fails(status);
        assert!(outcome.text().contains(what), "{flag} {value}: {}", outcome.text());
        assert_eq!(outcome.counts(), Counts { ran: 0, cached: 0 }, "{flag} {value}");
    }
    // Directories are made; a name without a directory is one here.
    let output = format!("type=local,dest={}", kit.out("a/b/c").display());
    let outcome = kit.build().args(["--iidfile", "id", "--output", &output]).ok();
    assert_eq!(outcome.counts().ran, 1);
    assert!(kit.out("a/b/c/ran").exists());
}
