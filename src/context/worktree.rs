//! The git working tree around a directory: its root, its commit, where it was cloned from.
//!
//! The files of `.git` are read; git is not run. So nothing is run that a repository's configuration
//! names, git need not be there, and a build starts no further process for it. What other
//! configuration of the machine says, such as `insteadOf`, has no effect: the same checkout gives
//! the same facts anywhere.
//!
//! # Not here
//!
//! Fetching a repository: [`remote`](super::remote). Whether the tree has changes that are not
//! committed needs git: [`is_dirty`](super::remote::is_dirty).
//!
//! Source: gitrepository-layout(5); git-config(1), "Syntax"; docker/buildx, `util/gitutil`.

use crate::sys::foreign;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes of `HEAD`, of a reference and of the files that lead from one directory to another.
const LINE_MAX: u64 = 4096;

/// Most bytes of a repository's configuration.
const CONFIG_MAX: u64 = 1 << 20;

/// Most bytes of `packed-refs`: that of the largest public repositories is a tenth of it.
const PACKED_MAX: u64 = 256 << 20;

/// Most symbolic references behind each other, as in git.
const SYMREF_DEPTH: usize = 5;

/// A git working tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkTree {
    /// The directory with `.git` in it.
    pub root: PathBuf,
    /// The directory that was asked about, in it; both without links.
    pub dir: PathBuf,
    /// The commit that is checked out, in full; `None` before the first one.
    pub commit: Option<String>,
    /// The address it was cloned from, without credentials.
    pub remote: Option<String>,
    /// The directory of the working tree's own files: `HEAD`, `index`.
    pub git_dir: PathBuf,
    /// The directory with what working trees share: objects, references.
    pub common_dir: PathBuf,
    config: Vec<Entry>,
}

impl WorkTree {
    /// Finds the working tree that `dir` lies in. `None` where there is none,
    /// where its files cannot be read as git writes them, and where it belongs to another user than
    /// `dir` and than the one who builds: then `dir` was put below a stranger's repository.
    pub fn around(dir: &Path) -> Option<Self> {
        let opened = File::open(dir).ok()?;
        let owner = opened.metadata().ok()?.uid();
        let dir = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()?;
        let root = dir.ancestors().find(|dir| dir.join(".git").symlink_metadata().is_ok())?;
        let link = root.join(".git");
        let facts = fs::metadata(&link).ok()?;
        if facts.uid() != owner && facts.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let git_dir = if facts.is_dir() {
            link
        } else {
            // Of a linked working tree or a submodule: a file that names the directory.
            root.join(line_of(&link)?.strip_prefix("gitdir:")?.trim())
        };
        let common = match line_of(&git_dir.join("commondir")) {
            Some(path) => git_dir.join(path),
            None => git_dir.clone(),
        };
        let head = line_of(&git_dir.join("HEAD"))?;
        let branch = head.strip_prefix("ref:").map(|name| name.trim().to_owned());
        let config = foreign::read_at(&common.join("config"), CONFIG_MAX).unwrap_or_default();
        let config = entries(&String::from_utf8_lossy(&config));
        Some(Self {
            root: root.to_owned(),
            dir: dir.clone(),
            commit: commit_of(&git_dir, &common, head),
            remote: remote_of(&config, branch.as_deref()),
            git_dir,
            common_dir: common,
            config,
        })
    }

    /// Returns a value of the repository's own configuration, from a section without a name.
    pub(super) fn setting(&self, section: &str, key: &str) -> Option<String> {
        let is_wanted =
            |entry: &&Entry| &*entry.section == section && entry.name.is_none() && entry.key == key;
        self.config.iter().rev().find(is_wanted).map(|entry| entry.value.clone())
    }
}

/// Returns the only line of a small file.
fn line_of(path: &Path) -> Option<String> {
    let text = String::from_utf8(foreign::read_at(path, LINE_MAX).ok()?).ok()?;
    Some(text.trim().to_owned())
}

/// Follows `HEAD` to its commit.
fn commit_of(git_dir: &Path, common: &Path, head: String) -> Option<String> {
    let mut value = head;
    for _ in 0..SYMREF_DEPTH {
        let Some(name) = value.strip_prefix("ref:") else { return hash(&value) };
        let name = name.trim().to_owned();
        let is_plain = name.starts_with("refs/")
            && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
            && !name.contains(|c: char| c.is_control());
        if !is_plain {
            return None;
        }
        match line_of(&git_dir.join(&name)).or_else(|| line_of(&common.join(&name))) {
            Some(next) => value = next,
            None => return packed(common, &name),
        }
    }
    None
}

fn hash(text: &str) -> Option<String> {
    let is_hash = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hash.then(|| text.to_ascii_lowercase())
}

