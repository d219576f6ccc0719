//! What a host is shown so that it lets us in: tokens, or name and password.
//!
//! Nothing is shown before the host asks (status 401). Then a token is fetched per set of scopes,
//! and kept until it is about to expire or the host does not take it any more.
//!
//! Source: Docker's "Token Authentication Specification" and "Oauth2 Token Authentication".

use super::challenge::Challenge;
use super::client::Shared;
use super::transport::{Address, Payload, Request};
use super::{Credentials, RegistryError};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::Method;

/// The largest answer of a token server, in bytes. Tokens are a few kilobytes.
const ANSWER_MAX: u64 = 1 << 20;

/// How long a token lasts that does not say.
const TOKEN_SECONDS: u64 = 60;

/// What a set of requests needs: `repository:library/debian:pull`, one or several.
pub(super) type Scopes = [String];

/// A host's demands and what meets them. Shared by all threads.
#[derive(Default)]
pub(super) struct Auth {
    state: Mutex<TokenState>,
}

#[derive(Default)]
struct TokenState {
    challenge: Option<Challenge>,
    /// What the keychain has for a repository's path.
    credentials: BTreeMap<String, Option<Credentials>>,
    tokens: BTreeMap<Vec<String>, Token>,
}

struct Token {
    text: String,
    until: Instant,
    /// What it was asked for, which may be more than we know we need.
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The host, the repository and the scopes of a request.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) shared: &'a Shared,
    /// The host as the keychain knows it.
    pub(super) host: &'a str,
    /// Scheme and authority of the host.
    pub(super) base: &'a str,
    pub(super) path: &'a str,
    pub(super) scopes: &'a Scopes,
    pub(super) doing: &'a str,
}

impl Auth {
    fn state(&self) -> MutexGuard<'_, TokenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the `Authorization` header for a request, as far as the host is known to want one.
    pub(super) fn header(&self, asking: Asking<'_>) -> Result<Option<String>, RegistryError> {
        let mut state = self.state();
        match state.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(state.credentials(asking)?.and_then(basic_header)),
            Some(Challenge::Bearer { realm, service, .. }) => {
                if let Some(Credentials::Registry { token }) = state.credentials(asking)? {
                    return Ok(Some(format!("Bearer {token}")));
                }
                let known = state.tokens.get(asking.scopes);
                if let Some(token) = known.filter(|token| token.until > Instant::now()) {
                    return Ok(Some(format!("Bearer {}", token.text)));
                }
                let scopes = known.map_or_else(|| asking.scopes.to_vec(), |t| t.scopes.clone());
                state.fetch(asking, &realm, service.as_deref(), scopes).map(Some)
            }
        }
    }

    /// Takes a demand that came with status 401 after `shown` was shown; returns what to show next,
    /// `None` where there is nothing else.
    pub(super) fn response(
        &self,
        asking: Asking<'_>,
        challenge: Challenge,
        shown: Option<&str>,
    ) -> Result<Option<String>, RegistryError> {
        let mut state = self.state();
        state.challenge = Some(challenge.clone());
        match challenge {
            Challenge::Basic => {
                let header = state.credentials(asking)?.and_then(basic_header);
                Ok(header.filter(|header| Some(header.as_str()) != shown))
            }
            Challenge::Bearer { realm, service, scope } => {
                if let Some(Credentials::Registry { token }) = state.credentials(asking)? {
                    return Ok(
                        Some(format!("Bearer {token}")).filter(|h| Some(h.as_str()) != shown)
                    );
                }
                // Another thread may have a newer one already.
                if let Some(token) = state.tokens.get(asking.scopes) {
                    let header = format!("Bearer {}", token.text);
                    if shown != Some(header.as_str()) {
                        return Ok(Some(header));
                    }
                }
                let mut scopes = asking.scopes.to_vec();
                scopes
                    .extend(scope.filter(|scope| !scopes.iter().any(|known| covers(known, scope))));
                state.fetch(asking, &realm, service.as_deref(), scopes).map(Some)
            }
        }
    }

    /// Says whether there were credentials for a repository.
    pub(super) fn had_credentials(&self, path: &str) -> bool {
        self.state().credentials.get(path).is_some_and(Option::is_some)
    }
}

fn basic_header(credentials: Credentials) -> Option<String> {
    match credentials {
        Credentials::Password { user, password } => {
            Some(format!("Basic {}", Credentials::basic(&user, &password)))
        }
        Credentials::Registry { token } => Some(format!("Bearer {token}")),
        Credentials::Identity { .. } => None,
    }
}

/// Whether a scope asks for at least what another does: the same thing, and each action.
fn covers(known: &str, asked: &str) -> bool {
    let actions = |text: &str| -> Option<(String, Vec<String>)> {
        let (thing, actions) = text.rsplit_once(':')?;
        Some((thing.to_owned(), actions.split(',').map(str::to_owned).collect()))
    };
    match (actions(known), actions(asked)) {
        (Some((thing, known)), Some((other, asked))) => {
            thing == other && asked.iter().all(|action| known.contains(action))
        }
        _ => known == asked,
    }
}

