//! `WWW-Authenticate`: what a registry wants to see.
//!
//! Source: RFC 9110 11.6.1; Docker's "Token Authentication Specification".

/// How a registry wants us to say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// The address of that server.
        realm: String,
        /// What the registry is called there.
        service: Option<String>,
        /// What the registry would have us ask for.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads the headers of an answer with status 401 and chooses: a token where one is offered,
    /// else name and password.
    pub(super) fn choose<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Self> {
        let all: Vec<_> = headers.flat_map(parse).collect();
        let bearer = all.iter().find_map(|(scheme, parameters)| {
            let get = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.clone())
            };
            scheme.eq_ignore_ascii_case("bearer").then_some(())?;
            Some(Self::Bearer {
                realm: get("realm")?,
                service: get("service"),
                scope: get("scope"),
            })
        });
        let is_basic = || all.iter().any(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
        bearer.or_else(|| is_basic().then_some(Self::Basic))
    }
}

type Scheme = (String, Vec<(String, String)>);

/// Takes a header apart: `Basic realm="a", Bearer realm="b",service=c`. What makes no sense ends
/// it.
fn parse(header: &str) -> Vec<Scheme> {
    let mut schemes: Vec<Scheme> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '\t', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        let after = after.trim_start();
        match (after.strip_prefix('='), schemes.last_mut()) {
            (Some(value), Some((_, parameters))) if !word.is_empty() => {
                let Some((value, next)) = value_of(value.trim_start()) else { break };
                parameters.push((word.to_owned(), value));
                rest = next;
            }
            (None, _) if !word.is_empty() => {
                schemes.push((word.to_owned(), Vec::new()));
                rest = after;
            }
            _ => break,
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    schemes
}

/// Reads a token or a quoted string; returns it and what follows.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(headers: &[&str]) -> Option<Challenge> {
        Challenge::choose(headers.iter().copied())
    }

    #[test]
    fn tokens_are_preferred_to_passwords() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        let hub = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            choose(&[hub]),
            bearer(
                "https://auth.example/token",
                Some("registry.example"),
                Some("repository:a/b:pull,push")
            )
        );
        assert_eq!(
            choose(&["Basic realm=\"x, y\"", "bearer realm=https://a/t"]),
            bearer("https://a/t", None, None)
        );
        assert_eq!(
            choose(&[r#"Basic realm="a", Bearer realm="b\"c""#]),
            bearer("b\"c", None, None)
        );
        assert_eq!(choose(&["BASIC realm=\"Registry Realm\""]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", "=", "Bearer", "Bearer realm=\"open", ",,,", "Digest realm=\"x\"", "\"\""]
        {
            assert_eq!(choose(&[text]), None, "{text}");
        }
    }
}
