//! The command line: flags become requests, errors become text.
//!
//! The only room that prints, reads the environment, or asks what time it is. One file per
//! subcommand: what was typed (clap's structs) becomes what was meant (a request with absolute
//! paths and defaults), and everything below works on that.
//!
//! # Exit codes
//!
//! `2` usage, `3` Dockerfile, `4` a RUN step failed, `5` environment, `6` network, `70` a bug in
//! us, `130` interrupted. `builder run` passes its command's status through, so a failure of our
//! own is `125` there, as it is with `docker run`.

mod argv;
pub mod build;
pub mod buildx;
pub mod cache_mounts;
mod caller;
pub mod check;
mod config;
pub mod copy;
mod debug;
pub mod dev;
pub mod df;
pub mod diff;
pub mod doctor;
pub mod emulators;
mod environment;
pub mod explain;
pub mod failure;
mod findings;
mod format;
mod help;
pub mod history;
pub mod image_arg;
pub mod images;
pub mod import;
pub mod index;
pub mod inspect;
pub mod kaniko;
pub mod limits;
mod list_targets;
pub mod load;
pub mod login;
mod needs;
mod outline;
pub mod parse_args;
mod place;
pub mod platforms;
pub mod plugin;
pub mod prune;
pub mod pull;
pub mod push;
mod refusals;
pub mod registry;
pub mod rmi;
pub mod run;
pub mod save;
pub mod security;
pub mod signals;
pub mod store;
mod store_filter;
pub mod tag;
mod template;
mod truth;

use crate::progress::Progress;
use crate::sandbox::Standing;
use crate::show;
use crate::sys::threads;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use config::{Config, Named};
pub use environment::Environment;
use environment::is_colour_refused;
use environment::{throwaway_store, variable};
use failure::{Class, Failure};
use history::{HistoryCommand, HistoryVerb};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Builds OCI images from Dockerfiles: no daemon, root or not, and it explains itself
#[derive(Debug, Parser)]
#[command(
    name = "builder",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_value_name = "COMMAND",
    args_override_self = true
)]
struct Cli {
    /// Directory that holds images, layers and the cache
    // An empty variable is an unset one.
    #[arg(long, global = true, env = "BUILDER_ROOT", value_name = "DIR", value_parser = clap::builder::OsStringValueParser::new(), help_heading = "Global")]
    root: Option<OsString>,
    /// Report what the program itself does, on stderr; BUILDER_LOG and BUILDER_LOG_FILE say more
    #[arg(short = 'D', long, global = true, help_heading = "Global")]
    debug: bool,
    /// File of defaults in place of the user's [default: ~/.config/builder/config.toml]; a
    /// directory is that of docker's configuration
    #[arg(long, global = true, env = "BUILDER_CONFIG", value_name = "FILE", value_parser = clap::builder::OsStringValueParser::new(), help_heading = "Global")]
    config: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildCommand>),
    /// Look for likely mistakes in a Dockerfile, without building it
    Check(Box<check::CheckCommand>),
    /// Say why steps ran, or would run
    Explain(Box<explain::ExplainCommand>),
    /// Run a command in an image
    Run(Box<run::RunArgs>),
    /// List images
    Images(images::ImagesArgs),
    /// Show an image's configuration and layers
    Inspect(inspect::InspectArgs),
    /// Show how an image came to be, or the builds that were made
    History(HistoryCommand),
    /// Pull images from registries
    Pull(pull::PullArgs),
    /// Push images to a registry
    Push(push::PushArgs),
    /// Copy an image between registries, layouts, archives and the store
    Copy(copy::CopyArgs),
    /// Make, show and change indexes: images for several platforms under one name
    #[command(subcommand, alias = "imagetools")]
    Index(index::IndexCommand),
    /// Indexes of the store, as docker manifest has them
    #[command(hide = true, subcommand)]
    Manifest(index::ManifestCommand),
    /// Log in to a registry
    Login(login::LoginArgs),
    /// Log out of a registry
    Logout(login::LogoutArgs),
    /// Show what differs between two images
    Diff(diff::DiffArgs),
    /// Give an image another name
    Tag(tag::TagArgs),
    /// Remove images
    Rmi(rmi::RmiArgs),
    /// Make an image of a root file system's tar
    Import(import::ImportArgs),
    /// Read images from an OCI or Docker archive
    Load(load::LoadArgs),
    /// Write images to an archive
    Save(save::SaveArgs),
    /// Show what the store holds
    Df(df::DfArgs),
    /// Remove cache that no named image needs
    Prune(prune::PruneArgs),
    /// List, remove, export and import cache mounts of RUN
    #[command(subcommand)]
    Mounts(cache_mounts::MountsCommand),
    /// Verify and repair the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Show the defaults of flags, and where they come from
    #[command(subcommand)]
    Config(config::show::ConfigCommand),
    /// Say what this machine offers, what follows for builds, and how to fix what is missing
    #[command(alias = "info")]
    Doctor(doctor::DoctorArgs),
    /// Let docker's client build with this program
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Build as kaniko's executor does, with its flags
    Kaniko(Box<kaniko::KanikoArgs>),
    /// Show the version, the commit and the platform of this program
    Version(help::VersionArgs),
    /// Print completions for a shell
    Completions(help::CompletionsArgs),
    /// Write the man pages
    Man(help::ManArgs),
    /// Answer what pipelines ask of buildx
    #[command(hide = true, subcommand)]
    Buildx(buildx::BuildxCommand),
    /// Answers of the parsers, for tests
    #[command(hide = true)]
    Dev {
        /// ast, words or ignore
        kind: String,
    },
}

