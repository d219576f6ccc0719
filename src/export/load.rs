//! A Docker archive goes straight into the engine that is here.

use super::ExportError;
use super::archive::TarSink;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The engines that are asked for, in this order, and what each is asked to see whether it works.
const ENGINES: [(&str, &[&str]); 2] =
    [("docker", &["version", "--format", "{{.Server.Version}}"]), ("podman", &["--version"])];

/// Runs `write` with the standard input of `docker load` or `podman load`.
pub(super) fn load(
    write: impl FnOnce(&Path, TarSink<'_>) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let works = |(program, question): &(&str, &[&str])| {
        let mut command = Command::new(program);
        command.args(*question).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let (program, _) = ENGINES.into_iter().find(works).ok_or(ExportError::NoEngine)?;
    let failed = |source| ExportError::Io { doing: "run", path: program.into(), source };
    let mut child = Command::new(program)
        .args(["load", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut stderr = child.stderr.take().expect("it is piped");
    let (written, complaint) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            text
        });
        let written = write(Path::new(program), TarSink::Other(&mut stdin));
        // The end of its input, or the engine waits for more.
        drop(stdin);
        (written, reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return written;
    }
    // Cancelled by us: the engine's complaint about half an archive says nothing.
    if let Err(error @ ExportError::Cancelled) = written {
        return Err(error);
    }
    let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
    Err(ExportError::Engine { program, complaint })
}
