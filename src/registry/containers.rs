//! Settings of podman and buildah for registries: `registries.conf` and `policy.json`.
//!
//! Of `registries.conf` (version 2, and the lists of version 1): blocked registries, mirrors, locations,
//! `insecure`, short names. Of `policy.json`: `insecureAcceptAnything` and `reject`; a signature that is
//! asked for refuses the pull, because signatures are not verified here. Keys that mean nothing to a
//! build are not looked at.
//!
//! Sources: containers-registries.conf(5), containers-policy.json(5).

use super::settings::{Location, SettingsError};
use crate::oci::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The settings of both files, with the files that said so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Containers {
    registries: Vec<(PathBuf, Table)>,
    /// Short names and what they stand for.
    aliases: BTreeMap<String, String>,
    /// Registries that short names are looked for in.
    search: Option<(PathBuf, Vec<String>)>,
    policy: Option<(PathBuf, Policy)>,
}

/// Why a file forbids a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub what: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Table>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    unqualified_search_registries: Option<Vec<String>>,
    /// Version 1.
    registries: Option<Lists>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Lists {
    search: Option<List>,
    insecure: Option<List>,
    block: Option<List>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct List {
    #[serde(default)]
    registries: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Table {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[expect(clippy::struct_field_names, reason = "the file's own names")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

impl Table {
    /// What the names that it is for begin with.
    fn prefix(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    /// Returns how much of `name`, as `HOST/PATH`, the prefix covers; `None` where it is for others.
    fn covered(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix();
        let end = match prefix.strip_prefix('*') {
            Some(suffix) => {
                let host = name.find('/').unwrap_or(name.len());
                name[..host].ends_with(suffix).then_some(host)?
            }
            None => name.starts_with(prefix).then_some(prefix.len())?,
        };
        let is_whole = name[end..].is_empty() || name[end..].starts_with(['/', ':', '@']);
        is_whole.then_some(end)
    }
}

impl Containers {
    /// Adds the text of a `registries.conf` or of a file in `registries.conf.d`; what it says of a
    /// prefix replaces what was said before.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for what is no such file, naming the line.
    pub fn add_registries(&mut self, text: &str, path: &Path) -> Result<(), SettingsError> {
        let bad = |what: String| SettingsError { path: path.to_owned(), what };
        let file: File = toml::from_str(text).map_err(|e| bad(e.to_string().trim().to_owned()))?;
        let mut tables = file.registry;
        if let Some(lists) = file.registries {
            let of = |list: Option<List>| list.unwrap_or_default().registries;
            let table = |location| Table { location, ..Table::default() };
            tables.extend(
                of(lists.insecure).into_iter().map(|at| Table { insecure: true, ..table(at) }),
            );
            tables
                .extend(of(lists.block).into_iter().map(|at| Table { blocked: true, ..table(at) }));
            if let Some(search) = lists.search {
                self.search = Some((path.to_owned(), search.registries));
            }
        }
        for table in tables {
            let prefix = table.prefix().trim_end_matches('/').to_owned();
            if prefix.is_empty() {
                return Err(bad("a [[registry]] has neither prefix nor location".to_owned()));
            }
            if prefix.starts_with('*') && (!prefix.starts_with("*.") || !table.location.is_empty())
            {
                return Err(bad(format!(
                    "prefix {prefix:?}: a pattern is *.DOMAIN, and has no location"
                )));
            }
            for mirror in &table.mirror {
                if mirror.location.is_empty() {
                    return Err(bad(format!("a mirror of {prefix} has no location")));
                }
                if !matches!(&*mirror.pull_from_mirror, "" | "all" | "digest-only" | "tag-only") {
                    let text = &mirror.pull_from_mirror;
                    return Err(bad(format!(
                        "pull-from-mirror = {text:?}: expected all, digest-only or tag-only"
                    )));
                }
            }
            self.registries.retain(|(_, other)| other.prefix() != prefix);
            self.registries.push((path.to_owned(), Table { prefix, ..table }));
        }
        self.aliases.extend(file.aliases);
        if let Some(search) = file.unqualified_search_registries {
            self.search = Some((path.to_owned(), search));
        }
        Ok(())
    }

    /// Sets the policy from the text of a `policy.json`.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for what is no such file, naming the line.
    pub fn set_policy(&mut self, text: &str, path: &Path) -> Result<(), SettingsError> {
        let policy: Policy = serde_json::from_str(text)
            .map_err(|e| SettingsError { path: path.to_owned(), what: e.to_string() })?;
        self.policy = Some((path.to_owned(), policy));
        Ok(())
    }

    fn table(&self, name: &str) -> Option<(&Path, &Table)> {
        let fitting = self.registries.iter().filter(|(_, table)| table.covered(name).is_some());
        let longest = fitting.max_by_key(|(_, table)| table.prefix().len());
        longest.map(|(path, table)| (path.as_path(), table))
    }

    /// Returns why an image must not be pulled; `None` where it may be.
    pub fn ban(&self, image: &Reference) -> Option<Ban> {
        let name = image.to_string();
        if let Some((path, table)) = self.table(&name).filter(|(_, table)| table.blocked) {
            let what = format!("{} is blocked", table.prefix());
            return Some(Ban { path: path.to_owned(), what });
        }
        self.ban_in("docker", &scopes(image))
    }

    /// Returns why an image of a layout or archive must not be read; `None` where it may be.
    /// `transport` is a name of containers-policy.json(5), `path` the absolute one of the layout or
    /// file.
    pub fn ban_of_place(&self, transport: &str, path: &Path) -> Option<Ban> {
        // Archives of docker's form have no scopes but that of all.
        let ancestors = path.ancestors().filter(|_| transport != "docker-archive");
        let mut scopes: Vec<String> = ancestors.map(|path| path.display().to_string()).collect();
        scopes.push(String::new());
        self.ban_in(transport, &scopes)
    }

    fn ban_in(&self, transport: &str, scopes: &[String]) -> Option<Ban> {
        let (path, policy) = self.policy.as_ref()?;
        let (scope, requirements) = policy.of(transport, scopes);
        let ban = |what| Some(Ban { path: path.clone(), what });
        if requirements.is_empty() {
            return ban(format!("{scope} has no requirement, which is none that can be met"));
        }
        for requirement in requirements {
            match &*requirement.kind {
                "insecureAcceptAnything" => {}
                "reject" => return ban(format!("{scope} is \"reject\"")),
                kind => {
                    return ban(format!(
                        "{scope} wants \"{kind}\", and signatures are not verified yet"
                    ));
                }
            }
        }
        None
    }

    /// Returns where a repository, as `HOST/PATH`, is pulled from; `None` where nothing is said of it.
    /// `is_digest` says whether the image is asked for by its digest.
    pub(super) fn places(&self, name: &str, is_digest: bool) -> Option<Vec<Location>> {
        let (_, table) = self.table(name)?;
        let rest = &name[table.covered(name)?..];
        let place = |base: &str| {
            let full = format!("{}{rest}", base.trim_end_matches('/'));
            let (host, path) = full.split_once('/').unwrap_or((&full, ""));
            Location { name: host.to_owned(), is_plain: false, path: path.to_owned() }
        };
        let is_open = |mirror: &&Mirror| match &*mirror.pull_from_mirror {
            "digest-only" => is_digest,
            "tag-only" => !is_digest,
            _ => is_digest || !table.mirror_by_digest_only,
        };
        let mut places: Vec<Location> =
            table.mirror.iter().filter(is_open).map(|mirror| place(&mirror.location)).collect();
        places.push(match table.location.is_empty() {
            true => place(&name[..name.len() - rest.len()]),
            false => place(&table.location),
        });
        Some(places)
    }

    /// Says whether any certificate of a host is taken, and plain HTTP from it: because a location on it
    /// is `insecure`.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let is_on = |location: &str| location.split('/').next() == Some(host);
        self.registries.iter().any(|(_, table)| {
            let own = if table.location.is_empty() { table.prefix() } else { &table.location };
            table.insecure && is_on(own)
                || table.mirror.iter().any(|mirror| mirror.insecure && is_on(&mirror.location))
        })
    }

    /// Returns what a name without a registry stands for; `None` for docker.io, as ever.
    ///
    /// # Errors
    ///
    /// [`Ban`] where several registries could be meant, none of which is docker.io.
    pub fn long_name(&self, typed: &str) -> Result<Option<String>, Ban> {
        let end = typed.find('@').unwrap_or(typed.len());
        let end = typed[..end].find(':').unwrap_or(end);
        let (name, rest) = typed.split_at(end);
        let first = name.split('/').next().unwrap_or(name);
        let has_registry = name.contains('/') && (first.contains('.') || first == "localhost")
            || name.is_empty()
            // HOST:PORT/PATH
            || rest.split('@').next().is_some_and(|tag| tag.contains('/'));
        if has_registry {
            return Ok(None);
        }
        if let Some(long) = self.aliases.get(name).filter(|long| !long.is_empty()) {
            return Ok(Some(format!("{long}{rest}")));
        }
        match &self.search {
            None => Ok(None),
            Some((_, search)) if search.is_empty() => Ok(None),
            Some((_, search)) if search.iter().any(|host| host == "docker.io") => Ok(None),
            Some((_, search)) if search.len() == 1 => Ok(Some(format!("{}/{typed}", search[0]))),
            Some((path, search)) => Err(Ban {
                path: path.clone(),
                what: format!("{name} may be in {}: write the registry", search.join(" or ")),
            }),
        }
    }
}

impl Policy {
    /// Returns the requirements of the first scope that is there, with what messages call it.
    fn of(&self, transport: &str, scopes: &[String]) -> (String, &[Requirement]) {
        if let Some(table) = self.transports.get(transport) {
            for scope in scopes {
                if let Some(found) = table.get(scope) {
                    let shown = if scope.is_empty() { transport.to_owned() } else { scope.clone() };
                    return (shown, found);
                }
            }
        }
        ("the default".to_owned(), &self.default)
    }
}

/// The scopes of an image, the closest first: itself, its repository, the namespaces above it, its
/// registry, patterns of that one's domain, all.
fn scopes(image: &Reference) -> Vec<String> {
    let repository = image.repository();
    let mut scopes = vec![image.to_string()];
    let full = repository.to_string();
    let mut rest = full.as_str();
    loop {
        scopes.push(rest.to_owned());
        match rest.rfind('/') {
            Some(at) => rest = &rest[..at],
            None => break,
        }
    }
    let mut domain = repository.host.as_str();
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes.push(String::new());
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Containers {
        let mut containers = Containers::default();
        containers.add_registries(text, Path::new("/r.conf")).unwrap();
        containers
    }

    fn name(text: &str) -> Reference {
        text.parse::<Reference>().unwrap().or_latest()
    }

    #[test]
    fn the_longest_prefix_says_where_an_image_is() {
        let containers = conf(
            r#"
            [[registry]]
            location = "docker.io"
            [[registry.mirror]]
            location = "mirror.example/hub"
            [[registry.mirror]]
            location = "digests.example"
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "docker.io/corp"
            location = "registry.example:5000/team"
            insecure = true
            [[registry]]
            prefix = "*.old.example"
            blocked = true
            "#,
        );
        let places = |name: &str, is_digest| -> Vec<String> {
            let places = containers.places(name, is_digest).unwrap();
            places.into_iter().map(|place| format!("{}/{}", place.name, place.path)).collect()
        };
        assert_eq!(
            places("docker.io/library/a", false),
            ["mirror.example/hub/library/a", "docker.io/library/a"]
        );
        assert_eq!(places("docker.io/library/a", true).len(), 3);
        assert_eq!(places("docker.io/corp/app", false), ["registry.example:5000/team/app"]);
        assert_eq!(containers.places("docker.io.evil/x", false), None);
        assert!(containers.is_insecure("registry.example:5000"));
        assert!(!containers.is_insecure("docker.io"));
        let ban = containers.ban(&name("a.old.example/x/y:1")).unwrap();
        assert_eq!(
            (ban.path.as_path(), &*ban.what),
            (Path::new("/r.conf"), "*.old.example is blocked")
        );
        assert_eq!(containers.ban(&name("old.example/x")), None);
    }

    #[test]
    fn later_files_replace_what_was_said_of_a_prefix() {
        let mut containers = conf(
            "[[registry]]\nprefix = \"a.example\"\nlocation = \"a.example\"\nblocked = true\n",
        );
        assert!(containers.ban(&name("a.example/x")).is_some());
        containers
            .add_registries("[[registry]]\nlocation = \"a.example\"\n", Path::new("/d.conf"))
            .unwrap();
        assert!(containers.ban(&name("a.example/x")).is_none());
        let lists = conf(
            "[registries.block]\nregistries = ['b.example']\n[registries.insecure]\nregistries = ['c.example']\n",
        );
        assert!(lists.ban(&name("b.example/x")).is_some() && lists.is_insecure("c.example"));
        for (text, what) in [
            ("[[registry]]\n", "neither prefix nor location"),
            ("[[registry]]\nprefix = \"*x\"\n", "pattern"),
            ("[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\n", "no location"),
            ("[[registry]\n", "line 1"),
        ] {
            let error =
                Containers::default().add_registries(text, Path::new("/r.conf")).unwrap_err();
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn short_names_stand_for_what_the_files_say() {
        let containers = conf("[aliases]\n\"tool\" = \"registry.example/team/tool\"\n");
        let long = |typed| containers.long_name(typed).unwrap();
        assert_eq!(long("tool:1").as_deref(), Some("registry.example/team/tool:1"));
        assert_eq!(long("tool").as_deref(), Some("registry.example/team/tool"));
        for typed in ["other", "docker.io/tool", "localhost/tool", "host:5000/tool", "a/tool"] {
            assert_eq!(long(typed), None, "{typed}");
        }
        let host = conf(
            "unqualified-search-registries = [\"a.example\"]\n[aliases]\nhost = \"b.example/x\"\n",
        );
        for typed in ["host:5000/tool", "localhost:5000/tool:1"] {
            assert_eq!(host.long_name(typed), Ok(None), "{typed}");
        }
        let one = conf("unqualified-search-registries = [\"registry.example\"]\n");
        assert_eq!(one.long_name("x:1").unwrap().as_deref(), Some("registry.example/x:1"));
        let hub = conf("unqualified-search-registries = [\"a.example\", \"docker.io\"]\n");
        assert_eq!(hub.long_name("x"), Ok(None));
        let two = conf("unqualified-search-registries = [\"a.example\", \"b.example\"]\n");
        assert!(two.long_name("x").unwrap_err().what.contains("a.example or b.example"));
    }

    #[test]
    fn the_closest_scope_of_a_policy_counts() {
        let mut containers = Containers::default();
        let text = r#"{"default": [{"type": "reject"}], "transports": {"docker": {
            "docker.io/library": [{"type": "insecureAcceptAnything"}],
            "docker.io/library/bad": [{"type": "reject"}],
            "docker.io/library/bad:fixed": [{"type": "insecureAcceptAnything"}],
            "signed.example": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
            "*.corp.example": [{"type": "insecureAcceptAnything"}]}}}"#;
        containers.set_policy(text, Path::new("/policy.json")).unwrap();
        for (image, what) in [
            ("good", None),
            ("bad", Some("docker.io/library/bad is \"reject\"")),
            ("bad:fixed", None),
            ("elsewhere.example/x", Some("the default is \"reject\"")),
            ("signed.example/x", Some("signatures are not verified")),
            ("a.corp.example/x/y", None),
            ("corp.example/x", Some("the default")),
        ] {
            let ban = containers.ban(&name(image));
            assert_eq!(ban.is_some(), what.is_some(), "{image}: {ban:?}");
            assert!(ban.is_none_or(|ban| ban.what.contains(what.unwrap())), "{image}");
        }
        assert!(Containers::default().set_policy("{}", Path::new("/p")).is_err());
    }
}