/// Finds a reference in `packed-refs`.
fn packed(common: &Path, name: &str) -> Option<String> {
    let bytes = foreign::read_at(&common.join("packed-refs"), PACKED_MAX).ok()?;
    let mut lines = bytes.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.find_map(|line| {
        let (commit, of) = line.split_once(' ')?;
        (of.trim_end() == name).then(|| hash(commit)).flatten()
    })
}

/// Returns the address of the remote that the branch follows; else that of `origin`, else that of
/// `upstream`.
fn remote_of(entries: &[Entry], branch: Option<&str>) -> Option<String> {
    let get = |section: &str, name: &str, key: &str| {
        let is_wanted = |entry: &&Entry| {
            &*entry.section == section && entry.name.as_deref() == Some(name) && entry.key == key
        };
        entries.iter().find(is_wanted).map(|entry| entry.value.clone())
    };
    let branch = branch.and_then(|branch| branch.strip_prefix("refs/heads/"));
    let followed = branch.and_then(|branch| get("branch", branch, "remote"));
    let names = followed.into_iter().chain(["origin".to_owned(), "upstream".to_owned()]);
    let url = names.filter_map(|name| get("remote", &name, "url")).find(|url| !url.is_empty())?;
    let is_line = url.len() as u64 <= LINE_MAX && !url.contains(|c: char| c.is_control());
    is_line.then(|| without_login(&url))
}

/// Takes name and password out of an address; the name stays where it belongs to the address, which
/// is with ssh alone.
fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let Some((login, host)) = host.rsplit_once('@') else { return url.to_owned() };
    // Before the scheme there may be the name of a program that speaks it: `helper::scheme`.
    let spoken = scheme.rsplit("::").next().unwrap_or(scheme);
    let is_ssh = ["ssh", "git+ssh", "ssh+git"].iter().any(|ssh| spoken.eq_ignore_ascii_case(ssh));
    match login.split(':').next() {
        Some(user) if is_ssh => format!("{scheme}://{user}@{host}{path}"),
        _ => format!("{scheme}://{host}{path}"),
    }
}

/// A line of a configuration. The lines of a section share its names: a file may have long ones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    section: Arc<str>,
    name: Option<Arc<str>>,
    key: String,
    value: String,
}

/// The names of a section.
type Header = (Arc<str>, Option<Arc<str>>);

/// Reads a configuration as git does. Files that it includes are not read.
fn entries(text: &str) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut section: Option<Header> = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim_start();
        if let Some(header) = line.strip_prefix('[') {
            section = None;
            let Some((head, rest)) = header_of(header) else { continue };
            (section, line) = (Some(head), rest.trim_start());
        }
        let (Some((section, name)), false) =
            (&section, line.is_empty() || line.starts_with(['#', ';']))
        else {
            continue;
        };
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, value_of(value, &mut lines)),
            None => (line, "true".to_owned()),
        };
        found.push(Entry {
            section: section.clone(),
            name: name.clone(),
            key: key.trim().to_ascii_lowercase(),
            value,
        });
    }
    found
}

/// Reads `section "name"]`; returns that and what follows it.
fn header_of(text: &str) -> Option<(Header, &str)> {
    let end = text.find(['"', ']'])?;
    let section = text[..end].trim().to_ascii_lowercase();
    if text.as_bytes()[end] == b']' {
        return Some(((section.into(), None), &text[end + 1..]));
    }
    let (mut name, mut chars) = (String::new(), text[end + 1..].char_indices());
    loop {
        match chars.next()? {
            (_, '\\') => name.push(chars.next()?.1),
            (at, '"') => {
                let rest = text[end + 1 + at + 1..].trim_start().strip_prefix(']')?;
                return Some(((section.into(), Some(name.into())), rest));
            }
            (_, c) => name.push(c),
        }
    }
}