/// Shows the help that was asked for, or what is wrong with the arguments: scripts pass on names
/// that others chose.
fn show_usage(error: &clap::Error) {
    let text = error.render();
    let show = |out: &mut dyn Write, is_terminal: bool| {
        let is_coloured = is_terminal && !is_colour_refused();
        let text = if is_coloured { text.ansi().to_string() } else { text.to_string() };
        out.write_all(show::harmless(&text, is_coloured).as_bytes())
    };
    // A reader that went away is not an error.
    let _ = match error.use_stderr() {
        true => show(&mut io::stderr(), io::stderr().is_terminal()),
        false => show(&mut io::stdout(), io::stdout().is_terminal()),
    };
}

/// Runs the program.
pub fn main() -> ExitCode {
    if crate::sandbox::is_spawner_call(std::env::args_os().next().as_deref()) {
        return crate::sandbox::spawner_main();
    }
    let call = argv::Call::read(std::env::args_os());
    let words = match call.line {
        argv::Line::Command(words) => with_run_separated(words),
        argv::Line::Metadata => {
            let _ = io::stdout().write_all(plugin::metadata().as_bytes());
            return ExitCode::SUCCESS;
        }
        argv::Line::Nothing(reason) => {
            let _ = writeln!(io::stderr(), "warning: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let parsed = truth::parse::<Cli>(words.clone()).map(|cli| with_defaults(cli, &words));
    let (cli, defaults) = match parsed {
        Ok(Ok(parsed)) => parsed,
        Ok(Err(failure)) => {
            let is_coloured = io::stderr().is_terminal() && !is_colour_refused();
            let _ = io::stderr().write_all(failure.render(is_coloured).as_bytes());
            return ExitCode::from(if is_of_run(&words) { 125 } else { failure.class.code() });
        }
        Err(error) => {
            // The texts of the help are put together only when they are shown.
            let error = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    help::command().try_get_matches_from(&words).err().unwrap_or(error)
                }
                // Clap's own message lists hidden commands too.
                ErrorKind::MissingSubcommand if std::env::args_os().len() == 1 => help::command()
                    .error(ErrorKind::MissingSubcommand, "name a command; --help lists them"),
                _ => refusals::explained(error, &words),
            };
            show_usage(&error);
            let status = u8::try_from(error.exit_code()).unwrap_or(2);
            return ExitCode::from(if status == 2 && is_of_run(&words) { 125 } else { status });
        }
    };
    // Before anything starts a thread. As root of nothing, files could have no owner but the user.
    let is_root = rustix::process::geteuid().is_root();
    signals::Signals::hold();
    let touches_layers = needs::touches_layers(&cli.command);
    let (standing, refused) = match touches_layers {
        true => crate::sandbox::enter(),
        false => (Standing::Machine, None),
    };
    let Defaults { config, docker_directory } = defaults;
    let mut environment = Environment::new(cli.root, config);
    environment.is_root = is_root;
    environment.standing = standing;
    environment.chroot = match standing {
        Standing::Container => Some(crate::sandbox::probe_chroot()),
        _ => None,
    };
    environment.emulated = match standing {
        Standing::User => Some(crate::sandbox::probe_emulation()),
        _ => None,
    };
    environment.refused = refused;
    environment.touches_layers = touches_layers;
    let docker_config = call.docker_config.or(docker_directory.map(PathBuf::into_os_string));
    environment.docker_config = docker_config.and_then(|dir| dir.into_string().ok());
    for flag in &call.engine_flags {
        environment.warn(&format!("docker's {flag} is not used: builds need no engine"));
    }
    #[cfg(debug_assertions)]
    if let Some(plan) = environment.variable("BUILDER_FAULT") {
        assert!(crate::sys::fault::arm(&plan), "BUILDER_FAULT={plan} is not a plan");
    }
    environment.signals.watch(&environment.cancel, matches!(cli.command, Command::Run(_)));
    let result = environment
        .take_from(&cli.command)
        .and_then(|()| debug::start(cli.debug, &environment))
        .and_then(|()| set_threads(&environment))
        .and_then(|()| run_command(&cli.command, &environment));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let failure = failure.unless_cancelled(&environment.cancel);
            // What a stopped thread reports is a consequence of the signal, whatever it says.
            let failure = match environment.signals.status() {
                Some(status) => Failure::new(Class::Status(status), "interrupted"),
                None => failure.unless_full(&environment.cancel),
            };
            let _ = io::stderr().write_all(failure.render(environment.is_coloured).as_bytes());
            failure.code()
        }
    }
}