impl TokenState {
    fn credentials(&mut self, asking: Asking<'_>) -> Result<Option<Credentials>, RegistryError> {
        if let Some(known) = self.credentials.get(asking.path) {
            return Ok(known.clone());
        }
        let found = match asking.shared.credentials(asking.host, asking.path) {
            // A helper that is gone must not keep anyone from what is public.
            Err(error @ RegistryError::Helper { .. }) => {
                asking.shared.notify(&format!("{error}; going on without credentials"));
                None
            }
            other => other?,
        };
        self.credentials.insert(asking.path.to_owned(), found.clone());
        Ok(found)
    }

    /// Fetches a token; returns the header that shows it.
    fn fetch(
        &mut self,
        asking: Asking<'_>,
        realm: &str,
        service: Option<&str>,
        scopes: Vec<String>,
    ) -> Result<String, RegistryError> {
        let Asking { shared, base, .. } = asking;
        let doing = format!("log in to {}", asking.host);
        let (server, registry) = (Address::parse(realm, &doing)?, Address::parse(base, &doing)?);
        let refused = |why| RegistryError::Redirect {
            doing: doing.clone(),
            host: registry.authority.clone(),
            to: server.authority.clone(),
            why,
        };
        if let Some(why) = registry.forbids(&server) {
            return Err(refused(why));
        }
        let credentials = self.credentials(asking)?;
        let mut form = String::new();
        if let Some(service) = service {
            pair(&mut form, "service", service);
        }
        let request;
        let body;
        let mut authorization = None;
        if let Some(Credentials::Identity { token }) = &credentials {
            pair(&mut form, "grant_type", "refresh_token");
            pair(&mut form, "client_id", "builder");
            pair(&mut form, "refresh_token", token);
            if !scopes.is_empty() {
                pair(&mut form, "scope", &scopes.join(" "));
            }
            body = form.into_bytes();
            request = Request::new(Method::POST, realm)
                .header("Content-Type", "application/x-www-form-urlencoded")
                .payload(Payload::Bytes(&body));
        } else {
            for scope in &scopes {
                pair(&mut form, "scope", scope);
            }
            let joint = if realm.contains('?') { '&' } else { '?' };
            request = Request::new(Method::GET, format!("{realm}{joint}{form}"));
            authorization = credentials.clone().and_then(basic_header);
        }
        let response = shared.persist(&doing, &server.authority, || {
            shared.transport.request(&request, authorization.as_deref(), &doing)
        })?;
        let (status, host) = (response.status, response.host.clone());
        if status != 200 {
            let said = response.said();
            return Err(match status {
                400 | 401 | 403 => RegistryError::Unauthorized {
                    doing: asking.doing.to_owned(),
                    host: asking.host.to_owned(),
                    had_credentials: credentials.is_some(),
                    said,
                },
                status => RegistryError::Status { doing, host, status, said },
            });
        }
        let bad = |what: &str| RegistryError::BadAnswer {
            doing: doing.clone(),
            host: host.clone(),
            what: what.to_owned(),
        };
        let bytes = response
            .read(ANSWER_MAX)
            .map_err(|e| RegistryError::Connection {
                doing: doing.clone(),
                host: host.clone(),
                what: e.to_string(),
            })?
            .ok_or_else(|| bad("a token of more than a megabyte"))?;
        let token: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| bad("no JSON with a token"))?;
        let text = [token.token, token.access_token].into_iter().flatten().find(|t| !t.is_empty());
        let text = text.ok_or_else(|| bad("no token"))?;
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("a token with characters that no header may have"));
        }
        // A little early, so that none expires on its way.
        let seconds = token.expires_in.unwrap_or(TOKEN_SECONDS).clamp(1, 86_400);
        let until = Instant::now() + Duration::from_secs(seconds) * 9 / 10;
        let header = format!("Bearer {text}");
        self.tokens.insert(asking.scopes.to_vec(), Token { text, until, scopes });
        Ok(header)
    }
}

/// Adds `key=value` to a query or form, percent-encoded.
fn pair(form: &mut String, key: &str, value: &str) {
    if !form.is_empty() {
        form.push('&');
    }
    form.push_str(key);
    form.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            form.push(char::from(byte));
        } else {
            let _ = write!(form, "%{byte:02X}");
        }
    }
}

/// Encodes a value for a query.
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::new();
    pair(&mut text, "", value);
    text.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_cover_what_they_contain() {
        assert!(covers("repository:a/b:pull,push", "repository:a/b:pull"));
        assert!(covers("repository:a/b:pull,push", "repository:a/b:push,pull"));
        assert!(!covers("repository:a/b:pull", "repository:a/b:pull,push"));
        assert!(!covers("repository:a/b:pull", "repository:a/c:pull"));
        assert!(covers("x", "x"));
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded("repository:a/b:pull, ü"), "repository%3Aa%2Fb%3Apull%2C%20%C3%BC");
    }
}
