//! `registries.toml`: mirrors, names that are rewritten, TLS, plain HTTP, limits.
//!
//! ```toml
//! stall-seconds = 60            # how long a server may be silent
//! slowest-bytes = 1024          # a second, over stall-seconds: less counts as silence
//! tries = 5                     # how often a request is made before it fails
//!
//! [registry."docker.io"]        # a host, or a host and the beginning of a path
//! mirrors = ["mirror.example.com/hub"]
//! mirrors-only = true           # pulls ask no other; pushes go to the registry itself
//! location = "other.example.com/prefix"   # what the key is replaced with
//! http = true                   # plain HTTP, and nothing else
//! insecure = true               # any certificate, and plain HTTP where TLS is not spoken
//! ca = ["corp.pem"]             # relative to the file
//! keypair = [{ cert = "client.pem", key = "client.key" }]
//! ```
//!
//! The tables are those of BuildKit's `buildkitd.toml`, and `location` is that of
//! containers-registries.conf. docs/registries.md is the page for users.

use super::containers::Containers;
use super::pace::Limit;
use super::tls::{self, Roots};
use super::{Repository, is_loopback};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The host that serves the images of `docker.io`.
const HUB: &str = "registry-1.docker.io";

/// How long a server may send nothing, unless settings say otherwise.
const STALL: Duration = Duration::from_mins(1);

/// How many bytes a second are to come, unless settings say otherwise: a modem of 1990 has as many.
const SLOWEST: u64 = 1024;

/// How often a request is made, unless settings say otherwise.
const TRIES: u32 = 5;

/// The first pause before a request is made again; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);

/// A `registries.toml` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct SettingsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, with the place.
    pub what: String,
}

/// How registries are reached. [`Settings::default`] has no exceptions for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a server may send nothing.
    pub stall: Duration,
    /// How many bytes a server is to send or take in each second, over a `stall` on average.
    pub slowest: u64,
    /// How often a request is made before it fails; at least 1.
    pub tries: u32,
    /// The first pause between two tries.
    pub pause: Duration,
    /// Proxies, as the environment names them.
    pub proxies: Proxies,
    /// Certificates that replace the built-in list.
    pub roots: Roots,
    /// Directories with a directory of certificates for each host, as `/etc/docker/certs.d`; the
    /// first that has one for a host counts, unless `registries.toml` says something of that host's
    /// TLS.
    pub host_directories: Vec<PathBuf>,
    /// What `registries.conf` and `policy.json` say. Of one image, a table of `registries.toml` counts
    /// before a table there; what is forbidden there stays forbidden.
    pub containers: Containers,
    hosts: BTreeMap<String, HostSettings>,
    /// Whether any certificate of any host is taken.
    is_unverified: bool,
}

/// Proxies by the scheme of what is asked for, as addresses; hosts that are reached directly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Host names, suffixes with a leading dot, or `*`.
    pub exceptions: Vec<String>,
}

impl Proxies {
    /// Returns the proxy for an address. This machine is always reached directly.
    pub(super) fn of(&self, is_tls: bool, authority: &str) -> Option<&str> {
        let proxy = if is_tls { &self.https } else { &self.http };
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let is_exception = |rule: &String| {
            let rule = rule.trim().trim_start_matches('*');
            let suffix = rule.trim_start_matches('.');
            rule.is_empty() && !suffix.is_empty()
                || host.eq_ignore_ascii_case(suffix)
                || authority.eq_ignore_ascii_case(suffix)
                || !suffix.is_empty()
                    && host
                        .to_ascii_lowercase()
                        .ends_with(&format!(".{}", suffix.to_ascii_lowercase()))
        };
        let is_direct = is_loopback(authority)
            || self.exceptions.iter().any(|rule| rule.trim() == "*" || is_exception(rule));
        proxy.as_deref().filter(|proxy| !is_direct && !proxy.is_empty())
    }
}

/// What is special about a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostSettings {
    pub(super) mirrors: Vec<String>,
    /// Whether pulls ask the mirrors alone.
    is_of_mirrors: bool,
    pub(super) location: Option<String>,
    pub(super) is_plain: bool,
    pub(super) is_insecure: bool,
    pub(super) authorities: Vec<PathBuf>,
    /// Certificate and key that we show.
    pub(super) keypair: Option<(PathBuf, PathBuf)>,
}

/// Where the images of a repository are: a host to talk to and a path there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    /// The host as settings and credentials know it.
    pub(super) name: String,
    /// Whether `http://` was written in front of it.
    pub(super) is_plain: bool,
    pub(super) path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    stall_seconds: Option<u64>,
    slowest_bytes: Option<u64>,
    tries: Option<u32>,
    #[serde(default)]
    registry: BTreeMap<String, Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default, rename = "mirrors-only")]
    mirrors_only: bool,
    location: Option<String>,
    #[serde(default)]
    http: bool,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    ca: Vec<PathBuf>,
    #[serde(default)]
    keypair: Vec<Keypair>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keypair {
    cert: PathBuf,
    key: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stall: STALL,
            slowest: SLOWEST,
            tries: TRIES,
            pause: PAUSE,
            proxies: Proxies::default(),
            roots: Roots::default(),
            host_directories: Vec::new(),
            containers: Containers::default(),
            hosts: BTreeMap::new(),
            is_unverified: false,
        }
    }
}

