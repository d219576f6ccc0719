//! A host of the protocol: how it is spoken to, and requests that survive what passes.

use super::auth::{Asking, Auth};
use super::challenge::Challenge;
use super::client::Shared;
use super::transport::{Address, Failed, Request, Response};
use super::{RegistryError, is_loopback, settings};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::header::WWW_AUTHENTICATE;

/// The longest that a server may make us wait for the next try.
const WAIT_MAX: Duration = Duration::from_mins(2);

/// How often a host may turn down what it is shown: a token may have expired on its way.
const DEMANDS_MAX: usize = 3;

/// A registry's host. Shared by all threads.
pub(super) struct Host {
    /// As image names, settings and credentials have it: `docker.io`.
    pub(super) name: String,
    /// What is connected to: `registry-1.docker.io`.
    pub(super) authority: String,
    /// Whether it is spoken to in TLS, once that is known.
    is_tls: Mutex<Option<bool>>,
    auth: Auth,
}

impl Host {
    pub(super) fn new(shared: &Shared, name: &str, is_plain: bool) -> Self {
        let authority = settings::authority(name).to_owned();
        let special = shared.transport.settings().host(name);
        let is_known = match () {
            () if is_plain || special.is_plain => Some(false),
            // Certificates are given for a host that has TLS.
            () if !special.authorities.is_empty() || special.keypair.is_some() => Some(true),
            () if is_loopback(&authority) || special.is_insecure => None,
            () => Some(true),
        };
        Self {
            name: name.to_owned(),
            authority,
            is_tls: Mutex::new(is_known),
            auth: Auth::default(),
        }
    }

    /// Returns scheme and authority, finding out the scheme where it may be either.
    pub(super) fn base(&self, shared: &Shared) -> Result<String, RegistryError> {
        let mut is_tls = self.is_tls.lock().unwrap_or_else(PoisonError::into_inner);
        let is_tls = match *is_tls {
            Some(known) => known,
            None => *is_tls.insert(shared.transport.speaks_tls(&self.authority)?),
        };
        Ok(format!("{}://{}", if is_tls { "https" } else { "http" }, self.authority))
    }

    /// Makes a request until it is answered, showing what the host asks to see. Any status but 401,
    /// 429 and those of a server in trouble is an answer.
    pub(super) fn send(
        &self,
        shared: &Shared,
        request: &Request<'_>,
        path: &str,
        scopes: &[String],
        doing: &str,
    ) -> Result<Response, RegistryError> {
        shared.persist(doing, &self.authority, || {
            self.send_once(shared, request, path, scopes, doing)
        })
    }

    /// As [`send`](Self::send), but only once: for requests that must not simply be repeated.
    pub(super) fn send_once(
        &self,
        shared: &Shared,
        request: &Request<'_>,
        path: &str,
        scopes: &[String],
        doing: &str,
    ) -> Result<Response, Failed> {
        let base = self.base(shared)?;
        let asking = Asking { shared, host: &self.name, base: &base, path, scopes, doing };
        // An upload may be sent to another host, which gets no credentials.
        let is_own = {
            let (to, own) = (Address::parse(&request.url, doing)?, Address::parse(&base, doing)?);
            to.authority == own.authority && to.is_tls == own.is_tls
        };
        let mut header = if is_own { self.auth.header(asking)? } else { None };
        for _ in 0..DEMANDS_MAX {
            let response = shared.transport.request(request, header.as_deref(), doing)?;
            if response.status != 401
                || !is_own
                || response.host != self.authority.to_ascii_lowercase()
            {
                return Ok(response);
            }
            let demands = response.headers.get_all(WWW_AUTHENTICATE);
            let challenge = Challenge::choose(demands.iter().filter_map(|v| v.to_str().ok()));
            let next = match challenge {
                Some(challenge) => self.auth.response(asking, challenge, header.as_deref())?,
                None => None,
            };
            if next.is_none() {
                return Err(self.unauthorized(path, doing, response.said()).into());
            }
            header = next;
        }
        Err(self.unauthorized(path, doing, String::new()).into())
    }

