//! Whom we trust and what we show: certificates from files, for the hosts they are for.

use super::RegistryError;
use super::settings::HostSettings;
use crate::sys::foreign;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

/// What replaces the built-in list of authorities, for hosts that have none of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// A file of certificates (`SSL_CERT_FILE`).
    pub file: Option<PathBuf>,
    /// Directories all of whose certificates count (`SSL_CERT_DIR`); other files there do not
    /// matter.
    pub directories: Vec<PathBuf>,
}

impl Roots {
    fn is_empty(&self) -> bool {
        self.file.is_none() && self.directories.is_empty()
    }

    fn certificates(&self) -> Result<Vec<Certificate<'static>>, RegistryError> {
        let mut found = Vec::new();
        if let Some(file) = &self.file {
            found.extend(certificates_of(file)?);
        }
        for directory in &self.directories {
            let files = fs::read_dir(directory).map_err(|e| bad_file(directory, &e.to_string()))?;
            let mut files: Vec<_> = files.flatten().map(|entry| entry.path()).collect();
            files.sort();
            found.extend(files.iter().filter_map(|file| certificates_of(file).ok()).flatten());
        }
        // Such directories have each one under several names.
        let mut seen = BTreeSet::new();
        found.retain(|certificate| seen.insert(certificate.der().to_vec()));
        Ok(found)
    }
}

/// Makes the configuration for a host.
pub(super) fn config(roots: &Roots, host: &HostSettings) -> Result<TlsConfig, RegistryError> {
    let mut builder = TlsConfig::builder().disable_verification(host.is_insecure);
    let mut trusted = Vec::new();
    for file in &host.authorities {
        trusted.extend(certificates_of(file)?);
    }
    let is_own = !host.authorities.is_empty();
    if !is_own && !roots.is_empty() {
        trusted = roots.certificates()?;
    }
    if is_own || !roots.is_empty() {
        builder = builder.root_certs(RootCerts::Specific(Arc::new(trusted)));
    }
    if let Some((certificate, key)) = &host.keypair {
        let chain = certificates_of(certificate)?;
        let key = PrivateKey::from_pem(&read(key)?)
            .map_err(|_| bad_file(key, "there is no private key in it"))?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(builder.build())
}

/// Adds what directories like `/etc/docker/certs.d` have for a host, the first one that has any:
/// `*.crt` are authorities, `*.cert` with `*.key` are what we show, the first pair by name.
///
/// Source: Docker's documentation, "Verify repository client with certificates".
pub(super) fn add_directory_of(host: &mut HostSettings, directories: &[PathBuf], name: &str) {
    // What cannot be listed is not for us: a directory of root's, say.
    let listed = directories.iter().find_map(|directory| {
        let files = fs::read_dir(directory.join(name)).ok()?;
        Some(files.flatten().map(|entry| entry.path()).collect::<BTreeSet<_>>())
    });
    let Some(files) = listed else { return };
    let having = |extension| files.iter().filter(move |file| has_extension(file, extension));
    host.authorities.extend(having("crt").cloned());
    let certificate = having("cert").next();
    host.keypair = certificate.map(|file| (file.clone(), file.with_extension("key")));
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|found| found == extension)
}

fn certificates_of(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let bytes = read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(bad_file(path, "it is not PEM")),
        }
    }
    if found.is_empty() { Err(bad_file(path, "there is no certificate in it")) } else { Ok(found) }
}

/// The largest file of certificates or a key, in bytes; a system's bundle has 220 KiB.
const FILE_MAX: u64 = 16 << 20;

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    foreign::read_at(path, FILE_MAX).map_err(|e: io::Error| bad_file(path, &e.to_string()))
}

fn bad_file(path: &Path, what: &str) -> RegistryError {
    RegistryError::File { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_a_host_has_authorities_and_one_pair() {
        let dir = tempfile::tempdir().unwrap();
        let directories = ["none", "first", "second"].map(|name| dir.path().join(name));
        let (first, second) =
            (directories[1].join("a.example:5000"), directories[2].join("a.example:5000"));
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        for name in ["b.crt", "a.crt", "y.cert", "x.cert", "x.key", "y.key", "README"] {
            fs::write(first.join(name), "").unwrap();
        }
        fs::write(second.join("c.crt"), "").unwrap();
        let mut host = HostSettings::default();
        add_directory_of(&mut host, &directories, "a.example:5000");
        assert_eq!(host.authorities, [first.join("a.crt"), first.join("b.crt")]);
        assert_eq!(host.keypair, Some((first.join("x.cert"), first.join("x.key"))));
        let mut other = HostSettings::default();
        add_directory_of(&mut other, &directories, "a.example");
        assert_eq!(other, HostSettings::default());
    }

    #[test]
    fn what_is_no_certificate_in_a_directory_of_roots_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("README"), "nothing").unwrap();
        let roots = Roots { file: None, directories: vec![dir.path().to_owned()] };
        assert_eq!(roots.certificates().unwrap().len(), 0);
        let missing = Roots { file: None, directories: vec![dir.path().join("missing")] };
        assert!(matches!(missing.certificates(), Err(RegistryError::File { .. })));
    }
}
