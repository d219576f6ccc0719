//! What a build reads from elsewhere, under the names that policies have for it.

use crate::dockerfile::address::Address;
use crate::dockerfile::git_url::GitUrl;
use crate::oci::Reference;
use std::collections::BTreeMap;

const IMAGE: &str = "docker-image://";
const GIT: &str = "git://";
const LOCAL: &str = "local://";

/// The attribute with the digest that a download has to have.
const CHECKSUM: &str = "http.checksum";
/// The attribute with the address that git is given.
const FULL_URL: &str = "git.fullurl";

/// A source, as BuildKit's policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `docker-image://NAME`, `https://…`, `git://HOST/PATH#REF:DIR`, `local://NAME`.
    pub identifier: String,
    /// `http.checksum`, `git.fullurl`.
    pub attributes: BTreeMap<String, String>,
}

impl Source {
    fn new(identifier: String) -> Self {
        Self { identifier, attributes: BTreeMap::new() }
    }

    /// An image of a registry, by its full name.
    pub fn image(name: &Reference) -> Self {
        Self::new(format!("{IMAGE}{name}"))
    }

    /// A directory that the user gave: `context`, or the name of one of `--build-context`.
    pub fn local(name: &str) -> Self {
        Self::new(format!("{LOCAL}{name}"))
    }

    /// A download, and the digest it has to have.
    pub fn download(address: &Address, checksum: Option<&str>) -> Self {
        let mut source = Self::new(address.text.clone());
        let checksum = checksum.map(|digest| (CHECKSUM.to_owned(), digest.to_owned()));
        source.attributes.extend(checksum);
        source
    }

    /// A git repository.
    pub fn git(url: &GitUrl) -> Self {
        let bare = url.remote.split_once("://").map_or(&*url.remote, |(_, rest)| rest);
        let (host, path) = match (url.remote.contains("://"), bare.split_once(':')) {
            // USER@HOST:PATH
            (false, Some((host, path))) => (host, path),
            _ => bare.split_once('/').unwrap_or((bare, "")),
        };
        let host = host.rsplit('@').next().unwrap_or(host);
        let mut identifier = format!("{GIT}{host}/{}", path.trim_start_matches('/'));
        if url.reference.is_some() || !url.subdir.is_empty() {
            identifier.push('#');
            identifier.push_str(url.reference.as_deref().unwrap_or_default());
        }
        if !url.subdir.is_empty() {
            identifier.push(':');
            identifier.push_str(&url.subdir);
        }
        let mut source = Self::new(identifier);
        source.attributes.insert(FULL_URL.to_owned(), url.remote.clone());
        source
    }

    /// Returns the image that this is.
    pub fn to_image(&self) -> Option<Reference> {
        let name = self.identifier.strip_prefix(IMAGE)?.parse::<Reference>().ok()?;
        Some(name.or_latest())
    }

    /// Returns the address that this is, and the digest that a download has to have.
    pub fn to_address(&self) -> (Address, Option<String>) {
        let checksum = self.attributes.get(CHECKSUM).cloned();
        let text = match self.identifier.strip_prefix(GIT) {
            Some(rest) => {
                let fragment = rest.find('#').map_or("", |at| &rest[at..]);
                let bare = &rest[..rest.len() - fragment.len()];
                let remote = self.attributes.get(FULL_URL).cloned();
                format!("{}{fragment}", remote.unwrap_or_else(|| format!("https://{bare}")))
            }
            None => self.identifier.clone(),
        };
        (Address::parse(&text), checksum)
    }

    /// Takes the address that git is given away where this has become another repository, unless the rule
    /// says a new one.
    pub(super) fn forget_address_of(&mut self, before: &Self, given: &BTreeMap<String, String>) {
        let repository =
            |source: &Self| source.identifier.split('#').next().unwrap_or_default().to_owned();
        if repository(self) != repository(before) && !given.contains_key(FULL_URL) {
            self.attributes.remove(FULL_URL);
        }
    }

    fn kind(&self) -> &str {
        let scheme = self.identifier.split_once("://").map_or("", |(scheme, _)| scheme);
        if scheme == "http" { "https" } else { scheme }
    }

    /// Checks that a build can read this in the place of another source.
    pub(super) fn check_instead_of(&self, other: &Self) -> Result<(), String> {
        let identifier = &self.identifier;
        if self.kind() != other.kind() || self.kind() == "local" && self != other {
            return Err(format!("{identifier} cannot stand in its place"));
        }
        if self.kind() == "docker-image" && self.to_image().is_none() {
            return Err(format!("{identifier} is not the name of an image"));
        }
        let known: &[&str] = match self.kind() {
            "https" => &[CHECKSUM],
            "git" => &[FULL_URL],
            _ => &[],
        };
        match self.attributes.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(format!("the attribute {key} is not known of such a source")),
            None => Ok(()),
        }
    }
}
