//! What a step depends on: its plan and the files it reads become [`Inputs`].
//!
//! The table in [`crate::cache`] says what belongs here.

use super::copies::{SelectedSource, choose};
use super::step_context::StepContext;
use super::{Cause, Job, cache_mounts};
use crate::cache::{Cache, Inputs, TreeEntry, TreeId};
use crate::context::SelectOptions;
use crate::copy::{EntryKind, SelectedEntry, Selection};
use crate::plan::{
    CacheStart, Copy, CopySource, MountKind, Network, Op, Run, Security, Sharing, Step, Tree,
};
use crate::store::Key;
use std::collections::BTreeMap;

/// The inputs of a step, with what was found on the way.
#[derive(Debug)]
pub(super) struct StepInputs {
    pub(super) inputs: Inputs,
    /// Their hash.
    pub(super) key: Key,
    /// What a copy chose, in the order of its sources.
    pub(super) chosen: Vec<SelectedSource>,
    /// The listings that `inputs` name.
    listings: Vec<(TreeId, Selection, bool)>,
}

impl StepInputs {
    /// Keeps the listings, so that `explain` can compare them.
    pub(super) fn keep_listings(&self, cache: &Cache) -> Result<(), Cause> {
        for (id, selection, keeps_owner) in self.listed() {
            cache.keep_tree(&id, entries(selection, keeps_owner).into_iter())?;
        }
        Ok(())
    }

    /// Adds the listings to `all`.
    pub(super) fn collect_listings(&self, all: &mut BTreeMap<TreeId, Vec<TreeEntry>>) {
        for (id, selection, keeps_owner) in self.listed() {
            all.entry(id).or_insert_with(|| entries(selection, keeps_owner));
        }
    }

    fn listed(&self) -> impl Iterator<Item = (TreeId, &Selection, bool)> {
        let copied = self.chosen.iter().filter_map(|chosen| match chosen {
            SelectedSource::Files { source, selection, id } => {
                Some((*id, selection, source.keeps_owner()))
            }
            SelectedSource::Inline => None,
        });
        self.listings.iter().map(|(id, selection, keeps)| (*id, selection, *keeps)).chain(copied)
    }
}

fn entries(selection: &Selection, keeps_owner: bool) -> Vec<TreeEntry> {
    let mut entries = Vec::new();
    selection.for_each(|path, entry| entries.push(tree_entry(path, entry, keeps_owner)));
    entries
}

fn tree_entry(path: &[u8], entry: &SelectedEntry, keeps_owner: bool) -> TreeEntry {
    let content = match (&entry.content, &entry.link) {
        (Some(content), _) => Some(Key::from_bytes(*content).to_hex()),
        (None, Some(link)) => Some(show(link)),
        (None, None) if entry.rdev != 0 => Some(entry.rdev.to_string()),
        (None, None) => None,
    };
    TreeEntry {
        path: show(path),
        kind: entry.kind.name().to_owned(),
        mode: entry.mode & 0o7777,
        owner: keeps_owner.then_some((entry.uid, entry.gid)),
        size: (entry.kind == EntryKind::File).then_some(entry.size),
        content,
    }
}

/// Shows bytes as text; those that are no UTF-8 as `\xNN`.
fn show(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// How far inputs are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// All that the step reads.
    All,
    /// Contexts, addresses and what the step says itself: what is known before any step has run.
    Contexts,
}

/// The name of the input that holds the files of a mount.
pub(super) fn files_of_mount(target: &str) -> String {
    format!("files of mount {target}")
}

/// Computes the inputs of a step as far as they are known before any step has run.
pub(super) fn describe_within(context: &StepContext<'_>) -> Result<Inputs, Cause> {
    Ok(describe_to(context, Reach::Contexts)?.inputs)
}

/// Computes the inputs of a step. May walk and hash files.
pub(super) fn describe(context: &StepContext<'_>) -> Result<StepInputs, Cause> {
    describe_to(context, Reach::All)
}