impl Settings {
    /// Adds the text of a `registries.toml`. Its tables replace those of the same name.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for what is no such file, naming the line; nothing is added then.
    pub fn add(&mut self, text: &str, path: &Path) -> Result<(), SettingsError> {
        let bad = |what: String| SettingsError { path: path.to_owned(), what };
        let file: File = toml::from_str(text).map_err(|e| bad(e.to_string().trim().to_owned()))?;
        if file.tries == Some(0) || file.stall_seconds == Some(0) {
            return Err(bad("tries and stall-seconds are at least 1".to_owned()));
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut hosts = BTreeMap::new();
        for (key, table) in file.registry {
            let places = table.mirrors.iter().chain(&table.location).chain([&key]);
            for place in places {
                if host_and_path(strip_scheme(place).0).0.is_empty() {
                    return Err(bad(format!("{place:?} names no host")));
                }
            }
            let mut pairs = table.keypair.into_iter();
            let keypair =
                pairs.next().map(|pair| (directory.join(pair.cert), directory.join(pair.key)));
            if pairs.next().is_some() {
                return Err(bad(format!("registry {key:?} has several keypairs: one can be used")));
            }
            let settings = HostSettings {
                is_of_mirrors: table.mirrors_only && !table.mirrors.is_empty(),
                mirrors: table.mirrors,
                location: table.location,
                is_plain: table.http,
                is_insecure: table.insecure,
                authorities: table.ca.iter().map(|path| directory.join(path)).collect(),
                keypair,
            };
            hosts.insert(key.trim_end_matches('/').to_owned(), settings);
        }
        self.hosts.extend(hosts);
        if let Some(seconds) = file.stall_seconds {
            self.stall = Duration::from_secs(seconds);
        }
        if let Some(bytes) = file.slowest_bytes {
            self.slowest = bytes;
        }
        if let Some(tries) = file.tries {
            self.tries = tries;
        }
        Ok(())
    }

    /// Returns the least that a server is to send.
    pub(super) fn limit(&self) -> Limit {
        Limit { stall: self.stall, slowest: self.slowest }
    }

    /// Takes any certificate of any host.
    #[must_use]
    pub fn unverified(mut self) -> Self {
        self.is_unverified = true;
        self
    }

    /// Returns what is special about a host.
    pub(super) fn host(&self, name: &str) -> HostSettings {
        let table = if name == HUB { "docker.io" } else { name };
        let found = self.hosts.get(name).or_else(|| self.hosts.get(table));
        let mut host = found.cloned().unwrap_or_default();
        host.is_insecure |= self.is_unverified || self.containers.is_insecure(table);
        let says_nothing = host.authorities.is_empty() && host.keypair.is_none();
        if says_nothing && !host.is_plain && !host.is_insecure {
            tls::add_directory_of(&mut host, &self.host_directories, table);
        }
        host
    }

    /// Returns where a repository is pulled from: its [places](Self::places), without its own where
    /// only mirrors are to be asked.
    pub(super) fn places_to_pull(&self, repository: &Repository, is_digest: bool) -> Vec<Location> {
        let mut places = self.places(repository, is_digest);
        let table = self.table_of(&repository.to_string());
        if table.is_some_and(|(_, settings)| settings.is_of_mirrors) {
            places.pop();
        }
        places
    }

    /// Returns the table that says where the images of a repository are.
    fn table_of(&self, full: &str) -> Option<(&String, &HostSettings)> {
        self.hosts
            .iter()
            .filter(|(key, settings)| {
                (settings.location.is_some() || !settings.mirrors.is_empty())
                    && full.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('/'))
            })
            .max_by_key(|(key, _)| key.len())
    }

    /// Returns where a repository is: mirrors first, its own place last, which is where it is pushed
    /// to. `is_digest` says whether an image is asked for by its digest.
    pub(super) fn places(&self, repository: &Repository, is_digest: bool) -> Vec<Location> {
        let full = repository.to_string();
        let Some((key, settings)) = self.table_of(&full) else {
            if let Some(places) = self.containers.places(&full, is_digest) {
                return places;
            }
            let (name, path) = (repository.host.clone(), repository.path.clone());
            return vec![Location { name, is_plain: false, path }];
        };
        let rest = full[key.len()..].trim_start_matches('/');
        let mirrors = settings.mirrors.iter().map(String::as_str);
        let own = settings.location.as_deref().unwrap_or(key);
        mirrors
            .chain([own])
            .map(|base| {
                let (base, is_plain) = strip_scheme(base);
                let (host, prefix) = host_and_path(base);
                let path =
                    if prefix.is_empty() { rest.to_owned() } else { format!("{prefix}/{rest}") };
                Location { name: host.to_owned(), is_plain, path }
            })
            .collect()
    }
}

