//! Debian's `docker-registry` on a port of its own, as long as a test needs it.

use super::kit::host;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The name and password that the login tests use.
pub(super) const USER: &str = "tester";
/// Its password.
pub(super) const PASSWORD: &str = "not-a-secret-4711";

/// How a registry is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Plain HTTP, open to all.
    Plain,
    /// Plain HTTP, with a login.
    Login,
    /// TLS with a certificate of our own authority.
    Tls,
    /// The same, and clients show one of that authority, too.
    MutualTls,
}

/// A registry server; it ends with this.
pub(super) struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    host: String,
}

impl Registry {
    /// Starts one; `None` where the program is missing, which is said.
    pub(super) fn start(kind: Kind) -> Option<Self> {
        if !host::has("docker-registry", "docker-registry") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut config = format!(
            "version: 0.1\nvalidation: {{manifests: {{urls: {{allow: ['^https:']}}}}}}\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:0\n  secret: tests\n",
            path("data").display()
        );
        match kind {
            Kind::Plain => {}
            Kind::Login => {
                if !host::has("htpasswd", "apache2-utils") {
                    return None;
                }
                let file = path("htpasswd");
                let shown = file.to_str().unwrap();
                host::tool(&["htpasswd", "-Bbc", "-C", "4", shown, USER, PASSWORD]);
                config.push_str(&format!("auth:\n  htpasswd: {{realm: tests, path: {shown}}}\n"));
            }
            Kind::Tls | Kind::MutualTls => {
                if !host::has("openssl", "openssl") {
                    return None;
                }
                certify(dir.path(), "IP:127.0.0.1,DNS:localhost");
                let authority = path("ca.pem");
                config.push_str(&format!(
                    "  tls: {{certificate: {}, key: {}, clientcas: [{}]}}\n",
                    path("server.pem").display(),
                    path("server.key").display(),
                    if kind == Kind::MutualTls { authority.to_str().unwrap() } else { "" },
                ));
            }
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .env_clear()
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let host = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "docker-registry ended:\n{log}");
            let address =
                line.split("listening on ").nth(1).and_then(|rest| rest.split([',', '"']).next());
            if let Some(address) = address {
                break address.trim().to_owned();
            }
            log.push_str(&line);
        };
        // Its log must not fill the pipe.
        std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
        Some(Self { child, dir, host })
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The authority that signed the server's certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate of that authority, with its key.
    pub(super) fn keypair(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("server.pem"), self.dir.path().join("server.key"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes an authority, `ca.pem`, and a certificate for some names, `server.pem` with `server.key`.
pub(super) fn certify(dir: &Path, names: &str) {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let openssl = |words: &[&str]| {
        let words: Vec<&str> = ["openssl"].iter().chain(words).copied().collect();
        host::tool(&words);
    };
    let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
    let (request, server, key) = (path("server.csr"), path("server.pem"), path("server.key"));
    let extensions = path("extensions");
    std::fs::write(&extensions, format!("subjectAltName={names}\n")).unwrap();
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut words =
        vec!["req", "-x509", "-days", "2", "-subj", "/CN=tests", "-out", &ca, "-keyout", &ca_key];
    words.extend(curve);
    openssl(&words);
    let mut words = vec!["req", "-subj", "/CN=localhost", "-out", &request, "-keyout", &key];
    words.extend(curve);
    openssl(&words);
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &server,
    ]);
}