fn describe_to(context: &StepContext<'_>, reach: Reach) -> Result<StepInputs, Cause> {
    let (job, step) = (context.job, context.step());
    let mut inputs = Inputs::new();
    let mut chosen = Vec::new();
    let mut listings = Vec::new();
    match &step.op {
        Op::Workdir(workdir) => {
            inputs.text("workdir", &workdir.path);
            inputs.text("user", &workdir.user);
        }
        Op::Run(run) => {
            inputs.text("platform", step.platform.to_string());
            let sources = Sources { context, reach };
            describe_run(run, Some(&sources), &mut inputs, &mut listings)?;
        }
        Op::Copy(copy) => {
            describe_copy(copy, &mut inputs);
            if reach == Reach::Contexts && matches!(copy.tree, Tree::Files(_)) {
                copy.sources.iter().for_each(|source| describe_source(source, &mut inputs));
            } else {
                chosen = choose(context, copy)?;
            }
            for (chosen, source) in chosen.iter().zip(&copy.sources) {
                chosen.describe(source, &mut inputs);
            }
        }
    }
    if let Some(epoch) = job.options.epoch
        && !matches!(step.op, Op::Run(_))
    {
        inputs.text("SOURCE_DATE_EPOCH", epoch.to_string());
    }
    Ok(StepInputs { key: inputs.key(), inputs, chosen, listings })
}

/// Returns the inputs of a step but for the files it reads, which are not known.
pub(super) fn outline(job: &Job<'_>, step: &Step) -> Result<Inputs, Cause> {
    let mut inputs = Inputs::new();
    match &step.op {
        Op::Workdir(workdir) => {
            inputs.text("workdir", &workdir.path);
            inputs.text("user", &workdir.user);
        }
        Op::Run(run) => {
            inputs.text("platform", step.platform.to_string());
            describe_run(run, None, &mut inputs, &mut Vec::new())?;
        }
        Op::Copy(copy) => {
            describe_copy(copy, &mut inputs);
            copy.sources.iter().for_each(|source| describe_source(source, &mut inputs));
        }
    }
    if let Some(epoch) = job.options.epoch
        && !matches!(step.op, Op::Run(_))
    {
        inputs.text("SOURCE_DATE_EPOCH", epoch.to_string());
    }
    Ok(inputs)
}

/// Where the files are that a command reads.
struct Sources<'a> {
    context: &'a StepContext<'a>,
    reach: Reach,
}

impl Sources<'_> {
    /// Whether a tree is among the files that are to be read.
    fn reaches(&self, tree: Tree) -> bool {
        self.reach == Reach::All || matches!(tree, Tree::Context(_))
    }
}

/// Describes a source whose files are not known, as [`SelectedSource::describe`] does those that are.
fn describe_source(source: &CopySource, inputs: &mut Inputs) {
    match source {
        CopySource::Path(path) => inputs.text("source", path),
        CopySource::Url(address) | CopySource::Git(address) => {
            inputs.text("source", &address.text);
        }
        CopySource::Inline { name, data } => {
            inputs.list(format!("heredoc {name}"), document(name, data));
        }
    }
}

fn describe_copy(copy: &Copy, inputs: &mut Inputs) {
    inputs.text("instruction", if copy.is_add { "ADD" } else { "COPY" });
    inputs.text("destination", &copy.dest);
    let optional = [
        ("--chown", copy.chown.clone()),
        ("--chmod", copy.chmod.clone()),
        ("--link", copy.is_link.then(String::new)),
        ("--parents", copy.keeps_parents.then(String::new)),
        ("--keep-git-dir", copy.keep_git_dir.map(|keep| keep.to_string())),
        ("--unpack", copy.unpack.map(|unpack| unpack.to_string())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            inputs.text(name, value);
        }
    }
    if !copy.excludes.is_empty() {
        inputs.list("--exclude", copy.excludes.clone());
    }
}

