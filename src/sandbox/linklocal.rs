//! Keeping commands in a private network away from link-local addresses, where clouds serve the
//! machine's credentials to whatever runs on it.
//!
//! Two barriers, because each has a gap. Routes in the namespace make a connection fail at once,
//! but a command with `CAP_NET_RAW`, one of Docker's capabilities, can send packets past them. A
//! filter on the tap device drops every frame to such an address before the helper can read it;
//! only a process that holds the device can change that.
//!
//! | addresses | of |
//! |---|---|
//! | 169.254.0.0/16, fe80::/10 | link-local; the metadata of AWS, Azure, Google, Oracle, and credentials of containers |
//! | fd00:ec2::254, fd00:ec2::23 | metadata and pod identity of AWS |
//! | fd20:ce::254, fd00:c1::a9fe:a9fe | metadata of Google and of Oracle |
//! | 100.100.100.200 | metadata of Alibaba |
//! | ::/64, 64:ff9b::a9fe:0/112 | other spellings of IPv4 addresses |
//!
//! Neighbour discovery, which is ICMPv6 to fe80::/10, passes.
//!
//! Source: rtnetlink(7), packet(7), the kernel's `drivers/net/tun.c`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// IPv4 networks that are barred: address and prefix length.
const V4: [(Ipv4Addr, u8); 2] =
    [(Ipv4Addr::new(169, 254, 0, 0), 16), (Ipv4Addr::new(100, 100, 100, 200), 32)];

/// IPv6 networks that are barred, besides fe80::/10.
const V6: [(Ipv6Addr, u8); 6] = [
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23), 128),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128),
    (Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128),
    (Ipv6Addr::UNSPECIFIED, 64),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xa9fe, 0), 112),
];

/// Link-local addresses of IPv6: of these ICMPv6 passes.
const V6_LINK: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Whether an address is barred.
pub(super) fn is_barred(address: IpAddr) -> bool {
    let within = |bits: u128, net: u128, width: u32, prefix: u8| {
        (bits ^ net) >> (width - u32::from(prefix)) == 0
    };
    match address {
        IpAddr::V4(v4) => V4
            .iter()
            .any(|&(net, prefix)| within(v4.to_bits().into(), net.to_bits().into(), 32, prefix)),
        IpAddr::V6(v6) => V6
            .iter()
            .chain([&V6_LINK])
            .any(|&(net, prefix)| within(v6.to_bits(), net.to_bits(), 128, prefix)),
    }
}

/// Adds unreachable routes to the network namespace of this thread. To a server of `names` the
/// namespace keeps its way, by `gateway`.
///
/// # Errors
///
/// What netlink(7) says. A kernel without IPv6 needs no routes of it.
pub(super) fn add_routes(names: &[Ipv4Addr], gateway: Ipv4Addr) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    // NETLINK_ROUTE is protocol 0.
    let protocol = None;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    for &(net, prefix) in &V4 {
        add_route(&socket, &route(&net.octets(), prefix, None))?;
    }
    for server in names {
        add_route(&socket, &route(&server.octets(), 32, Some(gateway)))?;
    }
    // To an unspecified address no packet goes by a route; those are the filter's.
    for &(net, prefix) in V6.iter().filter(|(net, _)| !net.is_unspecified()) {
        match add_route(&socket, &route(&net.octets(), prefix, None)) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES | libc::EINVAL)
                ) => {}
            result => result?,
        }
    }
    Ok(())
}

/// `RTM_NEWROUTE` with its header: an unreachable route, or one by a gateway.
fn route(net: &[u8], prefix: u8, gateway: Option<Ipv4Addr>) -> Vec<u8> {
    const NEW_ROUTE: u16 = 24;
    const REQUEST_ACK_CREATE_REPLACE: u16 = 0x1 | 0x4 | 0x400 | 0x100;
    const TABLE_MAIN: u8 = 254;
    const BY_ADMINISTRATOR: u8 = 4;
    const UNICAST: u8 = 1;
    const UNREACHABLE: u8 = 7;
    const DESTINATION: u16 = 1;
    const GATEWAY: u16 = 5;
    let family = if net.len() == 4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let kind = if gateway.is_some() { UNICAST } else { UNREACHABLE };
    let mut message = vec![0; 4];
    message.extend(NEW_ROUTE.to_ne_bytes());
    message.extend(REQUEST_ACK_CREATE_REPLACE.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, prefix, 0, 0, TABLE_MAIN, BY_ADMINISTRATOR, 0, kind, 0, 0, 0, 0]);
    let mut attribute = |kind: u16, value: &[u8]| {
        message.extend((4 + value.len() as u16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
    };
    attribute(DESTINATION, net);
    if let Some(gateway) = gateway {
        attribute(GATEWAY, &gateway.octets());
    }
    let length = (message.len() as u32).to_ne_bytes();
    message[..4].copy_from_slice(&length);
    message
}

fn add_route(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, message, SendFlags::empty(), &kernel)?;
    let mut answer = [0; 512];
    let (_, length) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty())?;
    // A header of 16 bytes, then the number of the error, negative.
    let error = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Attaches the filter to the tap device of a helper.
