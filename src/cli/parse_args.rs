//! Values of flags: sizes, pairs, comma-separated fields. What was typed becomes what was meant.

use crate::job::PullPolicy;
use crate::sandbox::{NetworkMode, Ulimit};
use jiff::Timestamp;
use std::time::{Duration, SystemTime};

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum TableFormat {
    /// Columns.
    #[default]
    Table,
    /// Data.
    Json,
}

/// Parses `64m`, `1.5g`, `1048576`: bytes with Docker's binary units.
///
/// # Errors
///
/// A sentence about what is wrong, for the command line.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is not a size: expected a number with an optional unit (b, k, m, g, t), such as 512m"
        )
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = digits.trim().parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let number: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bytes = number * (1u64 << shift) as f64;
    if bytes.is_finite() && bytes >= 0.0 && bytes < u64::MAX as f64 {
        Ok(bytes as u64)
    } else {
        Err(wrong())
    }
}

/// As [`bytes`], or `-1` for no limit.
///
/// # Errors
///
/// As [`bytes`].
pub fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text.trim() == "-1" {
        return Ok(-1);
    }
    i64::try_from(bytes(text)?).map_err(|_| format!("{text:?} is too large"))
}

/// Units of a length of time, in nanoseconds: those of Go, and days and weeks.
const UNITS: [(&str, u128); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 60 * 60 * 1_000_000_000),
    ("d", 24 * 60 * 60 * 1_000_000_000),
    ("w", 7 * 24 * 60 * 60 * 1_000_000_000),
];

/// Parses an age or a length of time: `24h`, `1.5h`, `7d`, `1h30m`, `300ms`.
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn age(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("{text:?} is not an age: expected numbers and s, m, h, d or w, such as 24h or 7d")
    };
    let mut total: u128 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() || whole.len() > 18 || part.len() > 18 {
            return Err(wrong());
        }
        let digits = |text: &str| match text {
            "" => Ok(0),
            text => text.parse::<u128>().map_err(|_| wrong()),
        };
        let part = digits(part)? * unit / 10u128.pow(part.len() as u32);
        total = total.saturating_add(digits(whole)? * unit + part);
        rest = tail;
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| wrong())?;
    Ok(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

/// Parses a moment: an age before `now`, seconds since 1970, a date, or a date and a time (RFC 3339;
/// in UTC where no zone is given).
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "{text:?} is neither an age nor a time: expected such as 24h, 7d, 2026-01-31 or \
             2026-01-31T12:00:00Z"
        )
    };
    if let Ok(age) = age(text) {
        let age = jiff::SignedDuration::try_from(age).map_err(|_| wrong())?;
        return now.checked_sub(age).map_err(|_| wrong());
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).map_err(|_| wrong());
    }
    text.parse::<Timestamp>().or_else(|_| {
        let date = text.parse::<jiff::civil::DateTime>().map_err(|_| wrong())?;
        jiff::tz::Offset::UTC.to_timestamp(date).map_err(|_| wrong())
    })
}

/// The same moment as files have it.
pub fn system_time(time: Timestamp) -> SystemTime {
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Splits `key=value`; a key alone has an empty value.
///
/// # Errors
///
/// Where there is no key.
pub fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?} has no name before `=`"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a truth value as Go's flags do: `1`, `t`, `T`, `true`, `TRUE`, `True`, and likewise for
/// false.
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Reads docker's truth value and podman's words. Podman's `newer` asks, as `always` does: what is
/// here and current is not fetched again.
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    match text {
        "always" | "newer" | "ifnewer" => Ok(PullPolicy::Always),
        "missing" | "ifmissing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        text => match truth(text) {
            Ok(true) => Ok(PullPolicy::Always),
            Ok(false) => Ok(PullPolicy::Missing),
            Err(_) => {
                Err(format!("{text:?} is not a policy: expected always, missing, newer or never"))
            }
        },
    }
}

/// Splits `key=value`, both of which must be there.
///
/// # Errors
///
/// Where either is missing.
pub fn full_pair(text: &str) -> Result<(String, String), String> {
    match pair(text)? {
        (_, value) if value.is_empty() => Err(format!("{text:?} is not of the form name=value")),
        both => Ok(both),
    }
}

/// Splits `name:address` or `name=address` of `--add-host`; the address may be in brackets.
///
/// # Errors
///
/// Where either is missing, or the address is none.
pub fn host(text: &str) -> Result<(String, String), String> {
    let at = text.find(['=', ':']);
    let (name, address) = match at {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => return Err(format!("{text:?} is not of the form name:address")),
    };
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() || (bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err()) {
        return Err(format!("{text:?} is not of the form name:address"));
    }
    Ok((name.to_owned(), bare.to_owned()))
}

