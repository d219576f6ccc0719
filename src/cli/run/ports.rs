//! Ports of the host that lead inside: `-p [[IP:]HOST:]CONTAINER[/tcp|udp]`.

use crate::cli::failure::{Class, Failure};
use crate::sandbox::{Port, Transport};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

/// Ports as typed; the two ranges are of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    address: IpAddr,
    /// `None` for any that are free.
    outside: Option<RangeInclusive<u16>>,
    inside: RangeInclusive<u16>,
    transport: Transport,
}

impl Published {
    /// Says of each of its ports whether any free one of the host will do.
    pub(super) fn is_any(&self) -> impl Iterator<Item = bool> {
        std::iter::repeat_n(self.outside.is_none(), self.inside.len())
    }
}

/// Parses `-p`.
///
/// # Errors
///
/// A sentence about what is wrong, for the command line.
pub fn published(text: &str) -> Result<Published, String> {
    let wrong = || format!("{text:?} is not a port: expected [[IP:]HOST:]CONTAINER[/tcp|udp]");
    let (ports, transport) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Transport::Tcp),
        Some((ports, "udp")) => (ports, Transport::Udp),
        Some(_) => return Err(wrong()),
    };
    let (rest, inside) = match ports.rsplit_once(':') {
        Some((rest, inside)) => (Some(rest), inside),
        None => (None, ports),
    };
    let inside = range(inside).ok_or_else(wrong)?;
    // An address of version 6 has colons of its own, in brackets.
    let (address, outside) =
        rest.map(|rest| rest.rsplit_once(':').unwrap_or(("", rest))).unwrap_or_default();
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let address = match bare {
        "" => Ipv4Addr::UNSPECIFIED.into(),
        text => text.parse().map_err(|_| wrong())?,
    };
    let outside = match outside {
        "" => None,
        text => Some(range(text).ok_or_else(wrong)?),
    };
    if outside.as_ref().is_some_and(|outside| outside.len() != inside.len()) {
        return Err(format!("the ranges of {text:?} are not of one length"));
    }
    Ok(Published { address, outside, inside, transport })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

/// Finds a port for each that is to be any, and makes sure that the others are free.
///
/// # Errors
///
/// The failure to show where one is taken.
pub(super) fn choose(published: &[Published]) -> Result<Vec<Port>, Failure> {
    let mut ports = Vec::new();
    for one in published {
        let mut outside = one.outside.clone();
        for inside in one.inside.clone() {
            let wanted = outside.as_mut().and_then(Iterator::next).unwrap_or(0);
            let address = SocketAddr::new(one.address, wanted);
            // Taken for a moment only: the forwarder takes it for good.
            let bound = match one.transport {
                Transport::Tcp => TcpListener::bind(address).and_then(|l| l.local_addr()),
                Transport::Udp => UdpSocket::bind(address).and_then(|s| s.local_addr()),
            };
            let bound = bound.map_err(|error| {
                Failure::new(Class::Environment, format!("cannot listen on {address}: {error}"))
            })?;
            ports.push(Port {
                address: one.address,
                outside: bound.port(),
                inside,
                transport: one.transport,
            });
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_dockers() {
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let tcp = Transport::Tcp;
        for (text, want) in [
            ("8080:80", Some((any, Some(8080..=8080), 80..=80, tcp))),
            ("80", Some((any, None, 80..=80, tcp))),
            ("127.0.0.1:8080:80", Some(([127, 0, 0, 1].into(), Some(8080..=8080), 80..=80, tcp))),
            ("127.0.0.1::80", Some(([127, 0, 0, 1].into(), None, 80..=80, tcp))),
            ("[::1]:1:2", Some(("::1".parse().unwrap(), Some(1..=1), 2..=2, tcp))),
            ("53:53/udp", Some((any, Some(53..=53), 53..=53, Transport::Udp))),
            ("80/tcp", Some((any, None, 80..=80, tcp))),
            ("8000-8002:80-82", Some((any, Some(8000..=8002), 80..=82, tcp))),
            ("8000-8002:80-81", None),
            ("0:80", None),
            ("80:x", None),
            ("a:80:80", None),
            ("80/sctp", None),
            ("9-8", None),
            ("70000", None),
            ("", None),
        ] {
            let want = want.map(|(address, outside, inside, transport)| Published {
                address,
                outside,
                inside,
                transport,
            });
            assert_eq!(published(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn a_free_port_is_found_and_a_taken_one_refused() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = choose(&[published(&format!("127.0.0.1:{port}:80")).unwrap()]).unwrap_err();
        assert!(error.message.contains(&format!("127.0.0.1:{port}")), "{}", error.message);
        let found = choose(&[published("127.0.0.1::80").unwrap()]).unwrap();
        assert!(found[0].outside > 0 && found[0].inside == 80);
    }
}
