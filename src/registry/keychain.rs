//! Credentials where docker and podman keep them: configuration files and credential helpers.
//!
//! A file is `~/.docker/config.json` or podman's `auth.json`: `credHelpers` names a program per
//! registry, `credsStore` one for all, `auths` holds what is in the file itself. The files are
//! asked in order; in each the helpers come first. Nothing is asked before a registry wants to
//! know who we are.
//!
//! Source: Docker's CLI, "Credential stores"; containers-auth.json(5).

use super::{Credentials, RegistryError, docker_file};
use serde_json::{Map, Value, json};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What docker files the credentials of `docker.io` under.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The longest message of a helper that is quoted, in characters.
const SAID_MAX: usize = 200;

/// Where credentials are looked for, and where new ones go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keychain {
    /// Files in the order they are asked; those that do not exist are passed over.
    pub files: Vec<PathBuf>,
    /// The file that `login` writes, or whose helpers it uses; `None` where there is no home.
    pub target: Option<PathBuf>,
}

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// With a credential helper.
    Helper(String),
    /// In a file, unencrypted.
    File(PathBuf),
}

impl Keychain {
    /// Finds the credentials for a registry, by the host in image names, and a repository of it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`] for a damaged file, [`RegistryError::Helper`] for a helper that
    /// fails otherwise than by having none.
    pub fn find(&self, host: &str, path: &str) -> Result<Option<Credentials>, RegistryError> {
        for file in &self.files {
            let Some(document) = docker_file::read(file)? else { continue };
            if let Some(helper) = helper_of(&document, host)
                && let Some(found) = ask(helper, host)?
            {
                return Ok(Some(found));
            }
            if let Some(found) = in_file(&document, host, path) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Keeps the credentials for a registry: with the helper that the target file names, else in
    /// it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`], [`RegistryError::Helper`]; the file is as it was then.
    pub fn save(&self, host: &str, user: &str, secret: &str) -> Result<Saved, RegistryError> {
        let path = self.target()?;
        let mut document = docker_file::read(path)?.unwrap_or_else(|| json!({}));
        if let Some(helper) = helper_of(&document, host) {
            let request = json!({"ServerURL": key_of(host), "Username": user, "Secret": secret});
            run(helper, "store", &request.to_string())?;
            return Ok(Saved::Helper(helper.to_owned()));
        }
        let entry = json!({"auth": Credentials::basic(user, secret)});
        let Some(auths) = auths_of(&mut document) else {
            return Err(docker_file::error(path, "its `auths` is not an object"));
        };
        auths.insert(key_of(host).to_owned(), entry);
        docker_file::write(path, &document)?;
        Ok(Saved::File(path.to_owned()))
    }

    /// Forgets the credentials for a registry; returns whether there were any in the target file,
    /// or a helper took care of it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::File`], [`RegistryError::Helper`].
    pub fn erase(&self, host: &str) -> Result<bool, RegistryError> {
        let path = self.target()?;
        let Some(mut document) = docker_file::read(path)? else { return Ok(false) };
        let mut has_erased = false;
        if let Some(helper) = helper_of(&document, host).map(str::to_owned) {
            has_erased = ask(&helper, host)?.is_some();
            if has_erased {
                run(&helper, "erase", key_of(host))?;
            }
        }
        let Some(auths) = auths_of(&mut document) else { return Ok(has_erased) };
        let before = auths.len();
        auths.retain(|key, _| !is_for(key, host));
        if auths.len() < before {
            docker_file::write(path, &document)?;
            has_erased = true;
        }
        Ok(has_erased)
    }

    fn target(&self) -> Result<&Path, RegistryError> {
        self.target.as_deref().ok_or_else(|| {
            docker_file::error(
                Path::new("config.json"),
                "there is no home directory to keep credentials in",
            )
        })
    }
}

fn auths_of(document: &mut Value) -> Option<&mut Map<String, Value>> {
    let auths = document.as_object_mut()?.entry("auths").or_insert_with(|| json!({}));
    if auths.is_null() {
        *auths = json!({});
    }
    auths.as_object_mut()
}

/// What helpers and files call a registry.
fn key_of(host: &str) -> &str {
    if is_hub(host) { HUB_KEY } else { host }
}

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Returns a key of `auths` or `credHelpers` without scheme and without the protocol's version.
fn bare(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

/// Whether a key is for a whole registry.
fn is_for(key: &str, host: &str) -> bool {
    let key = bare(key);
    key == host || is_hub(key) && is_hub(host)
}

fn helper_of<'d>(document: &'d Value, host: &str) -> Option<&'d str> {
    let helpers = document.get("credHelpers").and_then(Value::as_object);
    let own = helpers.into_iter().flatten().find(|(key, _)| is_for(key, host));
    let helper = own.map(|(_, helper)| helper).or_else(|| document.get("credsStore"));
    helper.and_then(Value::as_str).filter(|name| !name.is_empty())
}

/// Finds the entry of `auths` for the repository, else for a directory above it, else for the host.
fn in_file(document: &Value, host: &str, path: &str) -> Option<Credentials> {
    let full = format!("{host}/{path}");
    let entries = document.get("auths").and_then(Value::as_object)?;
    let fits = |key: &str| {
        let key = bare(key);
        is_for(key, host)
            || full.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut found: Vec<_> = entries.iter().filter(|(key, _)| fits(key)).collect();
    found.sort_by_key(|(key, _)| std::cmp::Reverse(bare(key).len()));
    found.into_iter().find_map(|(_, entry)| of_entry(entry))
}

fn of_entry(entry: &Value) -> Option<Credentials> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("registrytoken") {
        return Some(Credentials::Registry { token: token.to_owned() });
    }
    if let Some(token) = text("identitytoken") {
        return Some(Credentials::Identity { token: token.to_owned() });
    }
    match (text("auth"), text("username"), text("password")) {
        (Some(auth), ..) => Credentials::parse(auth),
        (None, Some(user), Some(password)) => Some(Credentials::new(user, password)),
        _ => None,
    }
}

/// Asks a helper; `None` where it has nothing.
fn ask(helper: &str, host: &str) -> Result<Option<Credentials>, RegistryError> {
    let response = match run(helper, "get", key_of(host)) {
        Ok(response) => response,
        // The helpers' protocol knows this text only.
        Err(RegistryError::Helper { what, .. })
            if what.contains("credentials not found") || what.contains("no credentials") =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let response: Value = serde_json::from_slice(&response).unwrap_or_default();
    let text = |key: &str| response.get(key).and_then(Value::as_str).unwrap_or("");
    match (text("Username"), text("Secret")) {
        (_, "") => Ok(None),
        (user, secret) => Ok(Some(Credentials::new(user, secret))),
    }
}

/// Runs `docker-credential-HELPER VERB`, which reads `input`; returns what it wrote.
fn run(helper: &str, verb: &str, input: &str) -> Result<Vec<u8>, RegistryError> {
    let failed = |what: String| RegistryError::Helper { name: helper.to_owned(), what };
    if helper.contains('/') {
        return Err(failed("its name is a path".to_owned()));
    }
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => failed("it is not installed".to_owned()),
            _ => failed(e.to_string()),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read is one that does not need it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Helpers report on standard output; the secret goes the other way, so it is not in there.
    let said = String::from_utf8_lossy(&output.stdout);
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    Err(failed(if said.is_empty() { output.status.to_string() } else { said }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn keychain(dir: &Path, document: &Value) -> Keychain {
        let path = dir.join("config.json");
        fs::write(&path, document.to_string()).unwrap();
        Keychain { files: vec![dir.join("absent.json"), path.clone()], target: Some(path) }
    }

    #[test]
    fn the_most_precise_entry_counts() {
        let dir = tempfile::tempdir().unwrap();
        let auth = |user: &str| json!({"auth": Credentials::basic(user, "p")});
        let keychain = keychain(
            dir.path(),
            &json!({"auths": {
                "https://index.docker.io/v1/": auth("hub"),
                "https://a.example/v2/": auth("host"),
                "a.example/team": auth("team"),
                "a.example/team/app": {"username": "app", "password": "p"},
                "b.example": {"auth": "", "identitytoken": "t"},
                "c.example": {},
            }}),
        );
        let user = |host: &str, path: &str| match keychain.find(host, path).unwrap() {
            Some(Credentials::Password { user, .. }) => user,
            Some(Credentials::Identity { .. }) => "<identity>".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(user("docker.io", "library/a"), "hub");
        assert_eq!(user("a.example", "x"), "host");
        assert_eq!(user("a.example", "team/x"), "team");
        assert_eq!(user("a.example", "teams"), "host");
        assert_eq!(user("a.example", "team/app"), "app");
        assert_eq!(user("b.example", "x"), "<identity>");
        assert_eq!(user("c.example", "x"), "None");
        assert_eq!(user("a.example:5000", "x"), "None");
    }

    #[test]
    fn a_login_is_written_for_its_owner_only_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        let keychain = Keychain { files: vec![path.clone()], target: Some(path.clone()) };
        let saved = keychain.save("docker.io", "me", "secret").unwrap();
        assert_eq!(saved, Saved::File(path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(
            keychain.find("docker.io", "x").unwrap(),
            Some(Credentials::new("me", "secret"))
        );
        let mut document = docker_file::read(&path).unwrap().unwrap();
        document["detachKeys"] = json!("ctrl-e,e");
        fs::write(&path, document.to_string()).unwrap();
        keychain.save("a.example:5000", "you", "x").unwrap();
        assert!(keychain.erase("docker.io").unwrap());
        assert!(!keychain.erase("docker.io").unwrap());
        let document = docker_file::read(&path).unwrap().unwrap();
        assert_eq!(document["detachKeys"], "ctrl-e,e");
        assert_eq!(document["auths"].as_object().unwrap().len(), 1);
    }

    #[test]
    fn damage_is_reported_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, "{\"auths\": {\"a\": {\"auth\": \"c2VjcmV0\" oops").unwrap();
        let keychain = Keychain { files: vec![path], target: None };
        let error = keychain.find("a", "x").unwrap_err().to_string();
        assert!(error.contains("config.json") && !error.contains("c2Vj"), "{error}");
        assert!(keychain.save("a", "u", "p").is_err());
    }

    #[test]
    fn a_missing_helper_is_an_error_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let document =
            json!({"credHelpers": {"a.example": "no-such-helper", "b.example": "../sh"}});
        let keychain = keychain(dir.path(), &document);
        let error = keychain.find("a.example", "x").unwrap_err().to_string();
        assert!(error.contains("docker-credential-no-such-helper"), "{error}");
        assert!(keychain.find("b.example", "x").unwrap_err().to_string().contains("path"));
        assert_eq!(keychain.find("c.example", "x").unwrap(), None);
    }
}