/// Parses `nofile=1024:2048`.
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = || format!("{text:?} is not a limit: expected name=soft or name=soft:hard");
    let (name, values) = text.split_once('=').ok_or_else(wrong)?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        text => text.parse().map(Some).map_err(|_| wrong()),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    if name.is_empty() || matches!((soft, hard), (Some(s), Some(h)) if s > h) {
        return Err(wrong());
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// Splits a line of comma-separated fields, of which some may be quoted as in CSV.
///
/// # Errors
///
/// Where a quote is not closed.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    Some((_, '"')) if chars.peek().is_some_and(|(_, c)| *c == '"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some((at, '"')) => break at + 1,
                    Some((_, c)) => field.push(c),
                    None => return Err(format!("a quote in {text:?} is not closed")),
                }
            };
            fields.push(field);
            rest = &quoted[end..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None if rest.is_empty() => return Ok(fields),
                None => return Err(format!("unexpected text after a quote in {text:?}")),
            }
        } else {
            match rest.split_once(',') {
                Some((field, next)) => {
                    fields.push(field.to_owned());
                    rest = next;
                }
                None => {
                    fields.push(rest.to_owned());
                    return Ok(fields);
                }
            }
        }
    }
}

/// Where a secret is, as typed: `id=ID[,src=PATH|,env=NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFlag {
    /// Its name in the Dockerfile.
    pub id: String,
    /// Its file.
    pub src: Option<String>,
    /// Its environment variable.
    pub env: Option<String>,
}

/// Parses `--secret`.
///
/// # Errors
///
/// A sentence about what is wrong.
pub fn secret(text: &str) -> Result<SecretFlag, String> {
    let mut flag = SecretFlag { id: String::new(), src: None, env: None };
    for field in fields(text)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("{field:?} is not of the form key=value"))?;
        match key.to_ascii_lowercase().as_str() {
            "id" => value.clone_into(&mut flag.id),
            "src" | "source" => flag.src = Some(value.to_owned()),
            "env" => flag.env = Some(value.to_owned()),
            // The type follows from src and env; buildx takes the words.
            "type" if matches!(value, "file" | "env") => {
                if value == "env" && flag.env.is_none() {
                    flag.env = Some(String::new());
                }
            }
            _ => return Err(format!("unknown field {key:?}: expected id, src, env or type")),
        }
    }
    if flag.id.is_empty() {
        flag.id = flag.src.clone().unwrap_or_default();
    }
    if flag.id.is_empty() {
        return Err("a secret needs an id: id=NAME,src=PATH".to_owned());
    }
    if flag.env.as_deref() == Some("") {
        flag.env = Some(flag.src.take().unwrap_or_else(|| flag.id.clone()));
    }
    Ok(flag)
}

/// An agent for RUN --mount=type=ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshFlag {
    /// Name of the agent in mounts.
    pub id: String,
    /// One socket, or files of keys; none for the socket in `SSH_AUTH_SOCK`.
    pub paths: Vec<String>,
}

/// Parses `--ssh`: `default`, `ID`, `ID=SOCKET`, `ID=KEYFILE[,KEYFILE…]`.
///
/// # Errors
///
/// Where there is no id.
pub fn ssh(text: &str) -> Result<SshFlag, String> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        return Err(format!("{text:?} has no id"));
    }
    let paths = match paths {
        "" => Vec::new(),
        paths => paths.split(',').map(str::to_owned).collect(),
    };
    if paths.iter().any(String::is_empty) {
        return Err(format!("{text:?} has an empty path"));
    }
    Ok(SshFlag { id: id.to_owned(), paths })
}

/// What follows a network mode that reaches the host's loopback.
const HOST_LOOPBACK: &str = ":host-loopback";

/// `--network`, for `build` and `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkFlag {
    /// Which network a command has.
    pub mode: NetworkMode,
    /// Whether a private one reaches the host's loopback.
    pub reaches_host_loopback: bool,
}

