//! `builder mounts`: the cache mounts of RUN, listed, removed, and taken from machine to machine.

use super::failure::{Class, Failure};
use super::images::{since, write_table};
use super::{Environment, prune};
use crate::cache_mounts::{
    FoundMount, Imported, MountError, export_mount, found_mounts, import_mount,
};
use crate::explain::text::clean;
use crate::export::{ExportError, LayoutDirectory};
use crate::gc::{Inventory, ItemKind};
use crate::store::{CollectResult, KnownMount, Placed, Store};
use crate::text::size::decimal;
use jiff::Timestamp;
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;

/// Commands on cache mounts.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum MountsCommand {
    /// List cache mounts
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove cache mounts
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Write cache mounts to an OCI layout; only what has changed since the last time
    Export(ExportArgs),
    /// Take cache mounts from an OCI layout
    Import(ImportArgs),
}

/// What `builder mounts ls` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct LsArgs {
    /// Print as `table` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: LsFormat,
}

/// How `builder mounts ls` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LsFormat {
    /// Columns.
    Table,
    /// One JSON array.
    Json,
}

/// What `builder mounts rm` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct RmArgs {
    /// The mounts: their `id=`, which is the target where a Dockerfile gives none
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
}

/// What `builder mounts export` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// Directory of the OCI layout; it is made, or added to
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,
    /// The mounts: their `id=`, which is the target where a Dockerfile gives none; all without any
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
}

/// What `builder mounts import` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Directory of the OCI layout
    #[arg(value_name = "SRC")]
    pub src: PathBuf,
    /// The mounts: their `id=`; all that are there without any
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// Replace mounts that the store has already, which stay otherwise
    #[arg(long)]
    pub replace: bool,
}

/// Does what is asked for; results go to `out`.
///
/// # Errors
///
/// A failure for an unknown mount, a layout that cannot be used, or a store that refuses. What is
/// independent of that is done all the same.
pub fn run(
    command: &MountsCommand,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let store = environment.store()?;
    match command {
        MountsCommand::Ls(args) => list(args, &store, environment.started, out),
        MountsCommand::Rm(args) => remove(args, &store, out),
        MountsCommand::Export(args) => export(args, &store, environment, out),
        MountsCommand::Import(args) => import(args, &store, environment, out),
    }
}

fn list(args: &LsArgs, store: &Store, now: Timestamp, out: &mut dyn Write) -> Result<(), Failure> {
    let inventory = Inventory::of(store).map_err(|error| prune::failure(&error))?;
    let mounts: Vec<_> = store
        .mounts()
        .map_err(|error| failure(&error.into()))?
        .into_iter()
        .filter_map(|mount| {
            let path = mount.name().path();
            let is_it = |item: &&_| is_mount(item) && item.path == path;
            let item = inventory.items.iter().find(is_it)?;
            let used = Timestamp::try_from(item.last_used).unwrap_or(Timestamp::UNIX_EPOCH);
            Some((mount, item.bytes, used))
        })
        .collect();
    let written = match args.format {
        LsFormat::Json => {
            let items = mounts.iter().map(|(mount, bytes, used)| {
                json!({
                    "id": mount.id,
                    "start": mount.start,
                    "copy": mount.copy,
                    "bytes": bytes,
                    "last_used": used.to_string(),
                })
            });
            writeln!(out, "{}", serde_json::Value::Array(items.collect()))
        }
        LsFormat::Table => {
            let mut rows = vec![["ID", "SIZE", "LAST USED"].map(str::to_owned).to_vec()];
            rows.extend(mounts.iter().map(|(mount, bytes, used)| {
                vec![shown(mount), decimal(*bytes), since(*used, now)]
            }));
            write_table(&rows, out)
        }
    };
    written.map_err(|error| Failure::output(&error))
}

fn is_mount(item: &crate::gc::Item) -> bool {
    item.kind == ItemKind::Mount
}

fn id_of_known(mount: &KnownMount) -> &str {
    &mount.id
}

fn id_of_found(found: &FoundMount) -> &str {
    found.mount.as_ref().map_or("", |mount| &mount.id)
}

/// A mount as people read it.
fn shown(mount: &KnownMount) -> String {
    let start = match mount.start.as_str() {
        "" => String::new(),
        start => format!(" (of {})", clean(start)),
    };
    match mount.copy {
        0 => format!("{}{start}", clean(&mount.id)),
        copy => format!("{}{start} (copy {copy})", clean(&mount.id)),
    }
}

fn remove(args: &RmArgs, store: &Store, out: &mut dyn Write) -> Result<(), Failure> {
    let mut troubles = Troubles::default();
    let mounts = store.mounts().map_err(|error| failure(&error.into()))?;
    for mount in chosen(&args.ids, mounts, id_of_known, &mut troubles) {
        let taken = store.try_collect(&mount.name().path(), None, || true);
        match taken.map_err(|error| failure(&error.into()))? {
            CollectResult::Removed(path) => {
                crate::store::remove_tree(&path).map_err(|source| {
                    failure(&MountError::Io { doing: "remove", path: path.clone(), source })
                })?;
                say(out, format_args!("Removed {}", shown(&mount)))?;
            }
            CollectResult::Leased => {
                let text = format!("cache mount {} is in use by a running build", shown(&mount));
                troubles.add(Failure::new(Class::Environment, text));
            }
            CollectResult::Used | CollectResult::Gone => {}
        }
    }
    troubles.end()
}

