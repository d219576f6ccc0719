//! RUN's `--mount`s: which tree, directory, secret or socket each one is.
//!
//! Source: BuildKit, `dockerfile2llb/convert_runmount.go`, `convert_secrets.go`, `convert_ssh.go`.

use super::stages::Place;
use super::step::{CacheStart, ContextId, Files, Mount, MountKind, Sharing, Tree};
use super::{PlanError, paths, words};
use crate::dockerfile::ast::{self, Escape, MountType};
use crate::dockerfile::env::Env;
use crate::text::path;

/// Where secrets are put that name no target.
const SECRETS: &str = "/run/secrets";

/// Where agent sockets are put that name no target.
const SSH_SOCKETS: &str = "/run/buildkit";

/// Permission bits of a cache mount's root.
const CACHE_MODE: u32 = 0o755;

/// Expands and checks the options of all mounts of a RUN.
pub(super) fn resolve(
    run: &ast::Run,
    place: Place,
    env: &Env,
    escape: Escape,
) -> Result<Vec<ast::Mount>, PlanError> {
    run.mounts
        .iter()
        .map(|flag| {
            let place = Place { span: flag.span, ..place };
            let expand = |text: &str| {
                words::expand_text(text, place, env, escape).map_err(|error| match error {
                    PlanError::Dockerfile(mut errors) if !errors.is_empty() => errors.remove(0),
                    other => place.error(other.to_string()),
                })
            };
            flag.resolve(&expand).map_err(|mut error| {
                error.line = place.lines.first;
                PlanError::from(error)
            })
        })
        .collect()
}

/// Turns one mount into what the sandbox is to do. `tree` is what `from=` names, `namespace` what
/// sets cache mounts apart, empty without.
pub(super) fn plan(
    mount: &ast::Mount,
    tree: Option<Tree>,
    namespace: &str,
    cwd: &str,
    place: Place,
) -> Result<Mount, PlanError> {
    let target = if mount.target.starts_with('/') {
        path::clean(&mount.target)
    } else {
        paths::join(if cwd.is_empty() { "/" } else { cwd }, &mount.target)
    };
    if target == "/" && !matches!(mount.kind, MountType::Secret | MountType::Ssh) {
        return Err(place.error(format!("invalid mount target {target:?}")).into());
    }
    let source = paths::join("/", &mount.source);
    let owner = |default: u32| {
        (mount.mode.unwrap_or(default), mount.uid.unwrap_or(0), mount.gid.unwrap_or(0))
    };
    let (target, kind) = match mount.kind {
        MountType::Bind => {
            let tree = tree.unwrap_or(Tree::Context(ContextId(0)));
            (target, MountKind::Bind { tree, source, is_read_only: mount.readonly })
        }
        MountType::Cache => {
            let id = match mount.id.as_str() {
                "" => path::clean(&mount.target),
                id => id.to_owned(),
            };
            let id = if namespace.is_empty() { id } else { format!("{namespace}/{id}") };
            let sharing = match mount.sharing {
                None | Some(ast::Sharing::Shared) => Sharing::Shared,
                Some(ast::Sharing::Private) => Sharing::Private,
                Some(ast::Sharing::Locked) => Sharing::Locked,
            };
            let has_owner = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
            // `from=scratch` has nothing in it.
            let start = match tree.filter(|tree| *tree != Tree::Files(Files::Nothing)) {
                None if source != "/" => {
                    return Err(place
                        .error("a cache mount with source= needs from=: without it there is nothing to take")
                        .into());
                }
                tree if source == "/" && has_owner => CacheStart::Owned {
                    tree,
                    uid: mount.uid.unwrap_or(0),
                    gid: mount.gid.unwrap_or(0),
                    mode: mount.mode.unwrap_or(CACHE_MODE),
                },
                Some(tree) => CacheStart::Files { tree, source },
                None => CacheStart::Empty,
            };
            let kind = MountKind::Cache { id, sharing, start, is_read_only: mount.readonly };
            (target, kind)
        }
        MountType::Tmpfs => {
            (target, MountKind::Tmpfs { size: u64::try_from(mount.size).unwrap_or(0) })
        }
        MountType::Secret => {
            let id = match (mount.source.as_str(), mount.id.as_str()) {
                ("", "") if mount.target.is_empty() => {
                    return Err(place.error("one of source, target required").into());
                }
                ("", "") => words::base_name(&mount.target),
                ("", id) => id.to_owned(),
                (source, _) => source.to_owned(),
            };
            let target = match (mount.target.as_str(), &mount.env) {
                ("", Some(_)) => String::new(),
                ("", None) => paths::join(SECRETS, &words::base_name(&id)),
                _ => target,
            };
            let (mode, uid, gid) = owner(0o400);
            let kind = MountKind::Secret {
                id,
                env: mount.env.clone(),
                is_required: mount.required,
                mode,
                uid,
                gid,
            };
            (target, kind)
        }
        MountType::Ssh => {
            if !mount.source.is_empty() {
                return Err(place.error("ssh does not support source").into());
            }
            let id = if mount.id.is_empty() { "default" } else { &mount.id };
            // The number is filled in by the sandbox, which knows how many sockets there are.
            let target =
                if mount.target.is_empty() { format!("{SSH_SOCKETS}/ssh_agent.0") } else { target };
            let (mode, uid, gid) = owner(0o600);
            let kind =
                MountKind::Ssh { id: id.to_owned(), is_required: mount.required, mode, uid, gid };
            (target, kind)
        }
    };
    Ok(Mount { target, kind })
}
