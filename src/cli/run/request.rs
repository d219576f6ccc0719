//! What was typed and what the image says become what is to run.

use super::RunArgs;
use crate::cli::Environment;
use crate::cli::failure::{Class, Failure, cannot};
use crate::image::Image;
use crate::sandbox::{MountKind, MountSpec, OsBytes, RunSpec, SandboxPolicy};
use crate::sys::foreign::Given;
use std::fmt::Write as _;
use std::path::Path;

/// The largest `--env-file`, in bytes: what the kernel lets a program's environment have, and much
/// more.
const ENV_FILE_MAX: u64 = 8 << 20;

/// Makes the spec, all but its mounts.
///
/// # Errors
///
/// The failure to show.
pub(super) fn spec(
    args: &RunArgs,
    image: &Image,
    environment: &Environment,
) -> Result<RunSpec, Failure> {
    let config = &image.config;
    let mut argv = match &args.entrypoint {
        Some(program) if program.is_empty() => Vec::new(),
        Some(program) => vec![program.clone()],
        None => config.entrypoint().unwrap_or_default(),
    };
    if args.command.is_empty() && args.entrypoint.is_none() {
        argv.extend(config.cmd().unwrap_or_default());
    } else {
        argv.extend(args.command.iter().cloned());
    }
    if argv.is_empty() {
        return Err(Failure::new(Class::Usage, "the image names no command")
            .with_hint(format!("name one: builder run {} COMMAND", args.image)));
    }
    let mut spec = RunSpec::new(argv.iter().map(|word| OsBytes::from(word.as_str())).collect());
    spec.env = config.env();
    if !spec.env.iter().any(|(name, _)| name == "PATH") {
        spec.env.push(("PATH".to_owned(), crate::plan::DEFAULT_PATH.to_owned()));
    }
    let mut set =
        |name: &str, value: String| match spec.env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => spec.env.push((name.to_owned(), value)),
        };
    if args.tty {
        set("TERM", environment.variable("TERM").unwrap_or_else(|| "xterm".to_owned()));
    }
    let mut given = Vec::new();
    for path in &args.env_file {
        let text = read_given(path, ENV_FILE_MAX, environment)?;
        let lines = text.lines().map(str::trim_start);
        given.extend(
            lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned),
        );
    }
    given.extend(args.env.iter().cloned());
    for text in &given {
        match text.split_once('=') {
            Some((name, value)) => set(name, value.to_owned()),
            None => {
                if let Some(value) = environment.variable(text) {
                    set(text, value);
                }
            }
        }
    }
    let cwd = args.workdir.clone().unwrap_or_else(|| config.working_dir().to_owned());
    spec.cwd = if cwd.starts_with('/') { cwd } else { format!("/{cwd}") };
    spec.user = args.user.clone().unwrap_or_else(|| config.user().to_owned());
    let network = args.network.mode;
    let hostname = match &args.hostname {
        Some(hostname) => hostname.clone(),
        None => random_name()?,
    };
    let extra_hosts = args.add_host.clone();
    let policy = args.security.policy(&args.limits)?;
    spec.policy = SandboxPolicy { network, hostname, extra_hosts, ..policy };
    spec.readonly_root = args.read_only;
    if args.read_only {
        // As Docker's anonymous volumes, they go with the container.
        let own = |target| MountSpec { target, kind: MountKind::Writable };
        spec.mounts.extend(config.volumes().into_iter().map(own));
    }
    Ok(spec)
}

/// Twelve random hexadecimal digits: what Docker shows of a container's id, and its host name.
fn random_name() -> Result<String, Failure> {
    let mut random = [0u8; 6];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut random, flags)
        .map_err(|error| Failure::of(Class::Environment, &std::io::Error::from(error)))?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
/// Reads a text file that the user named: links are followed, and a pipe is read to its end.
fn read_given(path: &Path, max: u64, environment: &Environment) -> Result<String, Failure> {
    let bytes = Given::open(path, &environment.cancel)
        .and_then(|given| given.read_to_limit(max))
        .map_err(|e| cannot("read", path, &e))?;
    String::from_utf8(bytes).map_err(|_| {
        let message = format!("cannot read {}: it is not valid UTF-8", path.display());
        Failure::new(Class::Usage, message)
    })
}