/// Returns the host to connect to for the name of one.
pub(super) fn authority(name: &str) -> &str {
    match name {
        "docker.io" | "index.docker.io" => HUB,
        name => name,
    }
}

/// Takes `https://` or `http://` away; returns whether it was the latter.
fn strip_scheme(text: &str) -> (&str, bool) {
    match text.strip_prefix("http://") {
        Some(rest) => (rest, true),
        None => (text.strip_prefix("https://").unwrap_or(text), false),
    }
}

fn host_and_path(text: &str) -> (&str, &str) {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    (host, path.trim_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        settings.add(text, Path::new("/etc/builder/registries.toml")).unwrap();
        settings
    }

    fn places(settings: &Settings, host: &str, path: &str) -> Vec<String> {
        let repository = Repository { host: host.to_owned(), path: path.to_owned() };
        let places = settings.places(&repository, false).into_iter();
        places
            .map(|p| format!("{}{}/{}", if p.is_plain { "plain " } else { "" }, p.name, p.path))
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_the_longest_key_counts() {
        let settings = settings(
            r#"
            [registry."docker.io"]
            mirrors = ["http://127.0.0.1:5000", "mirror.example/hub/"]
            [registry."docker.io/corp"]
            location = "registry.example/team"
            [registry."old.example"]
            location = "new.example:444"
            "#,
        );
        assert_eq!(
            places(&settings, "docker.io", "library/a"),
            [
                "plain 127.0.0.1:5000/library/a",
                "mirror.example/hub/library/a",
                "docker.io/library/a"
            ]
        );
        assert_eq!(places(&settings, "docker.io", "corp/app"), ["registry.example/team/app"]);
        assert_eq!(places(&settings, "docker.io", "corporate/app").len(), 3);
        assert_eq!(places(&settings, "old.example", "a"), ["new.example:444/a"]);
        assert_eq!(places(&settings, "else.example", "a/b"), ["else.example/a/b"]);
        let settings =
            self::settings("[registry.\"a.example\"]\nmirrors = [\"m\"]\nmirrors-only = true\n");
        let repository = Repository { host: "a.example".to_owned(), path: "b".to_owned() };
        let pulled = settings.places_to_pull(&repository, false);
        assert_eq!(pulled.iter().map(|place| &place.name[..]).collect::<Vec<_>>(), ["m"]);
        assert_eq!(places(&settings, "a.example", "b").last().unwrap(), "a.example/b", "pushes");
        assert_eq!(authority("docker.io"), "registry-1.docker.io");
    }

    #[test]
    fn files_are_relative_to_the_settings_and_later_tables_win() {
        let mut settings = settings(
            r#"
            tries = 2
            [registry."a.example"]
            ca = ["a.pem", "/abs.pem"]
            keypair = [{ cert = "c.pem", key = "k.pem" }]
            "#,
        );
        let host = settings.host("a.example");
        assert_eq!(host.authorities, [Path::new("/etc/builder/a.pem"), Path::new("/abs.pem")]);
        assert_eq!(host.keypair.unwrap().1, Path::new("/etc/builder/k.pem"));
        settings.add("[registry.\"a.example\"]\nhttp = true\n", Path::new("/x.toml")).unwrap();
        assert!(settings.host("a.example").is_plain);
        assert!(settings.host("a.example").authorities.is_empty());
        assert_eq!(settings.tries, 2);
    }

    #[test]
    fn what_is_misspelt_is_refused_with_its_line() {
        for (text, what) in [
            ("[registry.\"a\"]\nmirror = []\n", "line 2"),
            ("tries = 0", "at least 1"),
            ("[registry.\"a\"]\nmirrors = [\"https:///x\"]", "names no host"),
            ("[registry", "line 1"),
        ] {
            let error = Settings::default().add(text, Path::new("/r.toml")).unwrap_err();
            assert!(error.to_string().contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn proxies_are_for_what_is_elsewhere() {
        let proxies = Proxies {
            http: None,
            https: Some("http://proxy.example:3128".to_owned()),
            exceptions: [".corp.example", "direct.example"].map(str::to_owned).to_vec(),
        };
        assert!(proxies.of(true, "ghcr.io").is_some());
        assert!(proxies.of(false, "ghcr.io").is_none());
        for host in ["127.0.0.1:5000", "a.corp.example:444", "direct.example"] {
            assert!(proxies.of(true, host).is_none(), "{host}");
        }
        assert!(proxies.of(true, "notdirect.example").is_some());
        let all = Proxies { exceptions: vec!["*".to_owned()], ..proxies };
        assert!(all.of(true, "ghcr.io").is_none());
    }
}
