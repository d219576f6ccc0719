//! Addresses of git repositories, with a place in the history and a directory.
//!
//! Source: BuildKit, frontend/dockerfile/dfgitutil.

use super::address::{Address, AddressError, Login, redact};
use crate::text::path::clean_below;

/// An address of a repository, a place in its history, and a directory of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitUrl {
    /// What git is given: no query, no fragment, no credentials.
    pub remote: String,
    /// The credentials that stood in the address.
    pub login: Option<Login>,
    /// Branch, tag, full reference or commit; `None` is the server's default branch.
    pub reference: Option<String>,
    /// Directory of the repository, without outer slashes; empty is all of it.
    pub subdir: String,
    /// `?checksum=`: what the commit must begin with.
    pub checksum: Option<String>,
    /// `?fetch-by-commit=`: the commit of `checksum` is fetched, and not what the reference names.
    pub by_commit: bool,
    /// `?mtime=commit`: files have the time of the commit, and not that of the checkout.
    pub commit_time: bool,
    /// `?keep-git-dir=`.
    pub keep_git_dir: Option<bool>,
    /// `?submodules=`; they are fetched unless it is false.
    pub submodules: Option<bool>,
}

impl GitUrl {
    /// Parses what may be an address of a repository: `None` when it is none, so that it is a path
    /// or a download.
    ///
    /// Repositories are `git://…`, `ssh://…`, `user@host:path`, and `http(s)://….git`, each with
    /// `?query` and `#reference:directory`.
    ///
    /// # Errors
    ///
    /// [`AddressError`] for a repository with a query that cannot be understood.
    pub fn parse(text: &str) -> Result<Option<Self>, AddressError> {
        let bad = |reason: String| AddressError { url: redact(text), reason };
        let Address { text: clean_text, login } = Address::parse(text);
        let text = clean_text.as_str();
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        let scheme = remote.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let is_git = match scheme.as_deref() {
            Some("git" | "ssh") => true,
            Some("http" | "https") => {
                remote.splitn(4, '/').nth(3).is_some_and(|path| path.as_bytes().ends_with(b".git"))
            }
            Some(_) => false,
            None => is_scp_style(remote),
        };
        if !is_git {
            return Ok(None);
        }
        if remote.starts_with('-') || remote.contains(|c: char| c.is_control()) {
            return Err(bad("an address does not begin with a dash".into()));
        }
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut url = Self {
            remote: remote.to_owned(),
            login,
            reference: (!reference.is_empty()).then(|| reference.to_owned()),
            subdir: clean_below(subdir),
            ..Self::default()
        };
        url.read_query(query).map_err(bad)?;
        if let Some(reference) = &url.reference
            && (reference.starts_with('-')
                || reference.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c))
                || reference.contains(".."))
        {
            return Err(bad(format!("{reference:?} is not the name of a branch, tag or commit")));
        }
        Ok(Some(url))
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let truth = |key: &str, value: &str| match value {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(format!("{value:?} is neither true nor false for {key}")),
        };
        let mut set_reference = |value: String| match &self.reference {
            Some(other) if *other != value => {
                Err(format!("both {other:?} and {value:?} are asked for"))
            }
            _ => {
                self.reference = Some(value);
                Ok(())
            }
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "ref" if !value.is_empty() => set_reference(value.to_owned())?,
                "tag" if !value.is_empty() => {
                    let name = value.strip_prefix("refs/tags/").unwrap_or(value);
                    set_reference(format!("refs/tags/{name}"))?;
                }
                "branch" if !value.is_empty() => {
                    let name = value.strip_prefix("refs/heads/").unwrap_or(value);
                    set_reference(format!("refs/heads/{name}"))?;
                }
                "subdir" if !value.is_empty() => {
                    let value = clean_below(value);
                    if !self.subdir.is_empty() && self.subdir != value {
                        return Err(format!("both {:?} and {value:?} are asked for", self.subdir));
                    }
                    self.subdir = value;
                }
                "checksum" | "commit" if !value.is_empty() => {
                    self.checksum = Some(value.to_owned());
                }
                "fetch-by-commit" => self.by_commit = truth(key, value)?,
                "mtime" => {
                    self.commit_time = match value {
                        "checkout" => false,
                        "commit" => true,
                        _ => {
                            return Err(format!("mtime is {value:?}: expected checkout or commit"));
                        }
                    }
                }
                "keep-git-dir" => self.keep_git_dir = Some(truth(key, value)?),
                "submodules" => self.submodules = Some(truth(key, value)?),
                "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" => {
                    return Err(format!("{key} has no value"));
                }
                _ => {
                    return Err(format!(
                        "unknown query {key:?}: expected ref, tag, branch, subdir, checksum, commit, \
                         fetch-by-commit, keep-git-dir, mtime or submodules"
                    ));
                }
            }
        }
        if self.by_commit {
            let is_whole = |commit: &String| {
                matches!(commit.len(), 40 | 64) && commit.bytes().all(|b| b.is_ascii_hexdigit())
            };
            if !self.checksum.as_ref().is_some_and(is_whole) {
                return Err("fetch-by-commit needs commit= with a full commit".to_owned());
            }
        }
        Ok(())
    }
}

