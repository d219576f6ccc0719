//! A build's private network: one namespace, one user-mode helper that leads out of it.
//!
//! slirp4netns or pasta, whichever works first. Both need `/dev/net/tun`; where that cannot be
//! opened pasta waits for ever, so it is tried before anything is started. Every wait has a limit.
//! A helper is the spawner's child and dies with it.
//!
//! Source: slirp4netns(1), pasta(1).

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::spec::RunSpec;

/// How long a helper may take to be ready. slirp4netns needs 50 ms, pasta up to a second on a busy
/// machine.
const READY_LIMIT: Duration = Duration::from_secs(8);

/// How often a namespace is looked at while pasta, which says nothing, gets ready.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Where slirp4netns answers for names.
const SLIRP_DNS: &str = "10.0.2.3";

/// Where pasta is told to answer for names; an address that leads nowhere by itself.
const PASTA_DNS: &str = "169.254.1.1";

/// A network that steps can join.
#[derive(Debug)]
pub(super) struct Private {
    /// The namespace.
    pub namespace: OwnedFd,
    /// Address that answers for names.
    pub dns: &'static str,
    /// The helper; it ends when the spawner does.
    _helper: OwnedFd,
    /// slirp4netns ends when this closes.
    _exit: Option<OwnedFd>,
}

/// Starts a program with descriptors from 3 on; returns its pidfd.
pub(super) type Start<'a> = dyn Fn(Vec<String>, &[&OwnedFd]) -> Result<OwnedFd, String> + 'a;

/// Finds out by trying which helper works.
///
/// # Errors
///
/// What was tried, and what each said.
pub(super) fn start(namespace: OwnedFd, start: &Start<'_>) -> Result<Private, String> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("/dev/net/tun: {error}"))?;
    let mut said = Vec::new();
    match find("slirp4netns") {
        Some(program) => {
            // Its own sandbox needs more of the machine than its task does.
            for hardened in [true, false] {
                match slirp(&program, &namespace, hardened, start) {
                    Ok((helper, exit)) => {
                        return Ok(Private {
                            namespace,
                            dns: SLIRP_DNS,
                            _helper: helper,
                            _exit: Some(exit),
                        });
                    }
                    Err(error) => said.push(format!("slirp4netns: {error}")),
                }
            }
        }
        None => said.push("slirp4netns: not installed".into()),
    }
    match find("pasta") {
        Some(program) => match pasta(&program, &namespace, start) {
            Ok(helper) => {
                return Ok(Private { namespace, dns: PASTA_DNS, _helper: helper, _exit: None });
            }
            Err(error) => said.push(format!("pasta: {error}")),
        },
        None => said.push("pasta: not installed".into()),
    }
    said.dedup();
    Err(said.join("; "))
}

/// Finds a program where distributions put it.
fn find(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok())
}

/// A path by which another process of ours can open the namespace.
fn path_of(namespace: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

fn slirp(
    program: &Path,
    namespace: &OwnedFd,
    hardened: bool,
    start: &Start<'_>,
) -> Result<(OwnedFd, OwnedFd), String> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| e.to_string());
    let (ready, ready_writer) = pipe()?;
    let (exit_reader, exit) = pipe()?;
    let mut argv = vec![program.to_string_lossy().into_owned()];
    let mut option = |text: &str| argv.push(text.to_owned());
    for text in [
        "--configure",
        "--mtu=65520",
        "--disable-host-loopback",
        "--ready-fd=3",
        "--exit-fd=4",
        "--netns-type=path",
    ] {
        option(text);
    }
    if has_ipv6() {
        option("--enable-ipv6");
    }
    if hardened {
        option("--enable-sandbox");
        option("--enable-seccomp");
    }
    option(&path_of(namespace));
    option("tap0");
    let helper = start(argv, &[&ready_writer, &exit_reader])?;
    drop((ready_writer, exit_reader));

    let limit = Timespec { tv_sec: READY_LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut watched = [PollFd::new(&ready, PollFlags::IN)];
    match rustix::event::poll(&mut watched, Some(&limit)) {
        Ok(0) => {
            kill(&helper);
            Err(format!("not ready within {} s", READY_LIMIT.as_secs()))
        }
        Ok(_) => {
            let mut byte = [0];
            match std::fs::File::from(ready).read(&mut byte) {
                Ok(1) => Ok((helper, exit)),
                _ => Err("it ended at once".into()),
            }
        }
        Err(error) => Err(error.to_string()),
    }
}

