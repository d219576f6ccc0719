//! A server that speaks TLS, with a handler per request.

use super::http::{Answer, Request, head_of, read_head};
use super::server::certify;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

/// A server whose certificate is for some names. Its thread ends with the test program.
pub(super) struct Secure {
    dir: tempfile::TempDir,
    host: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Secure {
    /// Starts one; `names` are as OpenSSL has them: `IP:127.0.0.1,DNS:localhost`.
    pub(super) fn serve(
        names: &str,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certify(dir.path(), names);
        let path = |name: &str| dir.path().join(name);
        let chain = vec![CertificateDer::from_pem_file(path("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(path("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let (config, handler) = (Arc::new(config), Arc::new(handler));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, handler) = (Arc::clone(&config), Arc::clone(&handler));
                let seen = Arc::clone(&requests);
                thread::spawn(move || talk(stream, config, handler.as_ref(), &seen));
            }
        });
        Self { dir, host, seen }
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Who signed its certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// Answers until the client goes away.
fn talk(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    handler: &dyn Fn(&Request) -> Answer,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(mut request) = read_head(&mut stream)? {
        request.body = vec![0; request.length()];
        stream.read_exact(&mut request.body)?;
        seen.lock().unwrap().push(request.clone());
        let answer = handler(&request);
        let out = stream.get_mut();
        out.write_all(head_of(&answer).as_bytes())?;
        if request.method != "HEAD" {
            out.write_all(&answer.body)?;
        }
        out.flush()?;
    }
    Ok(())
}