/// Parses a network mode: `default` (or `private`, `bridge`), `none` or `host`; the first may be
/// followed by `:host-loopback`.
///
/// # Errors
///
/// A sentence for the user.
pub fn network(text: &str) -> Result<NetworkFlag, String> {
    let (mode, reaches_host_loopback) = match text.strip_suffix(HOST_LOOPBACK) {
        Some(mode) => (mode, true),
        None => (text, false),
    };
    let mode = match mode {
        "" | "default" | "private" | "bridge" | "sandbox" => NetworkMode::Private,
        _ if reaches_host_loopback => {
            return Err(format!("network mode {mode:?} cannot have {HOST_LOOPBACK:?}"));
        }
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        _ => return Err(format!("unknown network mode {mode:?}: expected default, none or host")),
    };
    Ok(NetworkFlag { mode, reaches_host_loopback })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_sums_of_units() {
        let seconds = |text: &str| age(text).map(|age| age.as_secs()).ok();
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("1.5h"), Some(5400));
        assert_eq!(age("1m300ms").ok(), Some(Duration::from_millis(60_300)));
        assert_eq!(age(".5s").ok(), Some(Duration::from_millis(500)));
        for text in ["", "h", "1", "1y", "-1h", "1h ago", "99999999999999999999w", ".h", "1.2.3h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn moments_are_ages_dates_times_and_seconds() {
        let now: Timestamp = "2024-06-15T12:00:00Z".parse().unwrap();
        let at = |text: &str| moment(text, now).map(|at| at.to_string());
        assert_eq!(at("24h"), Ok("2024-06-14T12:00:00Z".to_owned()));
        assert_eq!(at("2024-06-01"), Ok("2024-06-01T00:00:00Z".to_owned()));
        assert_eq!(at("2024-06-01T02:00:00"), Ok("2024-06-01T02:00:00Z".to_owned()));
        assert_eq!(at("2024-06-01T02:00:00+02:00"), Ok("2024-06-01T00:00:00Z".to_owned()));
        assert_eq!(at("0"), Ok("1970-01-01T00:00:00Z".to_owned()));
        for wrong in ["", "soon", "2024-13-01", "99999999999999h", "24"] {
            assert_eq!(at(wrong).is_ok(), wrong == "24", "{wrong}");
        }
    }

    #[test]
    fn sizes_have_dockers_units() {
        for (text, want) in [
            ("64m", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("1.5k", Some(1536)),
            ("512", Some(512)),
            ("10 mb", Some(10 << 20)),
            ("", None),
            ("m", None),
            ("5x", None),
            ("-1", None),
            ("99999999999t", None),
        ] {
            assert_eq!(bytes(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn fields_may_be_quoted() {
        let of = |text: &str| fields(text).ok();
        let list = |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("type=oci,dest=a"), list(&["type=oci", "dest=a"]));
        assert_eq!(of(r#""dest=a,b",x"#), list(&["dest=a,b", "x"]));
        assert_eq!(of(r#""a""b""#), list(&["a\"b"]));
        assert_eq!(of(r#""a"#), None);
    }

    #[test]
    fn secrets_name_a_file_or_a_variable() {
        let flag = |id: &str, src: Option<&str>, env: Option<&str>| SecretFlag {
            id: id.into(),
            src: src.map(Into::into),
            env: env.map(Into::into),
        };
        for (text, want) in [
            ("id=a,src=/f", Some(flag("a", Some("/f"), None))),
            ("id=a,env=T", Some(flag("a", None, Some("T")))),
            ("type=env,id=T", Some(flag("T", None, Some("T")))),
            ("id=a", Some(flag("a", None, None))),
            ("src=/f", Some(flag("/f", Some("/f"), None))),
            ("env=T", None),
            ("id=a,foo=b", None),
        ] {
            assert_eq!(secret(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn hosts_and_limits_are_checked() {
        assert_eq!(host("a:1.2.3.4"), Ok(("a".into(), "1.2.3.4".into())));
        assert_eq!(host("a=[::1]"), Ok(("a".into(), "::1".into())));
        assert!(host("a").is_err());
        assert!(host("a:b").is_err());
        assert_eq!(ulimit("nofile=1:2").unwrap().hard, Some(2));
        assert!(ulimit("nofile=3:2").is_err());
        assert!(ulimit("nofile").is_err());
    }

    #[test]
    fn only_a_private_network_can_reach_the_hosts_loopback() {
        let parsed = |text| network(text).map(|flag| (flag.mode, flag.reaches_host_loopback));
        assert_eq!(parsed("default"), Ok((NetworkMode::Private, false)));
        assert_eq!(parsed("bridge:host-loopback"), Ok((NetworkMode::Private, true)));
        assert_eq!(parsed("none"), Ok((NetworkMode::None, false)));
        assert_eq!(parsed("host"), Ok((NetworkMode::Host, false)));
        for wrong in ["none:host-loopback", "host:host-loopback", "wide", "default:"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