/// The parts of a document that a key holds: its name, and its text or, escaped and marked so, its
/// bytes.
pub(super) fn document(name: &str, data: &[u8]) -> Vec<String> {
    match std::str::from_utf8(data) {
        Ok(text) => vec![name.to_owned(), text.to_owned()],
        Err(_) => vec![name.to_owned(), data.escape_ascii().to_string(), "escaped".to_owned()],
    }
}

fn describe_run(
    run: &Run,
    sources: Option<&Sources<'_>>,
    inputs: &mut Inputs,
    listings: &mut Vec<(TreeId, Selection, bool)>,
) -> Result<(), Cause> {
    inputs.list("argv", run.argv.clone());
    if let Some((path, data)) = &run.script {
        inputs.list("script", document(path, data));
    }
    for (name, value) in &run.env {
        let kind = if run.args.contains(name) { "arg" } else { "env" };
        inputs.text(format!("{kind} {name}"), value);
    }
    inputs.text("user", &run.user);
    inputs.text("workdir", &run.cwd);
    let network = match run.network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    };
    inputs.text("network", network);
    if run.security == Security::Insecure {
        inputs.text("security", "insecure");
    }
    for mount in &run.mounts {
        let name = format!("mount {}", mount.target);
        match &mount.kind {
            MountKind::Bind { tree, source, is_read_only } => {
                let access = if *is_read_only { "ro" } else { "rw" };
                inputs.list(&name, vec!["bind".into(), source.clone(), access.into()]);
                let Some(Sources { context, .. }) =
                    sources.filter(|sources| sources.reaches(*tree))
                else {
                    continue;
                };
                let (from, cancel) = (context.source(*tree)?, context.job.cancel);
                let selection =
                    from.select(&[source.as_str()], &SelectOptions::default(), cancel)?;
                let id = TreeId(selection.digest(from.keeps_owner()));
                inputs.tree(files_of_mount(&mount.target), id);
                listings.push((id, selection, from.keeps_owner()));
            }
            MountKind::Cache { id, sharing, start, is_read_only } => {
                let sharing = match sharing {
                    Sharing::Shared => "shared",
                    Sharing::Private => "private",
                    Sharing::Locked => "locked",
                };
                let mut words = vec!["cache".into(), id.clone(), sharing.into()];
                words.push(is_read_only.to_string());
                match start {
                    CacheStart::Empty => {}
                    CacheStart::Owned { uid, gid, mode, .. } => {
                        words.extend([uid.to_string(), gid.to_string(), format!("{mode:o}")]);
                    }
                    CacheStart::Files { source, .. } => words.push(source.clone()),
                }
                inputs.list(&name, words);
                if let (Some(tree), Some(sources)) = (start.tree(), sources)
                    && sources.reaches(tree)
                {
                    let (from, selection, id) = cache_mounts::files_of(sources.context, tree)?;
                    inputs.tree(files_of_mount(&mount.target), id);
                    listings.push((id, selection, from.keeps_owner()));
                }
            }
            MountKind::Host { source, is_read_only } => {
                let access = if *is_read_only { "ro" } else { "rw" };
                inputs.list(&name, vec!["host".into(), source.clone(), access.into()]);
            }
            MountKind::Tmpfs { size } => {
                inputs.list(&name, vec!["tmpfs".into(), size.to_string()]);
            }
            MountKind::Secret { id, env, is_required, mode, uid, gid } => {
                let env = env.clone().unwrap_or_default();
                let rest = [u32::from(*is_required), *mode, *uid, *gid].map(|n| n.to_string());
                let mut words = vec!["secret".into(), id.clone(), env];
                words.extend(rest);
                inputs.list(&name, words);
            }
            MountKind::Ssh { id, is_required, mode, uid, gid } => {
                let rest = [u32::from(*is_required), *mode, *uid, *gid].map(|n| n.to_string());
                let mut words = vec!["ssh".into(), id.clone()];
                words.extend(rest);
                inputs.list(&name, words);
            }
        }
    }
    Ok(())
}