fn export(
    args: &ExportArgs,
    store: &Store,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut troubles = Troubles::default();
    let mounts = store.mounts().map_err(|error| failure(&error.into()))?;
    let mounts = chosen(&args.ids, mounts, id_of_known, &mut troubles);
    if mounts.is_empty() {
        troubles.end()?;
        return say(out, format_args!("No cache mounts to export"));
    }
    let dest = std::path::absolute(&args.dest)
        .map_err(|error| Failure::of(Class::Usage, &error).about(&args.dest.display()))?;
    let waiting = || notify(&format!("waiting for another export to {}", dest.display()));
    let mut directory = LayoutDirectory::open(&dest, &environment.cancel, waiting)
        .map_err(|error| failure(&error.into()))?;
    for mount in mounts {
        let name = shown(&mount);
        let waiting = || notify(&format!("waiting for a build that uses cache mount {name}"));
        let exported = export_mount(store, &mount, &mut directory, &environment.cancel, waiting)
            .map_err(|error| failure(&error).about(&format_args!("cache mount {name}")))?;
        let Some(done) = exported else { continue };
        let text = format!(
            "Exported {name}: {} in {} chunks, {} new, {} written",
            decimal(done.bytes),
            done.chunks,
            done.new_chunks,
            decimal(done.written)
        );
        say(out, format_args!("{text}"))?;
    }
    directory.sweep();
    troubles.end()
}

fn import(
    args: &ImportArgs,
    store: &Store,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut troubles = Troubles::default();
    let found = found_mounts(&args.src).map_err(|error| failure(&error))?;
    let (readable, damaged): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|found| found.mount.is_ok());
    for found in damaged {
        if let Err(error) = &found.mount {
            troubles.add(failure(error).about(&format_args!("a cache mount, {}", found.digest)));
        }
    }
    let is_empty = readable.is_empty();
    for found in chosen(&args.ids, readable, id_of_found, &mut troubles) {
        let Ok(mount) = &found.mount else { continue };
        let name = shown(mount);
        let waiting = || notify(&format!("waiting for a build that uses cache mount {name}"));
        match import_mount(store, &found, args.replace, &environment.cancel, waiting) {
            Ok(Imported { placed: Placed::Kept, .. }) => say(
                out,
                format_args!("Kept {name}, which is here already; --replace takes the other"),
            )?,
            Ok(done) => {
                let verb = if done.placed == Placed::New { "Imported" } else { "Replaced" };
                let text = format!("{verb} {name}: {} entries", done.entries);
                say(out, format_args!("{text}, {}", decimal(done.bytes)))?;
            }
            Err(MountError::Cancelled) => return Err(failure(&MountError::Cancelled)),
            Err(error) => {
                troubles.add(failure(&error).about(&format_args!("cache mount {name}")));
            }
        }
    }
    if is_empty && troubles.is_empty() {
        say(out, format_args!("No cache mounts in {}", args.src.display()))?;
    }
    troubles.end()
}

/// What went wrong with some mounts while others went well.
#[derive(Default)]
struct Troubles(Vec<Failure>);

impl Troubles {
    fn add(&mut self, failure: Failure) {
        self.0.push(failure);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn end(&mut self) -> Result<(), Failure> {
        let mut failures = std::mem::take(&mut self.0).into_iter();
        let Some(mut first) = failures.next() else { return Ok(()) };
        first.others.extend(failures);
        Err(first)
    }
}

/// Picks those that `ids` name, all without any; an id that names none is trouble.
fn chosen<T>(
    ids: &[String],
    from: Vec<T>,
    id_of: impl Fn(&T) -> &str,
    troubles: &mut Troubles,
) -> Vec<T> {
    if ids.is_empty() {
        return from;
    }
    for id in ids {
        if from.iter().any(|one| id_of(one) == *id) {
            continue;
        }
        let mut known: Vec<_> = from.iter().map(|one| clean(id_of(one)).into_owned()).collect();
        known.dedup();
        let mut failure = Failure::new(Class::Usage, format!("no cache mount {}", clean(id)));
        if !known.is_empty() {
            failure = failure.with_hint(format!("there are: {}", known.join(", ")));
        }
        troubles.add(failure);
    }
    let is_named = |one: &T| ids.iter().any(|id| id_of(one) == *id);
    from.into_iter().filter(is_named).collect()
}

fn say(out: &mut dyn Write, text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    writeln!(out, "{}", crate::show::text(&text.to_string()))
        .map_err(|error| Failure::output(&error))
}

/// Shows a message on stderr.
fn notify(text: &str) {
    let _ = writeln!(io::stderr(), "{}", crate::show::lines(text));
}

fn failure(error: &MountError) -> Failure {
    match error {
        MountError::Cancelled | MountError::Export(ExportError::Cancelled) => {
            Failure::new(Class::Interrupted, "interrupted")
        }
        error => Failure::of(Class::Environment, error),
    }
}