    pub(super) fn unauthorized(&self, path: &str, doing: &str, said: String) -> RegistryError {
        RegistryError::Unauthorized {
            doing: doing.to_owned(),
            host: self.name.clone(),
            had_credentials: self.auth.had_credentials(path),
            said,
        }
    }

    /// Makes an error of an answer that is none of those expected.
    pub(super) fn refusal(
        &self,
        response: Response,
        path: &str,
        what: &str,
        doing: &str,
    ) -> RegistryError {
        let (status, host) = (response.status, response.host.clone());
        let said = response.said();
        match status {
            401 | 403 if host == self.authority.to_ascii_lowercase() => {
                self.unauthorized(path, doing, said)
            }
            404 => RegistryError::NotFound { host: self.name.clone(), what: what.to_owned() },
            status => RegistryError::Status { doing: doing.to_owned(), host, status, said },
        }
    }
}

impl Shared {
    /// Repeats a request while what keeps it from being answered may pass.
    pub(super) fn persist(
        &self,
        doing: &str,
        host: &str,
        mut once: impl FnMut() -> Result<Response, Failed>,
    ) -> Result<Response, RegistryError> {
        let tries = self.transport.settings().tries;
        for attempt in 1.. {
            self.check_cancelled()?;
            let (what, wait) = match once() {
                Err(Failed::Lasting(error)) => return Err(error),
                Err(Failed::Passing(what)) => (what, None),
                Ok(response) if !is_passing(response.status) => return Ok(response),
                Ok(response) => {
                    let (status, at) = (response.status, response.host.clone());
                    let wait = retry_after(&response);
                    if let Some(wait) = wait.filter(|wait| *wait > WAIT_MAX) {
                        let (doing, host) = (doing.to_owned(), at);
                        return Err(RegistryError::TooManyRequests { doing, host, wait });
                    }
                    if attempt >= tries {
                        let (doing, said) = (doing.to_owned(), response.said());
                        return Err(RegistryError::Status { doing, host: at, status, said });
                    }
                    (format!("it answered {status}"), wait)
                }
            };
            if attempt >= tries {
                let (doing, host) = (doing.to_owned(), host.to_owned());
                return Err(RegistryError::Connection { doing, host, what });
            }
            self.pause(host, &what, attempt, wait)?;
        }
        unreachable!("the last try returns")
    }

    /// Waits before the try after `attempt`, and says so.
    pub(super) fn pause(
        &self,
        host: &str,
        what: &str,
        attempt: u32,
        wait: Option<Duration>,
    ) -> Result<(), RegistryError> {
        let own = self.transport.settings().pause * 2_u32.pow((attempt - 1).min(8));
        let wait = wait.unwrap_or(own).min(WAIT_MAX);
        self.notify(&format!("{host}: {what}; trying again in {:.1} s", wait.as_secs_f32()));
        self.sleep(wait)
    }
}

fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// Returns how long an answer asks to wait; `None` where it does not, or makes no sense.
fn retry_after(response: &Response) -> Option<Duration> {
    wait_of(response.header("retry-after")?, response.header("date"))
}

/// Returns what `Retry-After` means: seconds, or a date, which is compared with the server's own
/// clock (the answer's `Date`), since ours may be another.
///
/// Source: RFC 9110, "Retry-After".
fn wait_of(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let parse = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    let seconds = parse(text.trim())?.as_second() - parse(date?.trim())?.as_second();
    Some(Duration::from_secs(seconds.max(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates_of_the_server_s_clock() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (text, date, want) in [
            ("7", None, Some(7)),
            (" 0 ", now, Some(0)),
            ("Sun, 06 Nov 1994 08:49:49 GMT", now, Some(12)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", now, Some(0)),
            ("Sun, 06 Nov 1994 08:49:49 GMT", None, None),
            ("soon", now, None),
            ("-1", now, None),
        ] {
            assert_eq!(wait_of(text, date), want.map(Duration::from_secs), "{text} {date:?}");
        }
    }
}
