//! EXPOSE: `80`, `80/udp`, `8000-8010`, and the host parts that Docker accepts and drops.
//!
//! Source: BuildKit, `dockerfile2llb/convert_expose.go`.

use std::net::IpAddr;

/// Turns one word of EXPOSE into ports as the config has them: `80/tcp`.
///
/// # Errors
///
/// A sentence about what is wrong with the word.
pub(super) fn parse(word: &str) -> Result<Vec<String>, String> {
    let (ip, host, container) = split(word);
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(format!("invalid port {word:?}: no port given"));
    }
    let protocol = match protocol.to_ascii_lowercase() {
        p if p.is_empty() => "tcp".to_owned(),
        p if matches!(p.as_str(), "tcp" | "udp" | "sctp") => p,
        _ => return Err(format!("invalid port {word:?}: unknown protocol {protocol:?}")),
    };
    if !ip.is_empty() {
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        bare.parse::<IpAddr>().map_err(|_| format!("invalid port {word:?}: bad address {ip:?}"))?;
    }
    let (first, last) = range(port).ok_or_else(|| format!("invalid port {word:?}"))?;
    if !host.is_empty() {
        let (a, b) = range(host).ok_or_else(|| format!("invalid host port in {word:?}"))?;
        if b - a != last - first && last != first {
            return Err(format!("invalid port {word:?}: the two ranges differ in length"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn split(word: &str) -> (&str, &str, &str) {
    let mut parts = word.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), host, container)
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = text.strip_prefix('+').unwrap_or(text);
        digits.parse::<u16>().ok()
    };
    match text.split_once('-') {
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (word, want) in [
            ("80", Some(vec!["80/tcp"])),
            ("80/UDP", Some(vec!["80/udp"])),
            ("8000-8002", Some(vec!["8000/tcp", "8001/tcp", "8002/tcp"])),
            ("127.0.0.1:8080:80", Some(vec!["80/tcp"])),
            ("[::1]:8080:80/sctp", Some(vec!["80/sctp"])),
            ("8080:80", Some(vec!["80/tcp"])),
            ("0", Some(vec!["0/tcp"])),
            ("80/foo", None),
            ("65536", None),
            ("9-8", None),
            ("", None),
            ("/tcp", None),
            ("x", None),
            ("1-2:80-82", None),
            ("nowhere:1:80", None),
        ] {
            let got = parse(word).ok();
            assert_eq!(got, want.map(|w| w.iter().map(|s| (*s).to_owned()).collect()), "{word:?}");
        }
    }
}
