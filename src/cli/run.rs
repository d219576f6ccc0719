//! `builder run`: a command in an image, in the same sandbox as RUN.

use super::build::cannot;
use super::failure::{self, Class, Failure};
use super::limits::LimitArgs;
use super::registry::{PullFailed, Pulls};
use super::resolve::Images;
use super::{Environment, registry, values};
use crate::image::Platform;
use crate::plan::{Resolved, Resolver as _};
use crate::progress::{self, Output, Progress};
use crate::sandbox::{
    Control, DEFAULT_SHM_SIZE, Inputs, MountKind, MountSpec, NetworkMode, OsBytes, RunSpec,
    Sandbox, SandboxError, SandboxOptions, Source, Stdio,
};
use crate::snapshot::{self, MountOptions, Scratch};
use clap::Args;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// What `builder run` takes.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Throw away what the command wrote; always so
    #[arg(long)]
    pub rm: bool,
    /// Folder or file of the host, as SRC:DST[:ro]
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = volume)]
    pub volume: Vec<Volume>,
    /// Environment variable; the host's where no value is given
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, as name or number, with :group
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Program to run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Network: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: String,
    /// Line for /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = values::host)]
    pub add_host: Vec<(String, String)>,
    /// Host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Refuse writes to the image's files
    #[arg(long)]
    pub read_only: bool,
    /// Limits
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Image to run
    pub image: String,
    /// Command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// A part of the host shown inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    source: PathBuf,
    target: String,
    is_read_only: bool,
}

fn volume(text: &str) -> Result<Volume, String> {
    let wrong = || format!("{text:?} is no volume: expected SRC:DST or SRC:DST:ro");
    let mut parts = text.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next().ok_or_else(wrong)?);
    let is_read_only = match parts.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err(wrong()),
    };
    if source.is_empty() || !target.starts_with('/') || parts.next().is_some() {
        return Err(wrong());
    }
    Ok(Volume { source: PathBuf::from(source), target: target.to_owned(), is_read_only })
}

/// Runs `builder run`.
///
/// # Errors
///
/// The failure to show; a command that ended with a status other than 0 is one without a message.
pub fn run(args: &RunArgs, environment: &Environment) -> Result<(), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::of(Class::Environment, error);
    let store = environment.store()?;
    let contexts = BTreeMap::new();
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(progress::Mode::Auto, output, environment.started);
    let client = registry::client(environment, &progress)?;
    let pulls = Pulls { client, progress: &progress, is_forced: false };
    let mut images = Images::new(&store, &contexts, &environment.cancel).or_pulled(pulls);
    let resolved = images.resolve(&args.image, &Platform::host());
    progress.finish();
    let resolved = resolved.map_err(|error| match error.downcast_ref() {
        Some(PullFailed(error)) => registry::failure_of(error),
        None => Failure::new(Class::Usage, failure::chain(&*error)),
    });
    let resolved = resolved.map_err(|failure| failure.with_hint("list them: builder images"))?;
    let Resolved::Image { image, .. } = resolved else {
        unreachable!("without contexts a name is an image");
    };
    let image = &images.images[image];
    let mut spec = spec(args, image, environment)?;

    let lowers: Vec<PathBuf> = image.layers.iter().map(|layer| layer.layer.fs()).collect();
    let work = store.session().and_then(|session| session.new_work()).map_err(|e| failed(&e))?;
    let scratch = Scratch::new(&work).map_err(|e| failed(&e))?;
    let root = snapshot::mount(&lowers, Some(&scratch.upper()), &MountOptions::detect())
        .map_err(|error| failed(&error))?;

    let mut volumes = Vec::with_capacity(args.volume.len());
    for volume in &args.volume {
        volumes.push(open(&volume.source)?);
    }
    let stdin = std::io::stdin();
    let stdout = std::io::stdout();
    let stderr = std::io::stderr();
    let null = open(Path::new("/dev/null"))?;
    let stdio = if args.tty {
        if !stdin.is_terminal() {
            return Err(
                Failure::new(Class::Usage, "the input is not a terminal").with_hint("leave out -t")
            );
        }
        Stdio::Terminal { input: stdin.as_fd(), output: stdout.as_fd() }
    } else {
        let input = if args.interactive { stdin.as_fd() } else { null.as_fd() };
        Stdio::Inherit([input, stdout.as_fd(), stderr.as_fd()])
    };
    let inputs = Inputs {
        root: root.root(),
        sources: volumes.iter().map(|volume| Source::Tree(volume.as_fd())).collect(),
        stdio,
    };
    let sandbox = Sandbox::new(SandboxOptions::new(store.root().join("locks")));
    if spec.network == NetworkMode::Private
        && let Err(error) = sandbox.start_network()
    {
        environment.warn(&format!("{error}; the command uses the host's network"));
        spec.network = NetworkMode::Host;
    }
    let exit = sandbox
        .run(&spec, &inputs, &environment.cancel, &Control::default(), &mut |_, _| {})
        .map_err(|error| match error {
            SandboxError::Cancelled => Failure::new(Class::Status(130), ""),
            error => failed(&error),
        })?;
    if let Some(oom) = exit.oom {
        let limit = oom.limit.map_or_else(String::new, |limit| format!(" of {} MiB", limit >> 20));
        return Err(Failure::new(
            Class::Status(u8::try_from(exit.status).unwrap_or(u8::MAX)),
            format!(
                "killed by the kernel: over its memory limit{limit}, peak {} MiB",
                oom.peak >> 20
            ),
        ));
    }
    match exit.status {
        0 => Ok(()),
        status => Err(Failure::new(Class::Status(u8::try_from(status).unwrap_or(u8::MAX)), "")),
    }
}

fn spec(
    args: &RunArgs,
    image: &crate::image::Image,
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
    for text in &args.env {
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
    spec.network = match args.network.as_str() {
        "default" | "private" => NetworkMode::Private,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => {
            let message = format!("unknown network mode {other:?}: expected default, none or host");
            return Err(Failure::new(Class::Usage, message));
        }
    };
    if let Some(hostname) = &args.hostname {
        spec.hostname.clone_from(hostname);
    }
    spec.extra_hosts.clone_from(&args.add_host);
    spec.shm_size = args.limits.shm_size.unwrap_or(DEFAULT_SHM_SIZE);
    spec.ulimits.clone_from(&args.limits.ulimit);
    spec.limits = args.limits.limits()?;
    spec.readonly_root = args.read_only;
    spec.mounts = args
        .volume
        .iter()
        .enumerate()
        .map(|(source, volume)| MountSpec {
            target: volume.target.clone(),
            kind: MountKind::Bind { source, subpath: String::new(), readonly: volume.is_read_only },
        })
        .collect();
    Ok(spec)
}

fn open(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|e| cannot("open", path, &e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_a_source_and_an_absolute_target() {
        for (text, want) in [
            ("/a:/b", Some(("/a", "/b", false))),
            ("a:/b:ro", Some(("a", "/b", true))),
            ("/a", None),
            ("/a:b", None),
            ("/a:/b:x", None),
            (":/b", None),
        ] {
            let got = volume(text).ok();
            let want = want.map(|(source, target, is_read_only)| Volume {
                source: source.into(),
                target: target.into(),
                is_read_only,
            });
            assert_eq!(got, want, "{text}");
        }
    }
}