fn pasta(program: &Path, namespace: &OwnedFd, start: &Start<'_>) -> Result<OwnedFd, String> {
    let mut argv = vec![program.to_string_lossy().into_owned()];
    for text in [
        "--foreground",
        "--quiet",
        "--config-net",
        "--no-map-gw",
        "--tcp-ports=none",
        "--udp-ports=none",
        "--tcp-ns=none",
        "--udp-ns=none",
    ] {
        argv.push(text.to_owned());
    }
    argv.push(format!("--dns-forward={PASTA_DNS}"));
    argv.push(format!("--netns={}", path_of(namespace)));
    let helper = start(argv, &[])?;
    // It says nothing when it is ready. What shows it is a route in the namespace.
    let begun = Instant::now();
    loop {
        if has_default_route(namespace) {
            return Ok(helper);
        }
        let mut watched = [PollFd::new(&helper, PollFlags::IN)];
        if !matches!(rustix::event::poll(&mut watched, Some(&LOOK_EVERY)), Ok(0)) {
            return Err("it ended at once".into());
        }
        if begun.elapsed() > READY_LIMIT {
            kill(&helper);
            return Err(format!("not ready within {} s", READY_LIMIT.as_secs()));
        }
    }
}

fn kill(helper: &OwnedFd) {
    rustix::process::pidfd_send_signal(helper, rustix::process::Signal::KILL).ok();
}

/// Looks from a thread that joins the namespace and ends.
fn has_default_route(namespace: &OwnedFd) -> bool {
    std::thread::scope(|scope| {
        let look = || {
            use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
            use std::os::fd::AsFd;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
            let routes = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
            // Destination is the second field; a default route's is zero.
            Some(routes.lines().skip(1).any(|line| line.split('\t').nth(1) == Some("00000000")))
        };
        scope.spawn(look).join().ok().flatten().unwrap_or(false)
    })
}

/// Says whether the machine has a way out by IPv6.
fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/ipv6_route").is_ok_and(|routes| {
        routes.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.next().is_some_and(|to| to.bytes().all(|b| b == b'0'))
                && fields.next() == Some("00")
                && !line.trim_end().ends_with(" lo")
        })
    })
}

/// Writes `/etc/hosts`: BuildKit's two lines, then what the user adds.
pub(super) fn hosts(spec: &RunSpec) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        spec.hostname
    );
    for (host, address) in &spec.extra_hosts {
        text.push_str(address);
        text.push('\t');
        text.push_str(host);
        text.push('\n');
    }
    text
}

/// Writes `/etc/resolv.conf`. Search domains and options are the host's; name servers are the
/// private network's, the host's own on its network, and none where there is no network.
pub(super) fn resolv_conf(host: &str, servers: Servers<'_>) -> String {
    let mut text = String::new();
    for line in host.lines() {
        let mut fields = line.split_whitespace();
        match (fields.next(), servers) {
            (Some("nameserver"), Servers::Host) => {
                text.push_str(line);
                text.push('\n');
            }
            (Some("nameserver"), Servers::Reachable) => {
                let address = fields.next().and_then(|a| a.parse::<IpAddr>().ok());
                if address.is_some_and(|address| !is_loopback(address)) {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            (Some("search" | "domain" | "options"), _) => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    if let Servers::This(server) = servers {
        text.insert_str(0, &format!("nameserver {server}\n"));
    }
    text
}

/// Which name servers a `resolv.conf` names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Servers<'a> {
    /// The host's.
    Host,
    /// Those of the host's that are not the host itself.
    Reachable,
    /// This one.
    This(&'a str),
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_keeps_what_is_not_about_servers() {
        let host =
            "# made\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nsearch a.b\noptions ndots:2\n";
        assert_eq!(
            resolv_conf(host, Servers::This("10.0.2.3")),
            "nameserver 10.0.2.3\nsearch a.b\noptions ndots:2\n"
        );
        assert_eq!(
            resolv_conf(host, Servers::Reachable),
            "nameserver 10.1.1.1\nsearch a.b\noptions ndots:2\n"
        );
        assert!(resolv_conf(host, Servers::Host).starts_with("nameserver 127.0.0.53\n"));
    }

    #[test]
    fn hosts_has_the_name_and_additions() {
        let mut spec = RunSpec::new(Vec::new());
        spec.hostname = "h".into();
        spec.extra_hosts = vec![("db".into(), "10.9.8.7".into())];
        assert_eq!(
            hosts(&spec),
            "127.0.0.1\tlocalhost h\n::1\tlocalhost ip6-localhost ip6-loopback\n10.9.8.7\tdb\n"
        );
    }
}