/// Reads a value: quotes, escapes, comments, lines that a backslash continues.
fn value_of<'t>(first: &'t str, more: &mut impl Iterator<Item = &'t str>) -> String {
    let (mut value, mut kept, mut is_quoted) = (String::new(), 0, false);
    let mut line = first.trim_start();
    'lines: loop {
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => is_quoted = !is_quoted,
                '#' | ';' if !is_quoted => break 'lines,
                '\\' => match chars.next() {
                    Some('n') => value.push('\n'),
                    Some('t') => value.push('\t'),
                    Some(other) => value.push(other),
                    None => match more.next() {
                        Some(next) => {
                            line = next;
                            continue 'lines;
                        }
                        None => break 'lines,
                    },
                },
                c => value.push(c),
            }
            // Blanks at the end count only in quotes.
            if is_quoted || !c.is_whitespace() {
                kept = value.len();
            }
        }
        break;
    }
    value.truncate(kept);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A directory with a repository in it, made of these files of `.git`.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(".git").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn found(files: &[(&str, &str)]) -> WorkTree {
        WorkTree::around(tree(files).path()).unwrap()
    }

    #[test]
    fn the_commit_is_found_loose_packed_and_detached() {
        let branch = ("HEAD", "ref: refs/heads/a/b\n");
        let of = |files: &[(&str, &str)]| found(files).commit;
        let loose = format!("{COMMIT}\n");
        assert_eq!(of(&[("HEAD", &loose)]).as_deref(), Some(COMMIT));
        assert_eq!(of(&[branch, ("refs/heads/a/b", &loose)]).as_deref(), Some(COMMIT));
        let packed = format!(
            "# pack-refs with: peeled\n{} refs/heads/a\n{COMMIT} refs/heads/a/b\n^{COMMIT}\n",
            "1".repeat(40)
        );
        assert_eq!(of(&[branch, ("packed-refs", &packed)]).as_deref(), Some(COMMIT));
        assert_eq!(of(&[branch]), None, "no commit yet");
    }

    #[test]
    fn a_head_that_leads_elsewhere_has_no_commit() {
        for head in ["ref: refs/../../secret", "ref: /etc/passwd", "ref: refs/heads/.x", "words"] {
            assert_eq!(found(&[("HEAD", head), ("secret", COMMIT)]).commit, None, "{head}");
        }
        let circle = [("HEAD", "ref: refs/heads/a"), ("refs/heads/a", "ref: refs/heads/a")];
        assert_eq!(found(&circle).commit, None);
    }

    #[test]
    fn a_linked_tree_has_its_own_head_and_the_branches_of_the_other() {
        let dir = tree(&[
            ("HEAD", "ref: refs/heads/main"),
            ("refs/heads/side", COMMIT),
            ("config", "[remote \"origin\"]\n url = https://h/r\n"),
            ("worktrees/w/HEAD", "ref: refs/heads/side"),
            ("worktrees/w/commondir", "../.."),
        ]);
        let linked = dir.path().join("linked");
        fs::create_dir_all(linked.join("deep/er")).unwrap();
        fs::write(linked.join(".git"), "gitdir: ../.git/worktrees/w\n").unwrap();
        let found = WorkTree::around(&linked.join("deep/er")).unwrap();
        assert_eq!(found.root, linked);
        assert_eq!(found.commit.as_deref(), Some(COMMIT));
        assert_eq!(found.remote.as_deref(), Some("https://h/r"));
    }

    #[test]
    fn the_remote_is_that_of_the_branch_then_origin_then_upstream() {
        let of =
            |config: &str| found(&[("HEAD", "ref: refs/heads/main"), ("config", config)]).remote;
        let three = "[remote \"upstream\"]\n\turl = u\n[Remote \"origin\"]\n\tURL = o\n[remote \"mine\"]\n\turl = m\n";
        assert_eq!(of(three).as_deref(), Some("o"));
        let follows = format!("{three}[branch \"main\"]\n\tremote = mine\n");
        assert_eq!(of(&follows).as_deref(), Some("m"));
        assert_eq!(of("[remote \"upstream\"]\n\turl = u\n").as_deref(), Some("u"));
        assert_eq!(of("[core]\n\tbare = false\n"), None);
        assert_eq!(of("[remote \"origin\"]\n url = \"a b\" # c\n").as_deref(), Some("a b"));
        assert_eq!(
            of("[remote \"origin\"] url = https:\\\n//h/r ; c\n").as_deref(),
            Some("https://h/r")
        );
    }

    #[test]
    fn credentials_are_left_out_of_an_address() {
        for (url, want) in [
            ("https://me:secret@h/r", "https://h/r"),
            ("https://token@h/r@1", "https://h/r@1"),
            ("ssh://git:pw@h:22/r", "ssh://git@h:22/r"),
            ("git@h:o/r.git", "git@h:o/r.git"),
            ("https://h/r", "https://h/r"),
            ("HTTPS://me:secret@h/r", "HTTPS://h/r"),
            ("ftp://me:secret@h/r", "ftp://h/r"),
            ("hg::https://token@h/r", "hg::https://h/r"),
            ("git+ssh://git:pw@h/r", "git+ssh://git@h/r"),
            ("unknown://token@h/r", "unknown://h/r"),
        ] {
            assert_eq!(without_login(url), want);
        }
    }

    #[test]
    fn the_lines_of_a_section_share_its_names() {
        let name = "n".repeat(500_000);
        let text = format!("[remote \"{name}\"]\n{}", "k\n".repeat(250_000));
        let entries = entries(&text);
        assert_eq!(entries.len(), 250_000);
        let first = entries[0].name.clone().unwrap();
        assert!(entries.iter().all(|entry| Arc::ptr_eq(entry.name.as_ref().unwrap(), &first)));
    }

    #[test]
    fn what_is_not_a_file_is_not_read() {
        let dir = tree(&[("config", "")]);
        let head = dir.path().join(".git/HEAD");
        rustix::fs::mkfifoat(rustix::fs::CWD, &head, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(WorkTree::around(dir.path()), None);
        assert_eq!(WorkTree::around(Path::new("/proc/self")), None);
    }
}
