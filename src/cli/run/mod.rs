//! `builder run`: a command in an image, in the same sandbox as RUN.
//!
//! As `docker run` where that has a meaning without a daemon: the command's status is ours (125
//! where it could not be started, 126 and 127 where its program could not be), signals are passed
//! on, and what it wrote is gone when it ends, `--rm` or not: nothing keeps it.
//!
//! # Not here
//!
//! Volumes ([`volume`]), ports ([`ports`]) and ends ([`stop`]) have files of their own; limits are
//! shared with `builder build`.

mod ineffective;
pub mod ports;
mod refused;
mod request;
mod stop;
pub mod volume;
pub(super) mod words;

use super::Environment;
use super::emulators::EmulatorArgs;
use super::failure::{self, Class, Failure, cannot};
use super::limits::LimitArgs;
use super::parse_args::NetworkFlag;
use super::security::SecurityArgs;
use super::{parse_args, platforms, registry};
use crate::image::{Image, ImageError};
use crate::job::resolve::Images;
use crate::job::transfers::{self, Clients, NoClient, PullFailed, Pulls};
use crate::job::{PullPolicy, emulators, limits, step_error};
use crate::oci::Platform;
use crate::plan::{Resolved, Resolver as _, signal_number};
use crate::progress::{self, Output, Progress};
use crate::sandbox::{
    self, Control, Exit, Ids, Inputs, Machine, NetworkMode, RunSpec, Rung, Sandbox, SandboxError,
    Security, Source, Stdio,
};
use crate::snapshot::{self, MountOptions, Mounted, Scratch};
use crate::store::Store;
use crate::text::size::mebibytes;
use clap::Args;
use ports::Published;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use volume::Volume;

/// How long a command may take to end before it is killed, in seconds; Docker's.
const STOP_TIMEOUT: i64 = 10;

/// What `builder run` takes.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true)]
pub struct RunArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Flags of docker's that nothing here can do.
    #[command(flatten)]
    pub refused: refused::RefusedArgs,
    /// Flags of docker's that mean nothing here.
    #[command(flatten)]
    pub ineffective: ineffective::IneffectiveArgs,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Throw away what the command wrote when it ends: always so, given or not
    #[arg(long)]
    pub rm: bool,
    /// Directory, file or socket of the host, as SRC:DST[:ro]
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = volume::volume)]
    pub volume: Vec<Volume>,
    /// The same, as type=bind,src=…,dst=…[,ro] or type=tmpfs,dst=…
    #[arg(long, value_name = "SPEC", value_parser = volume::mount)]
    pub mount: Vec<Volume>,
    /// File system in memory, as DST[:size=64m,mode=1777]
    #[arg(long, value_name = "DST", value_parser = volume::tmpfs)]
    pub tmpfs: Vec<Volume>,
    /// Environment variable; the host's where no value is given
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// File of environment variables, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, as name or number, with :group
    #[arg(short, long, value_name = "USER")]
    pub user: Option<String>,
    /// Program to run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Network: default, none or host; default:host-loopback reaches the host's loopback at
    /// 10.0.2.2
    #[arg(long, visible_alias = "net", value_name = "MODE", default_value = "default", value_parser = parse_args::network)]
    pub network: NetworkFlag,
    /// Port of the host that leads inside, as 8080:80 or 127.0.0.1:8080:80/tcp
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT", value_parser = ports::published)]
    pub publish: Vec<Published>,
    /// Line for /etc/hosts; host-gateway stands for the host's address
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_args::host)]
    pub add_host: Vec<(String, String)>,
    /// Name that no other running command of this store has
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Host name [default: twelve random digits]
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Refuse writes to the image's files
    #[arg(long)]
    pub read_only: bool,
    /// Signal that asks the command to end, instead of the image's STOPSIGNAL
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL; -1 for no SIGKILL
    #[arg(long, value_name = "SECONDS", default_value_t = STOP_TIMEOUT, allow_hyphen_values = true)]
    pub stop_timeout: i64,
    /// Reap orphans in process 1: always so, given or not
    #[arg(long)]
    pub init: bool,
    /// When to ask the registry for the image: always (the default of --pull alone), missing, newer
    /// or never
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_value = "missing", hide_default_value = true, default_missing_value = "always", value_parser = parse_args::pull_policy)]
    pub pull: PullPolicy,
    /// Platform of the image, as linux/arm64
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    pub platform: Vec<String>,
    /// What runs programs of other processors.
    #[command(flatten)]
    pub emulators: EmulatorArgs,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
    /// Limits
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Confinement
    #[command(flatten)]
    pub security: SecurityArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Image to run
    pub image: String,
    /// Command and its arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Runs `builder run`.
