//! Token servers, and what must never be told to whom.

use super::fixture::busybox;
use super::http::{Answer, Http, Request, ask};
use super::kit::{Kit, write_file};
use super::proxy::is_blob;
use super::server::{Kind, Registry};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const SECRET: &str = "not-a-secret-0815";

/// A registry that takes tokens of a server of its own, each for so many requests.
struct Guarded {
    tokens: Http,
    front: Http,
    /// Where blobs are redirected to.
    storage: Http,
    _registry: Registry,
}

fn guarded(
    uses: usize,
    grants: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> Option<Guarded> {
    let registry = Registry::start(Kind::Plain)?;
    let host = registry.host().to_owned();
    busybox().put(&host, "x", "1");
    let storage = {
        let host = host.clone();
        Http::serve(move |request| ask(&host, request))
    };
    let left = Arc::new(Mutex::new((0, 0)));
    let tokens = {
        let (left, number) = (Arc::clone(&left), AtomicUsize::new(1));
        Http::serve(move |request| {
            if !grants(request) {
                return Answer::new(401).body(r#"{"details": "incorrect username or password"}"#);
            }
            let number = number.fetch_add(1, Ordering::Relaxed);
            *left.lock().unwrap() = (number, uses);
            Answer::new(200).body(format!(r#"{{"token": "token-{number}", "expires_in": 300}}"#))
        })
    };
    let (realm, target) = (tokens.host(), storage.host());
    let front = Http::serve(move |request| {
        let mut left = left.lock().unwrap();
        let shown = format!("Bearer token-{}", left.0);
        if left.1 == 0 || request.header("authorization") != Some(&shown) {
            return Answer::new(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="http://{realm}/token",service="tests",scope="repository:x:pull""#),
            );
        }
        left.1 -= 1;
        drop(left);
        if is_blob(request) {
            let to = format!("http://{target}{}", request.path);
            return Answer::new(307).header("Location", to);
        }
        let mut request = request.clone();
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        ask(&host, &request)
    });
    Some(Guarded { tokens, front, storage, _registry: registry })
}

fn config(kit: &Kit, host: &str, entry: &str) {
    let text = format!(r#"{{"auths": {{"{host}": {entry}}}}}"#);
    write_file(&kit.beside("home/.docker/config.json"), text.as_bytes());
}

#[test]
fn anyone_gets_a_token_for_what_is_public() {
    let Some(guarded) = guarded(1000, |_| true) else { return };
    let kit = Kit::new();
    kit.builder(["pull", "-q", &format!("{}/x:1", guarded.front.host())]).ok();
    assert_eq!(
        guarded.tokens.seen(),
        ["GET /token?service=tests&scope=repository%3Ax%3Apull"],
        "one token serves the whole pull"
    );
}

#[test]
fn a_token_that_expires_is_fetched_anew() {
    let Some(guarded) = guarded(2, |_| true) else { return };
    let kit = Kit::new();
    kit.builder(["pull", "-q", &format!("{}/x:1", guarded.front.host())]).ok();
    assert!(guarded.tokens.seen().len() > 1);
    let name = format!("{}/x:1", guarded.front.host());
    assert_eq!(kit.builder(["run", &name, "sh", "-c", "wc -c < /one"]).ok().stdout(), "100000\n");
}

#[test]
fn an_identity_token_is_exchanged() {
    let Some(guarded) = guarded(1000, |request| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        request.method == "POST"
            && form.contains("grant_type=refresh_token")
            && form.contains(&format!("refresh_token={SECRET}"))
    }) else {
        return;
    };
    let kit = Kit::new();
    config(&kit, &guarded.front.host(), &format!(r#"{{"identitytoken": "{SECRET}"}}"#));
    kit.builder(["pull", "-q", &format!("{}/x:1", guarded.front.host())]).ok();
}

#[test]
fn credentials_go_to_the_token_server_and_nowhere_else() {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("me:{SECRET}"));
    let basic = format!("Basic {auth}");
    let Some(guarded) = guarded(1000, move |r| r.header("authorization") == Some(&basic)) else {
        return;
    };
    let kit = Kit::new();
    config(&kit, &guarded.front.host(), &format!(r#"{{"auth": "{auth}"}}"#));
    let outcome =
        kit.builder(["pull", "--progress=plain", &format!("{}/x:1", guarded.front.host())]).ok();
    assert_eq!(guarded.storage.requests().len(), 4, "blobs come from where the redirect leads");
    for request in guarded.storage.requests() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    for request in guarded.front.requests() {
        let shown = request.header("authorization").unwrap_or("");
        assert!(!shown.starts_with("Basic"), "{request:?}");
    }
    assert!(!outcome.text().contains(SECRET) && !outcome.text().contains("token-1"));
    let found = super::kit::host::tool(&[
        "sh",
        "-c",
        &format!("grep -r -e {SECRET} -e {auth} -e token-1 {} || true", kit.store().display()),
    ]);
    assert_eq!(found, "", "the store holds no credentials");
}

#[test]
fn a_token_server_that_says_no_is_one_error() {
    let Some(guarded) = guarded(1, |_| false) else { return };
    let kit = Kit::new();
    config(
        &kit,
        &guarded.front.host(),
        &format!(r#"{{"username": "me", "password": "{SECRET}"}}"#),
    );
    let outcome = kit.builder(["pull", "-q", &format!("{}/x:1", guarded.front.host())]).fails(6);
    outcome.says(&[
        "refuses these credentials: incorrect username or password",
        "hint: log in: builder login 127",
    ]);
    assert!(!outcome.text().contains(SECRET));
}