///
/// # Errors
///
/// When the helper's descriptors cannot be reached, as in a container that forbids ptrace(2).
pub(super) fn attach_filter(helper: &OwnedFd, names: &[Ipv4Addr]) -> io::Result<()> {
    let tap = tap_of(helper)?;
    crate::sys::tun::attach_filter(tap.as_fd(), &filter(names))
}

/// Returns a duplicate of the helper's descriptor that has a tap device.
fn tap_of(helper: &OwnedFd) -> io::Result<OwnedFd> {
    let own = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", helper.as_raw_fd()))?;
    let pid = own.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    let pid = pid.ok_or(io::ErrorKind::NotFound)?;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let entry = entry?;
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // The name of the interface that the descriptor has.
        if let (Some(number), true) = (number, text.lines().any(|line| line.starts_with("iff:"))) {
            return Ok(pidfd_getfd(helper, number, PidfdGetfdFlags::empty())?);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the helper has no tap device"))
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
/// Loads the half word at X plus the constant.
const LOAD_HALF_AFTER: u16 = 0x48;
/// Loads four times the low half of a byte into X: the length of an IPv4 header.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

const PASS: (u16, u8, u8, u32) = (RETURN, 0, 0, u32::MAX);
const DROP: (u16, u8, u8, u32) = (RETURN, 0, 0, 0);

/// The program that decides of an Ethernet frame whether it passes. To servers of `names` questions
/// for names pass, and nothing else.
fn filter(names: &[Ipv4Addr]) -> Vec<(u16, u8, u8, u32)> {
    let (v4, v6) = (of_v4(names), of_v6());
    let mut program = vec![
        (LOAD_HALF, 0, 0, 12),
        // ARP. What is neither that nor IP no helper reads.
        (JUMP_EQUAL, 0, 1, 0x0806),
        PASS,
        (JUMP_EQUAL, 3, 0, 0x0800),
        (JUMP_EQUAL, 1, 0, 0x86dd),
        DROP,
        (JUMP, 0, 0, v4.len() as u32),
    ];
    program.extend(v4);
    program.extend(v6);
    program
}

fn of_v4(names: &[Ipv4Addr]) -> Vec<(u16, u8, u8, u32)> {
    let mut program = Vec::new();
    for server in names {
        program.extend([
            (LOAD_WORD, 0, 0, 30),
            (JUMP_EQUAL, 0, 10, server.to_bits()),
            // Only a first fragment has a port.
            (LOAD_HALF, 0, 0, 20),
            (JUMP_SET, 7, 0, 0x1fff),
            (LOAD_BYTE, 0, 0, 23),
            (JUMP_EQUAL, 1, 0, libc::IPPROTO_UDP as u32),
            (JUMP_EQUAL, 0, 4, libc::IPPROTO_TCP as u32),
            (LOAD_HEADER_LENGTH, 0, 0, 14),
            (LOAD_HALF_AFTER, 0, 0, 16),
            (JUMP_EQUAL, 0, 1, 53),
            PASS,
            DROP,
        ]);
    }
    for (net, prefix) in V4 {
        program.extend([
            (LOAD_WORD, 0, 0, 30),
            (AND, 0, 0, mask(prefix)),
            (JUMP_EQUAL, 0, 1, net.to_bits()),
            DROP,
        ]);
    }
    program.push(PASS);
    program
}

fn of_v6() -> Vec<(u16, u8, u8, u32)> {
    let mut program = Vec::new();
    for (net, prefix) in V6.iter().chain([&V6_LINK]) {
        let words = net.to_bits();
        let mut compared = Vec::new();
        for word in 0..4 {
            let length = prefix.saturating_sub(32 * word).min(32);
            if length == 0 {
                break;
            }
            let at = u32::from(word);
            let wanted = (words >> (96 - 32 * at)) as u32;
            compared.push((38 + 4 * at, mask(length), wanted));
        }
        let then = if (*net, *prefix) == V6_LINK {
            // Extension headers are not looked behind.
            vec![(LOAD_BYTE, 0, 0, 20), (JUMP_EQUAL, 0, 1, libc::IPPROTO_ICMPV6 as u32), PASS, DROP]
        } else {
            vec![DROP]
        };
        let count = compared.len();
        for (number, (at, mask, wanted)) in compared.into_iter().enumerate() {
            let rest = 3 * (count - number - 1) + then.len();
            program.extend([
                (LOAD_WORD, 0, 0, at),
                (AND, 0, 0, mask),
                (JUMP_EQUAL, 0, rest as u8, wanted),
            ]);
        }
        program.extend(then);
    }
    program.push(PASS);
    program
}

/// A mask of the highest `length` bits.
fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does; a load beyond the frame drops it.
    fn passes(program: &[(u16, u8, u8, u32)], frame: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        let load = |from: u32, length: usize| {
            let bytes = frame.get(from as usize..from as usize + length)?;
            Some(bytes.iter().fold(0_u32, |value, &byte| value << 8 | u32::from(byte)))
        };
        loop {
            let (code, yes, no, k) = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { yes } else { no });
            match code {
                LOAD_WORD | LOAD_HALF | LOAD_BYTE | LOAD_HALF_AFTER | LOAD_HEADER_LENGTH => {
                    let (from, length) = match code {
                        LOAD_WORD => (k, 4),
                        LOAD_HALF => (k, 2),
                        LOAD_HALF_AFTER => (k + x, 2),
                        _ => (k, 1),
                    };
                    let Some(value) = load(from, length) else { return false };
                    if code == LOAD_HEADER_LENGTH {
                        x = 4 * (value & 15);
                    } else {
                        a = value;
                    }
                }
                AND => a &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => at += jump(a == k),
                JUMP_SET => at += jump(a & k != 0),
                RETURN => return k != 0,
                code => panic!("{code}"),
            }
        }
    }

    fn frame(to: &str, protocol: u8, port: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        match to.parse().unwrap() {
            IpAddr::V4(to) => {
                frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
                frame.extend([10, 0, 2, 100]);
                frame.extend(to.octets());
            }
            IpAddr::V6(to) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
                frame.extend([0xfd; 16]);
                frame.extend(to.octets());
            }
        }
        frame.extend(1000_u16.to_be_bytes());
        frame.extend(port.to_be_bytes());
        frame
    }

    #[test]
    fn frames_to_link_local_addresses_are_dropped_and_others_pass() {
        let program = filter(&[]);
        for (to, protocol, want) in [
            ("169.254.169.254", 6, false),
            ("169.254.0.1", 17, false),
            ("169.254.255.255", 1, false),
            ("169.253.255.255", 6, true),
            ("169.255.0.0", 6, true),
            ("100.100.100.200", 6, false),
            ("100.100.100.201", 6, true),
            ("10.0.2.3", 17, true),
            ("fd00:ec2::254", 6, false),
            ("fd00:ec2::23", 6, false),
            ("fd00:ec2::253", 17, true),
            ("fd20:ce::254", 6, false),
            ("fd00:c1::a9fe:a9fe", 6, false),
            ("fe80::1", 6, false),
            ("febf::1", 17, false),
            ("fe80::2", 58, true),
            ("fec0::1", 6, true),
            ("::ffff:169.254.169.254", 6, false),
            ("::169.254.169.254", 6, false),
            ("64:ff9b::a9fe:a9fe", 6, false),
            ("64:ff9b::808:808", 6, true),
            ("2001:db8::1", 6, true),
            ("ff02::1", 58, true),
        ] {
            assert_eq!(passes(&program, &frame(to, protocol, 80)), want, "{to} {protocol}");
            let is_icmp = protocol == 58;
            assert!(is_icmp || is_barred(to.parse().unwrap()) != want, "{to}");
        }
        let mut arp = frame("169.254.169.254", 6, 80);
        arp[12..14].copy_from_slice(&[8, 6]);
        assert!(passes(&program, &arp));
        arp[12..14].copy_from_slice(&[0x81, 0]);
        assert!(!passes(&program, &arp), "tagged frames");
    }

    #[test]
    fn a_name_server_there_answers_questions_for_names_alone() {
        let server = Ipv4Addr::new(169, 254, 169, 254);
        let program = filter(&[Ipv4Addr::new(169, 254, 1, 1), server]);
        for (protocol, port, want) in
            [(17, 53, true), (6, 53, true), (6, 80, false), (17, 80, false), (1, 53, false)]
        {
            let passes = passes(&program, &frame("169.254.169.254", protocol, port));
            assert_eq!(passes, want, "{protocol} {port}");
        }
        let mut later = frame("169.254.169.254", 17, 53);
        later[21] = 1;
        assert!(!passes(&program, &later), "a later fragment has no port");
        assert!(!passes(&program, &frame("169.254.169.253", 17, 53)));
        assert!(passes(&program, &frame("8.8.8.8", 6, 80)));
    }
}