///
/// # Errors
///
/// The failure to show, of Docker's status 125; a command that ended with a status other than 0 is
/// one without a message.
pub fn run(args: &RunArgs, environment: &Environment) -> Result<(), Failure> {
    let exit = args.refused.check().and_then(|()| {
        args.ineffective.notices().iter().for_each(|notice| environment.warn(notice));
        start(args, environment)
    });
    let exit = exit.map_err(|mut failure| {
        if !matches!(failure.class, Class::Bug | Class::Interrupted | Class::Status(_)) {
            failure.class = Class::Status(125);
        }
        failure
    })?;
    let status = u8::try_from(exit.status).unwrap_or(u8::MAX);
    match (exit.oom, status) {
        (Some(oom), _) => {
            let limit =
                oom.limit.map_or_else(String::new, |limit| format!(" of {}", mebibytes(limit)));
            Err(Failure::new(
                Class::Status(status),
                format!(
                    "killed by the kernel: over its memory limit{limit}, peak {}",
                    mebibytes(oom.peak)
                ),
            ))
        }
        (None, 0) => Ok(()),
        (None, status) => {
            if let Some(limit) = exit.pids {
                environment.warn(&step_error::of_processes(limit));
            }
            Err(Failure::new(Class::Status(status), ""))
        }
    }
}

