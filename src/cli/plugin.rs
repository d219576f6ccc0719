//! `builder plugin`: this program as a plugin of docker's client, so that `docker build` runs it.
//!
//! A plugin is a program `docker-NAME` in docker's directory `cli-plugins`; here a link to this
//! program. Docker's client passes `docker build` and `docker image build` on to the plugin that the
//! alias `builder` in its `config.json` names. It refuses the name `builder` itself, which is one of
//! its own commands, for plugins and as the value of the alias: the plugin is `ocibuilder`.

use super::Environment;
use super::failure::{Class, Failure};
use super::registry::docker_config;
use crate::job::transfers::failure_of_registry;
use crate::registry::docker_file;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Name of the plugin: `docker NAME COMMAND` runs `builder COMMAND`.
const NAME: &str = "ocibuilder";

/// Name of the alias of docker's that says which plugin builds.
const ALIAS: &str = "builder";

/// What `builder plugin` takes.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum PluginCommand {
    /// Link this program into the directory of docker's plugins
    Install(InstallArgs),
    /// Remove the link, and the alias if it names this program
    Uninstall,
}

/// What `builder plugin install` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    /// Let `docker build` and `docker image build` run this program too
    #[arg(long)]
    alias: bool,
}

/// Returns the description that docker's client asks its plugins for: one JSON object.
pub(super) fn metadata() -> String {
    let document = json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "builder",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Build OCI images without a daemon",
    });
    format!("{document}\n")
}

/// Links this program into docker's directory, or removes that link.
///
/// # Errors
///
/// The failure to show: a file that is not ours is in the way, or docker's configuration cannot be
/// read or written.
pub(super) fn run(command: &PluginCommand, environment: &Environment) -> Result<(), Failure> {
    let Some(config) = docker_config(environment) else {
        return Err(Failure::new(Class::Environment, "no place for plugins: HOME is not set")
            .with_hint("name docker's directory: DOCKER_CONFIG=DIR builder plugin install"));
    };
    let link = config.with_file_name("cli-plugins").join(format!("docker-{NAME}"));
    match command {
        PluginCommand::Install(args) => {
            install(&link)?;
            environment.print(&format!("docker {NAME} build … runs builder\n"));
            if args.alias {
                let before = set_alias(&config, Some(NAME))?;
                environment.print("docker build … runs builder\n");
                if let Some(before) = before.filter(|before| before != NAME) {
                    environment.warn(&format!("{} named {before} before", config.display()));
                }
            }
        }
        PluginCommand::Uninstall => {
            let was_there = is_ours(&link) && {
                fs::remove_file(&link).map_err(|error| cannot("remove", &link, &error))?;
                true
            };
            let had_alias = alias(&config)?.is_some_and(|name| name == NAME);
            if had_alias {
                set_alias(&config, None)?;
            }
            environment.print(match (was_there, had_alias) {
                (false, false) => "the plugin is not installed\n",
                (true, false) => "removed the plugin\n",
                (_, true) => "removed the plugin and its alias\n",
            });
        }
    }
    Ok(())
}

fn install(link: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| cannot("find", Path::new("/proc/self/exe"), &error))?;
    let directory = link.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(|error| cannot("make", directory, &error))?;
    if fs::symlink_metadata(link).is_ok() {
        if !is_ours(link) {
            return Err(Failure::new(
                Class::Environment,
                format!("{} is there and is not builder's", link.display()),
            )
            .with_hint(format!("remove it: rm {}", link.display())));
        }
        fs::remove_file(link).map_err(|error| cannot("remove", link, &error))?;
    }
    symlink(&program, link).map_err(|error| cannot("make", link, &error))
}

/// Says whether `link` is a link that `install` made, of this or of an earlier program.
fn is_ours(link: &Path) -> bool {
    let target: io::Result<PathBuf> = fs::read_link(link);
    target.is_ok_and(|target| {
        let is_named_so = |name: &OsStr| name.as_encoded_bytes().starts_with(b"builder");
        target.file_name().is_some_and(is_named_so)
            || std::env::current_exe().is_ok_and(|program| program == target)
    })
}

fn alias(config: &Path) -> Result<Option<String>, Failure> {
    let document = docker_file::read(config).map_err(failure_of_registry)?;
    let name = document.as_ref().and_then(|document| document.get("aliases")?.get(ALIAS));
    Ok(name.and_then(Value::as_str).map(str::to_owned))
}

/// Sets or removes the alias; returns the one before.
fn set_alias(config: &Path, name: Option<&str>) -> Result<Option<String>, Failure> {
    let before = alias(config)?;
    let mut document =
        docker_file::read(config).map_err(failure_of_registry)?.unwrap_or_else(|| json!({}));
    let aliases = document.as_object_mut().map(|all| all.entry("aliases").or_insert(json!({})));
    let Some(Value::Object(aliases)) = aliases else {
        let text = format!("{}: `aliases` is not an object", config.display());
        return Err(Failure::new(Class::Environment, text));
    };
    match name {
        Some(name) => aliases.insert(ALIAS.to_owned(), json!(name)),
        None => aliases.remove(ALIAS),
    };
    docker_file::write(config, &document).map_err(failure_of_registry)?;
    Ok(before)
}

fn cannot(doing: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Class::Environment, format!("cannot {doing} {}: {error}", path.display()))
}