/// Says whether text is `user@host:path`.
fn is_scp_style(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let is_word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    is_word(user, "-_") && is_word(host, "-.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_repositories_are_distinguished_from_paths_and_downloads() {
        let url = |remote: &str, reference: &str, subdir: &str| GitUrl {
            remote: remote.into(),
            reference: (!reference.is_empty()).then(|| reference.into()),
            subdir: subdir.into(),
            ..GitUrl::default()
        };
        let cases = [
            ("https://h/r.git", Some(url("https://h/r.git", "", ""))),
            ("https://h/r.git#v1", Some(url("https://h/r.git", "v1", ""))),
            ("https://h/r.git#v1:a/../b/", Some(url("https://h/r.git", "v1", "b"))),
            ("https://h/r.git#:/sub", Some(url("https://h/r.git", "", "sub"))),
            ("https://h/r.git?tag=v1&subdir=s", Some(url("https://h/r.git", "refs/tags/v1", "s"))),
            ("https://h/r.git?branch=b", Some(url("https://h/r.git", "refs/heads/b", ""))),
            ("git@h.example:o/r#main", Some(url("git@h.example:o/r", "main", ""))),
            ("ssh://git@h/r", Some(url("ssh://git@h/r", "", ""))),
            ("git://h/r", Some(url("git://h/r", "", ""))),
            ("https://h/file.tar", None),
            ("https://h/r.git/file", None),
            ("./r.git", None),
            ("dir", None),
            ("", None),
            ("file:///r.git", None),
            ("a@b", None),
        ];
        for (text, expected) in cases {
            assert_eq!(GitUrl::parse(text).unwrap(), expected, "{text}");
        }
        let kept = GitUrl::parse("https://h/r.git?keep-git-dir&submodules=false&commit=abc")
            .unwrap()
            .unwrap();
        assert_eq!(
            (kept.keep_git_dir, kept.submodules, kept.checksum.as_deref()),
            (Some(true), Some(false), Some("abc"))
        );
    }

    #[test]
    fn what_git_could_misread_is_refused() {
        for text in [
            "https://h/r.git#--upload-pack=x",
            "https://h/r.git#a..b",
            "https://h/r.git#a b",
            "https://h/r.git?ref=-x",
            "https://h/r.git?unknown=1",
            "https://h/r.git?ref=",
            "https://h/r.git?ref=a#b",
            "https://h/r.git?submodules=maybe",
            "git://h/r\n.git",
        ] {
            assert!(matches!(GitUrl::parse(text), Err(AddressError { .. })), "{text}");
        }
    }
}