/// Runs the command to its end.
fn start(args: &RunArgs, environment: &Environment) -> Result<Exit, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::of(Class::Environment, error);
    let store = environment.store()?;
    let _name = args.name.as_deref().map(|name| take_name(&store, name)).transpose()?;
    let contexts = BTreeMap::new();
    let output = Output::stderr(environment.is_coloured);
    let progress = Progress::new(progress::Mode::Auto, output, environment.started);
    let mut images = Images::new(&store, &contexts, &environment.cancel);
    if args.pull != PullPolicy::Never {
        let clients = Clients::new(|| registry::client(environment, args.tls.verifies, &progress));
        let is_forced = args.pull == PullPolicy::Always;
        images = images.or_pulled(Pulls::new(clients, &progress, is_forced));
    }
    let platform = platforms::parse(&args.platform);
    let platform = platform.map_err(|error| failed(&error))?.unwrap_or_else(Platform::host);
    let resolved = images.resolve(&args.image, &platform);
    let resolved = resolved.map_err(|error| match (error.downcast_ref(), error.downcast_ref()) {
        (Some(PullFailed(error)), _) => transfers::failure_of(error),
        (None, Some(NoClient(failure))) => failure.clone(),
        (None, None) => {
            let failure = Failure::new(Class::Usage, failure::chain(&*error));
            let hint = error.downcast_ref::<ImageError>().and_then(transfers::hint_of_platform);
            hint.into_iter().fold(failure, Failure::with_hint)
        }
    });
    let resolved = resolved.map_err(|failure| failure.with_hint("list them: builder images"))?;
    let Resolved::Image { image, .. } = resolved else {
        unreachable!("without contexts a name is an image");
    };
    let mut emulators = args.emulators.emulators(environment)?;
    let of_image = images.images[image].config.platform();
    if let Some(machine) = Machine::of(&of_image).filter(|_| of_image != Platform::host()) {
        emulators = emulators::bring(&emulators, &[machine], &mut images);
    }
    progress.finish();
    let image = &images.images[image];
    for (_, warning) in &images.mismatches {
        environment.warn(warning);
    }

    let volumes: Vec<Volume> =
        args.volume.iter().chain(&args.mount).chain(&args.tmpfs).cloned().collect();
    let (opened, mounts) = volume::open_all(&volumes)?;
    let mut spec = request::spec(args, image, environment)?;
    spec.mounts.extend(mounts);
    let keeper = keeper(args, image)?;
    let mut options = args.security.sandbox(&store, environment)?;
    options.emulators = emulators;
    options.network.reaches_host_loopback = args.network.reaches_host_loopback;
    options.network.ports = ports::choose(&args.publish)?;
    let is_any = args.publish.iter().flat_map(Published::is_any);
    for (port, is_any) in options.network.ports.iter().zip(is_any) {
        if is_any {
            environment.warn(&format!("port {} is {} on the host", port.inside, port.outside));
        }
    }
    let publishes = !options.network.ports.is_empty();
    let sandbox = Arc::new(Sandbox::new(options));
    let rung = sandbox.rung().map_err(|error| Failure::of(Class::Environment, &error))?;
    if rung != Rung::Namespaces && !opened.is_empty() {
        let message = "--volume and --mount type=bind take namespaces, which this place does not \
                       allow: put the files into the image with COPY";
        return Err(Failure::new(Class::Environment, message));
    }
    environment.signals.freeze_with_us(&sandbox);
    for notice in limits::check(&sandbox, &spec.policy.limits)? {
        environment.warn(&notice);
    }
    let (root, _scratch) = root(&store, image, &sandbox, environment)?;
    let program = sandbox::machine_of_command(root.root(), &spec);
    let runs = sandbox.runs(&of_image, Security::Default, program);
    spec.runs = runs.map_err(|error| {
        let failure = Failure::of(Class::Environment, &error);
        emulators::hints(&error).into_iter().fold(failure, Failure::with_hint)
    })?;
    network(&mut spec, &sandbox, publishes, environment)?;

    let sources = opened.iter().map(|volume| Source::Tree(volume.as_fd())).collect();
    let streams = Streams { is_interactive: args.interactive, is_terminal: args.tty };
    execute(streams, &sandbox, &spec, (root.root(), sources), keeper, environment)
}

/// The end of all signals, for one command.
fn keeper(args: &RunArgs, image: &Image) -> Result<impl FnOnce(Control) -> stop::Keeper, Failure> {
    let text = match (&args.stop_signal, image.config.stop_signal()) {
        (Some(text), _) => text.as_str(),
        (None, "") => "TERM",
        (None, text) => text,
    };
    let signal = signal_number(text)
        .ok_or_else(|| Failure::new(Class::Usage, format!("unknown stop signal {text:?}")))?;
    let timeout = u64::try_from(args.stop_timeout).ok().map(Duration::from_secs);
    Ok(move |control| stop::Keeper::new(control, signal, timeout))
}

/// What of ours the command gets.
#[derive(Debug, Clone, Copy)]
struct Streams {
    /// Our input, not an empty one.
    is_interactive: bool,
    /// A terminal joined to ours.
    is_terminal: bool,
}