/// Separates the flags of `builder run` from the command that it runs.
fn with_run_separated(mut words: Vec<OsString>) -> Vec<OsString> {
    if let Some(at) = argv::first_word(&words).filter(|at| words[*at] == "run") {
        let mut definition = Cli::command();
        definition.build();
        if let Some(definition) = definition.find_subcommand("run") {
            run::words::separate(&mut words, at, definition);
        }
    }
    words
}

/// What files and `--config` say.
struct Defaults {
    config: Config,
    /// A directory that `--config` names: docker's.
    docker_directory: Option<PathBuf>,
}

/// Reads the files of defaults, and parses the command line once more where its command has some.
fn with_defaults(cli: Cli, words: &[OsString]) -> Result<(Cli, Defaults), Failure> {
    let named = cli.config.as_ref().filter(|path| !path.is_empty());
    let (file, docker_directory) = match named.map(|path| Named::new(Path::new(path))) {
        Some(Named::File(file)) => (Some(file), None),
        Some(Named::DockerDirectory(directory)) => (None, Some(directory)),
        None => (None, None),
    };
    let config = match cli.command {
        Command::Dev { .. }
        | Command::Version(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Plugin(_) => Config::default(),
        // It helps where something is wrong.
        Command::Doctor(_) => Config::load(file.as_deref(), variable).unwrap_or_default(),
        _ => Config::load(file.as_deref(), variable)?,
    };
    let name = match cli.command {
        Command::Build(_) => "build",
        Command::Check(_) => "check",
        Command::Explain(_) => "explain",
        Command::Run(_) => "run",
        Command::Pull(_) => "pull",
        Command::Push(_) => "push",
        Command::Copy(_) => "copy",
        _ => "",
    };
    let cli = match config.has_defaults_of(name) {
        false => cli,
        true => {
            let given = truth::given(Cli::command(), words, name);
            let definition = config.apply(Cli::command(), name, &given)?;
            // It was parsed before, and the defaults are checked.
            truth::parse_as(&|| definition.clone(), words.iter().cloned())
                .map_err(|error| Failure::new(Class::Usage, error.to_string().trim_end()))?
        }
    };
    Ok((cli, Defaults { config, docker_directory }))
}

/// Says whether a command line that is wrong is one of `builder run`, whose own failures have
/// docker's status.
fn is_of_run(words: &[OsString]) -> bool {
    let matches = help::command().ignore_errors(true).try_get_matches_from(words);
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}

/// Takes the number of threads from `BUILDER_THREADS`.
fn set_threads(environment: &Environment) -> Result<(), Failure> {
    let Some(text) = environment.variable("BUILDER_THREADS").filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let count = text.parse().map_err(|_| {
        let message =
            format!("BUILDER_THREADS={text} is not a number of threads: expected 1 or more");
        Failure::new(Class::Usage, message)
    })?;
    threads::set(count);
    Ok(())
}

fn run_command(command: &Command, environment: &Environment) -> Result<(), Failure> {
    let cancel = &environment.cancel;
    let now = environment.started;
    // Builds watch the disks of their outputs too.
    let fills_store = matches!(
        command,
        Command::Pull(_)
            | Command::Push(_)
            | Command::Copy(_)
            | Command::Index(_)
            | Command::Manifest(_)
            | Command::Import(_)
            | Command::Load(_)
    );
    let root = if fills_store { environment.store_root().ok() } else { None };
    let _room = root.map(|root| environment.watch_room(&root));
    let out = &mut environment.stdout();
    let on_images = match command {
        Command::Build(args) => return build::run(args, environment),
        Command::Check(command) => {
            return check::run(command, environment);
        }
        Command::Diff(args) => return diff::run(args, environment, out),
        Command::Explain(command) => return explain::run(command, environment),
        Command::Run(args) => return run::run(args, environment),
        Command::Kaniko(args) => return kaniko::run(args, environment),
        Command::Buildx(command) => return buildx::run(command, environment),
        Command::Pull(args) => return pull::run(args, environment),
        Command::Push(args) => return push::run(args, environment),
        Command::Copy(args) => return copy::run(args, environment),
        Command::Index(command) => return index::run(command, environment, out),
        Command::Manifest(command) => return index::run_manifest(command, environment, out),
        Command::Login(args) => return login::login(args, environment),
        Command::Logout(args) => return login::logout(args, environment),
        Command::Doctor(args) => return doctor::run(args, environment),
        Command::Dev { kind } => {
            return dev::run(kind, io::stdin().lock(), io::stdout().lock())
                .map_err(|error| Failure::of(Class::Usage, &error));
        }
        Command::Version(args) => {
            environment.print(&help::version(args)?);
            return Ok(());
        }
        Command::Completions(args) => {
            environment.print(&help::completions(args));
            return Ok(());
        }
        Command::Man(args) => return help::man(args),
        Command::Plugin(command) => return plugin::run(command, environment),
        Command::Config(command) => {
            let config = &environment.config;
            return config::show::run(command, config, Cli::command(), variable, out);
        }
        Command::Df(args) => return df::run(args, &environment.store()?, now, out),
        Command::Prune(args) => {
            return prune::run(args, &environment.store()?, now, cancel, out);
        }
        Command::Mounts(command) => return cache_mounts::run(command, environment, out),
        Command::Store(args) => return store::run(args, &environment.store()?, cancel, out),
        Command::Images(args) => images::run(args, &environment.store()?, now, out),
        Command::Inspect(args) => return inspect::run(args, environment, out),
        Command::History(HistoryCommand { verb: Some(HistoryVerb::Transfer(command)), .. }) => {
            return history::transfer::run(command, environment);
        }
        Command::History(HistoryCommand { verb: Some(HistoryVerb::Builds(builds)), .. }) => {
            let (colour, store) = (environment.stdout_colour(), environment.store()?);
            let done = match builds.is_raw() {
                true => history::builds::run(builds, &store, now, colour, &mut io::stdout()),
                false => history::builds::run(builds, &store, now, colour, out),
            };
            return done.map_err(|error| Failure::of_explain(&error));
        }
        Command::History(HistoryCommand { usage: Some(build), .. }) => {
            let args = history::usage::UsageArgs {
                build: build.clone(),
                format: history::builds::ListFormat::Text,
            };
            return history::usage::run(&args, &environment.store()?, out)
                .map_err(|error| Failure::of_explain(&error));
        }
        Command::History(HistoryCommand { image: args, .. }) => match &args.image {
            Some(name) => history::run(name, args, &environment.store()?, now, out),
            None => {
                return Err(Failure::new(
                    Class::Usage,
                    "name an image, or a command of the history",
                )
                .with_hint("list the builds: builder history builds"));
            }
        },
        Command::Tag(args) => tag::run(args, &environment.store()?),
        Command::Rmi(args) => rmi::run(args, &environment.store()?, out),
        Command::Import(args) => {
            return import::run(
                args,
                &environment.store()?,
                now,
                environment.input()?,
                cancel,
                out,
            )
            .map_err(|error| Failure::of_images(&error).about(&args.file.display()));
        }
        Command::Load(args) => {
            let is_stdin = args.input == Path::new("-");
            let place = if is_stdin { Path::new("/dev/stdin") } else { &args.input };
            // It may be of either form.
            for transport in ["docker-archive", "oci-archive"] {
                registry::check_place(environment, transport, place)?;
            }
            load::run(args, &environment.store()?, environment.input()?, cancel, out)
        }
        Command::Save(args) => {
            let progress = Progress::quiet();
            let is_terminal = io::stdout().is_terminal();
            let store = environment.store()?;
            save::run(args, &store, &progress, cancel, is_terminal, &mut io::stdout())
        }
    };
    on_images.map_err(|error| Failure::of_images(&error))
}