/// Runs `spec` in a root with sources of mounts.
fn execute(
    streams: Streams,
    sandbox: &Sandbox,
    spec: &RunSpec,
    (root, sources): (BorrowedFd<'_>, Vec<Source<'_>>),
    keeper: impl FnOnce(Control) -> stop::Keeper,
    environment: &Environment,
) -> Result<Exit, Failure> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let null = null()?;
    let stdio = if streams.is_terminal {
        if streams.is_interactive && !stdin.is_terminal() {
            return Err(
                Failure::new(Class::Usage, "the input is not a terminal").with_hint("leave out -t")
            );
        }
        let input = if streams.is_interactive { stdin.as_fd() } else { null.as_fd() };
        Stdio::Terminal { input, output: stdout.as_fd() }
    } else {
        let input = streams.is_interactive.then(|| stdin.as_fd());
        Stdio::Relay { input, output: stdout.as_fd(), error: stderr.as_fd() }
    };
    let inputs = Inputs { root, sources, stdio };
    let control = Control::default();
    let mut keeper = keeper(control.clone());
    environment.signals.hand_to(move |signal| keeper.take(signal)).for_good();
    let result = sandbox.run(spec, &inputs, &environment.cancel, &control, &mut |_, _| {});
    warn_of_weaknesses(sandbox, environment);
    result.map_err(|error| match error {
        SandboxError::Cancelled => Failure::new(Class::Interrupted, ""),
        // Where it goes is not in the store: advice about a full disk there does not apply.
        error @ SandboxError::Output { .. } => {
            Failure::new(Class::Environment, failure::chain(&error))
        }
        error => Failure::of(Class::Environment, &error),
    })
}

/// Shows what this machine lacks.
fn warn_of_weaknesses(sandbox: &Sandbox, environment: &Environment) {
    for notice in sandbox.take_notices() {
        environment.warn(&notice);
    }
}

/// Makes sure that no two running commands have one name.
fn take_name(store: &Store, name: &str) -> Result<File, Failure> {
    let is_name = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !is_name {
        return Err(Failure::new(
            Class::Usage,
            format!("{name:?} is not a name: expected letters, digits, `_`, `.` and `-`"),
        ));
    }
    store
        .try_lock(&format!("run-{name}"))
        .map_err(|error| Failure::of(Class::Environment, &error))?
        .ok_or_else(|| {
            Failure::new(Class::Usage, format!("a running command has the name {name:?} already"))
        })
}

/// Starts the network that the command asks for, or the next best.
fn network(
    spec: &mut RunSpec,
    sandbox: &Sandbox,
    publishes: bool,
    environment: &Environment,
) -> Result<(), Failure> {
    if spec.policy.network != NetworkMode::Private {
        if publishes {
            environment.warn("ports are not published: the command has no network of its own");
        }
        return Ok(());
    }
    match sandbox.start_network(&spec.runs) {
        Ok(()) => Ok(()),
        Err(error) if publishes => Err(Failure::of(Class::Environment, &error)),
        Err(error) => {
            environment.warn(&format!("{error}; the command uses the host's network"));
            spec.policy.network = NetworkMode::Host;
            Ok(())
        }
    }
}

/// Mounts the image's layers, and above them a directory that goes with this process.
fn root(
    store: &Store,
    image: &Image,
    sandbox: &Sandbox,
    environment: &Environment,
) -> Result<(Mounted, Scratch), Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| Failure::of(Class::Environment, error);
    let lowers: Vec<PathBuf> =
        image.layers.iter().flat_map(|layer| layer.layer.directories()).collect();
    let work = store.session().and_then(|session| session.new_work()).map_err(|e| failed(&e))?;
    let scratch = Scratch::new(&work).map_err(|e| failed(&e))?;
    let ids = sandbox.ids(Security::Default).map_err(|error| failed(&error))?;
    warn_of_weaknesses(sandbox, environment);
    let idmap = ids.as_deref().and_then(Ids::mapping);
    let options = MountOptions { idmap, ..MountOptions::in_store(store) };
    let root = snapshot::mount(&lowers, Some(&scratch.upper()), &options)
        .map_err(|error| failed(&error))?;
    Ok((root, scratch))
}

fn null() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, "/dev/null", flags, Mode::empty())
        .map_err(|e| cannot("open", "/dev/null", &e.into()))
}
