//! A private network: one namespace, one user-mode helper that leads out of it.
//!
//! slirp4netns or pasta, whichever works first. Both need `/dev/net/tun`; where that cannot be
//! opened pasta waits for ever, so it is tried before anything is started. Every wait has a limit.
//! A helper is the spawner's child and dies with it, or with its [`Private`].
//!
//! # Not here
//!
//! Which command gets which network: [`networks`](super::networks).
//!
//! Source: slirp4netns(1), pasta(1).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::linklocal;
use super::policy::{NetworkMode, SandboxPolicy};

/// How long a helper may take to be ready. slirp4netns needs 50 ms, pasta up to a second on a busy
/// machine.
const READY_LIMIT: Duration = Duration::from_secs(8);

/// What is said of a helper that has not got ready in that time.
const NOT_READY: &str = "not ready";

/// How often a namespace is looked at while pasta, which says nothing, gets ready.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Address at which slirp4netns answers name queries, and at which pasta is made to.
const DNS: &str = "10.0.2.3";

/// Address of the sandbox in a private network, whichever helper makes it.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

/// Its gateway. Where the host's loopback may be reached, it answers here.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The name of the host in `--add-host`, which stands for its address.
const HOST_GATEWAY: &str = "host-gateway";

/// What a private network lets through besides connections to the outside.
#[derive(Debug, Clone, Default)]
pub struct NetworkOptions {
    /// Ports of the host that lead inside.
    pub ports: Vec<Port>,
    /// Whether services on the host's own loopback can be reached, by the gateway's address
    /// (10.0.2.2, or the name `host-gateway` stands for).
    pub reaches_host_loopback: bool,
    /// Whether link-local addresses can be reached, where clouds serve the machine's credentials.
    pub reaches_link_local: bool,
}

/// A port of the host that leads to one inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Address of the host to listen on.
    pub address: IpAddr,
    /// Port to listen on.
    pub outside: u16,
    /// Port that it leads to.
    pub inside: u16,
    /// For what.
    pub transport: Transport,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A network for one command at a time. Its helper ends when it is dropped.
#[derive(Debug)]
pub(super) struct Private {
    /// The namespace.
    pub namespace: OwnedFd,
    /// Address that answers for names; `None` where the host's servers are to be asked themselves.
    pub dns: Option<&'static str>,
    /// What made it.
    pub recipe: Recipe,
    /// Barrier that could not be set up, as a sentence for the user.
    pub lack: Option<String>,
    /// What was in it before the first command.
    content: Option<Content>,
    _helper: Helper,
}

/// What a network was made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipe {
    /// slirp4netns, in a sandbox of its own if `hardened`.
    Slirp {
        /// Its sandbox needs more of the machine than its task does.
        hardened: bool,
    },
    /// pasta.
    Pasta,
}

impl Recipe {
    fn program(self) -> &'static str {
        match self {
            Self::Slirp { .. } => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }
}

/// A running helper, killed when dropped.
#[derive(Debug)]
struct Helper {
    process: OwnedFd,
    /// slirp4netns ends when this closes.
    _exit: Option<OwnedFd>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        kill(&self.process);
    }
}

/// What is in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    /// Sockets of processes, of any family, wherever their descriptors are.
    sockets: u64,
    /// TCP connections that the kernel keeps after their sockets are closed.
    waiting: u64,
}

/// How often, and how many times, a namespace is looked at in which only sockets are left: those
/// that are closed count until their packets are read, or until an RCU grace period has passed.
const SETTLE_EVERY: Duration = Duration::from_millis(1);
const SETTLE_TRIES: usize = 30;

impl Private {
    /// Whether nothing is left of the commands that used it, as far as the kernel knows.
    pub(super) fn is_clean(&self) -> bool {
        let look = || {
            for _ in 0..SETTLE_TRIES {
                match (content(), self.content) {
                    (Some(now), Some(before)) if now == before => return true,
                    (Some(now), Some(before)) if now.waiting == before.waiting => {}
                    _ => return false,
                }
                std::thread::sleep(SETTLE_EVERY);
            }
            false
        };
        inside(&self.namespace, look).unwrap_or(false)
    }
}

/// Counts what is in the network namespace of this thread.
///
/// From one short file: `/proc/net/tcp` would walk the kernel's whole table of connections.
fn content() -> Option<Content> {
    Content::parse(&std::fs::read_to_string("/proc/thread-self/net/sockstat").ok()?)
}

impl Content {
    /// Parses the text of `/proc/net/sockstat`.
    fn parse(text: &str) -> Option<Self> {
        let value = |line: &str, name: &str| {
            let mut fields = text.lines().find(|l| l.starts_with(line))?.split(' ');
            fields.find(|field| *field == name)?;
            fields.next()?.parse().ok()
        };
        Some(Self { sockets: value("sockets:", "used")?, waiting: value("TCP:", "tw")? })
    }
}

/// Works in a thread that joins the namespace and ends.
fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let join = || {
            use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let panicked = |_| Err(std::io::Error::other("a thread panicked"));
        scope.spawn(join).join().unwrap_or_else(panicked)
    })
}

/// Starts a program with descriptors from 3 on; returns its pidfd.
pub(super) type Start<'a> = dyn Fn(Vec<String>, &[&OwnedFd]) -> Result<OwnedFd, String> + 'a;

/// Finds out by trying which helper works; `known` is one that did, and is tried first.
///
/// # Errors
///
/// What was tried, and what each said.
pub(super) fn start(
    namespace: OwnedFd,
    options: &NetworkOptions,
    resolver: &str,
    known: Option<Recipe>,
    start: &Start<'_>,
) -> Result<Private, String> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| format!("/dev/net/tun: {error}"))?;
    let names = Names::of(resolver);
    let slirp_first =
        [Recipe::Slirp { hardened: true }, Recipe::Slirp { hardened: false }, Recipe::Pasta];
    let mut recipes = match names {
        // Pasta leads to the resolver's port alone.
        Names::OnLoopback => [Recipe::Pasta, slirp_first[0], slirp_first[1]],
        Names::Forwarded | Names::Direct => slirp_first,
    };
    recipes.sort_by_key(|recipe| known != Some(*recipe));
    let mut said = Vec::new();
    for recipe in recipes {
        let name = recipe.program();
        let Some(program) = find(name) else {
            said.push(format!("{name}: not installed"));
            continue;
        };
        let (started, dns) = match recipe {
            Recipe::Pasta => (pasta(&program, &namespace, options, start), Some(DNS)),
            Recipe::Slirp { hardened } => (
                slirp(&program, &namespace, options, names, hardened, start),
                (names != Names::Direct).then_some(DNS),
            ),
        };
        match started {
            Ok(helper) => {
                let direct = if dns.is_none() { barred_servers(resolver) } else { Vec::new() };
                // First: the kernel counts a netlink socket for some time after it is closed.
                let content = inside(&namespace, content).ok().flatten();
                let bar = !options.reaches_link_local;
                let lack =
                    bar.then(|| bar_link_local(&namespace, &helper.process, &direct)).flatten();
                return Ok(Private { namespace, dns, recipe, lack, content, _helper: helper });
            }
            Err(error) => said.push(format!("{name}: {error}")),
        }
    }
    said.dedup();
    Err(said.join("; "))
}

/// Sets up both barriers around link-local addresses. Returns a sentence for the user if one that
/// nothing replaces is missing.
///
/// Without the filter, routes still stop every command that does not make packets itself. Only a
/// name server at such an address needs the filter: a route has no ports.
fn bar_link_local(namespace: &OwnedFd, helper: &OwnedFd, names: &[Ipv4Addr]) -> Option<String> {
    let routes = inside(namespace, || linklocal::add_routes(names, GATEWAY)).and_then(|done| done);
    let filter = linklocal::attach_filter(helper, names);
    match (routes, filter) {
        (_, Ok(())) => None,
        (Ok(()), Err(_)) if names.is_empty() => None,
        (_, Err(error)) => Some(format!(
            "link-local addresses, such as those of a cloud's metadata service, can be reached from \
             the private network: {error}"
        )),
    }
}

/// Lists the host's name servers at addresses that are barred.
fn barred_servers(resolver: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = name_servers(resolver)
        .filter(|server| linklocal::is_barred(*server))
        .filter_map(|server| match server {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Reads the addresses of name servers in the text of a `resolv.conf`.
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok())
}

/// How names are resolved in a private network.
///
/// A helper that answers for names asks the host's resolver. Where that listens on loopback,
/// slirp4netns passes on whatever is sent to its own address for names, to any port: a way to the
/// host's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// The helper answers.
    Forwarded,
    /// The host's servers beyond its loopback are asked themselves.
    Direct,
    /// There is no server but on loopback.
    OnLoopback,
}

impl Names {
    /// Decides by the host's `resolv.conf`.
    fn of(resolver: &str) -> Self {
        let all: Vec<IpAddr> = name_servers(resolver).collect();
        if !all.iter().copied().any(is_loopback) {
            return Self::Forwarded;
        }
        if all.into_iter().any(|server| !is_loopback(server)) {
            Self::Direct
        } else {
            Self::OnLoopback
        }
    }
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
    options: &NetworkOptions,
    names: Names,
    hardened: bool,
    start: &Start<'_>,
) -> Result<Helper, String> {
    let pipe =
        || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| e.to_string());
    let (ready, ready_writer) = pipe()?;
    let (exit_reader, exit) = pipe()?;
    let mut argv = vec![program.to_string_lossy().into_owned()];
    let mut option = |text: &str| argv.push(text.to_owned());
    for text in ["--configure", "--mtu=65520", "--ready-fd=3", "--exit-fd=4", "--netns-type=path"] {
        option(text);
    }
    if !options.reaches_host_loopback {
        option("--disable-host-loopback");
    }
    if names == Names::Direct {
        option("--disable-dns");
    }
    if has_ipv6() {
        option("--enable-ipv6");
    }
    // Named by a descriptor: the path of a socket has room for a hundred bytes.
    let asked = (!options.ports.is_empty()).then(tempfile::tempdir).transpose();
    let asked = asked.map_err(|e| format!("cannot make a directory for its socket: {e}"))?;
    let mut directory = None;
    if let Some(dir) = &asked {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir.path(), flags, Mode::empty());
        directory = Some(opened.map_err(|e| e.to_string())?);
        option("--api-socket=/proc/self/fd/5/api");
    }
    if hardened {
        option("--enable-sandbox");
        option("--enable-seccomp");
    }
    option(&path_of(namespace));
    option("tap0");
    let mut fds = vec![&ready_writer, &exit_reader];
    fds.extend(&directory);
    let helper = Helper { process: start(argv, &fds)?, _exit: Some(exit) };
    drop((ready_writer, exit_reader));

    let limit = Timespec { tv_sec: READY_LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut watched = [PollFd::new(&ready, PollFlags::IN)];
    match rustix::event::poll(&mut watched, Some(&limit)) {
        Ok(0) => Err(format!("{NOT_READY} within {} s", READY_LIMIT.as_secs())),
        Ok(_) => {
            let mut byte = [0];
            match std::fs::File::from(ready).read(&mut byte) {
                Ok(1) => {}
                _ => return Err("it ended at once".into()),
            }
            for port in &options.ports {
                let directory = directory.as_ref().ok_or("no socket to ask for ports")?;
                let path = format!("/proc/self/fd/{}/api", directory.as_raw_fd());
                open_port(Path::new(&path), port)
                    .map_err(|error| format!("port {}: {error}", port.outside))?;
            }
            Ok(helper)
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Asks slirp4netns for one port. One connection takes one request.
///
/// Source: slirp4netns(1), "API socket".
fn open_port(socket: &Path, port: &Port) -> Result<(), String> {
    let request = serde_json::json!({
        "execute": "add_hostfwd",
        "arguments": {
            "proto": port.transport.name(),
            "host_addr": port.address,
            "host_port": port.outside,
            "guest_addr": GUEST,
            "guest_port": port.inside,
        },
    });
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(READY_LIMIT))?;
        stream.write_all(request.to_string().as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|e| e.to_string())?;
    match answer.get("error") {
        Some(error) => Err(error["desc"].as_str().unwrap_or("refused").to_owned()),
        None => Ok(()),
    }
}

/// Starts pasta one way or another: as root it gives up what it needs to enter a namespace, unless
/// it is configured not to; and versions differ in how the namespace may be named.
fn pasta(
    program: &Path,
    namespace: &OwnedFd,
    options: &NetworkOptions,
    start: &Start<'_>,
) -> Result<Helper, String> {
    let as_root: &[&str] = &["--runas=0", "--netns-only"];
    // Named as its own descriptor, the namespace needs no right to look into our process.
    let (own, ours) = ("/proc/self/fd/3".to_owned(), path_of(namespace));
    let mut failure = String::new();
    for (flags, name) in [(as_root, &own), (&[], &own), (as_root, &ours), (&[], &ours)] {
        match pasta_with(program, namespace, options, flags, name, start) {
            Ok(helper) => return Ok(helper),
            Err(error) => failure = error,
        }
        // One that runs and does not get ready would not get ready in another way either.
        if failure.starts_with(NOT_READY) {
            break;
        }
    }
    Err(failure)
}

fn pasta_with(
    program: &Path,
    namespace: &OwnedFd,
    options: &NetworkOptions,
    flags: &[&str],
    name: &str,
    start: &Start<'_>,
) -> Result<Helper, String> {
    let mut argv = vec![program.to_string_lossy().into_owned()];
    for text in [
        "--foreground",
        "--quiet",
        "--config-net",
        // Pasta would give it the host's own address, and then the host could not be reached.
        "--address=10.0.2.100",
        "--netmask=24",
        "--gateway=10.0.2.2",
        "--tcp-ns=none",
        "--udp-ns=none",
    ] {
        argv.push(text.to_owned());
    }
    if !options.reaches_host_loopback {
        argv.push("--no-map-gw".into());
    }
    for (transport, option) in [(Transport::Tcp, "--tcp-ports"), (Transport::Udp, "--udp-ports")] {
        let mut ports = options.ports.iter().filter(|p| p.transport == transport).peekable();
        if ports.peek().is_none() {
            argv.push(format!("{option}=none"));
        }
        for port in ports {
            argv.push(format!("{option}={}/{}:{}", port.address, port.outside, port.inside));
        }
    }
    argv.push(format!("--dns-forward={DNS}"));
    argv.extend(flags.iter().map(|&flag| flag.to_owned()));
    argv.push(format!("--netns={name}"));
    let helper = Helper { process: start(argv, &[namespace])?, _exit: None };
    // It says nothing when it is ready. What shows it is a route in the namespace.
    let begun = Instant::now();
    loop {
        if has_default_route(namespace) {
            return Ok(helper);
        }
        let mut watched = [PollFd::new(&helper.process, PollFlags::IN)];
        if !matches!(rustix::event::poll(&mut watched, Some(&LOOK_EVERY)), Ok(0)) {
            return Err("it ended at once".into());
        }
        if begun.elapsed() > READY_LIMIT {
            return Err(format!("{NOT_READY} within {} s", READY_LIMIT.as_secs()));
        }
    }
}

fn kill(helper: &OwnedFd) {
    rustix::process::pidfd_send_signal(helper, rustix::process::Signal::KILL).ok();
}

/// Looks whether the namespace has a way out.
fn has_default_route(namespace: &OwnedFd) -> bool {
    let look = || {
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
        // Destination is the second field; a default route's is zero.
        Some(routes.lines().skip(1).any(|line| line.split('\t').nth(1) == Some("00000000")))
    };
    inside(namespace, look).ok().flatten().unwrap_or(false)
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
pub(super) fn hosts(policy: &SandboxPolicy, options: &NetworkOptions) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        policy.hostname
    );
    for (host, address) in &policy.extra_hosts {
        if address == HOST_GATEWAY {
            text.push_str(&host_address(policy.network, options).to_string());
        } else {
            text.push_str(address);
        }
        text.push('\t');
        text.push_str(host);
        text.push('\n');
    }
    text
}

/// Returns the address by which the host can be reached from inside.
fn host_address(mode: NetworkMode, options: &NetworkOptions) -> IpAddr {
    if mode == NetworkMode::Host {
        return Ipv4Addr::LOCALHOST.into();
    }
    if options.reaches_host_loopback {
        return GATEWAY.into();
    }
    // The address of packets to the outside. Connecting a datagram socket sends none; the
    // address is one of those that exist in books only (RFC 5737).
    let outbound = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9))?;
        socket.local_addr()
    };
    outbound().map_or(GATEWAY.into(), |address| address.ip())
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
    fn sockets_and_kept_connections_are_counted() {
        let text =
            "sockets: used 3\nTCP: inuse 1 orphan 0 tw 2 alloc 1 mem 0\nUDP: inuse 0 mem 0\n";
        assert_eq!(Content::parse(text), Some(Content { sockets: 3, waiting: 2 }));
        assert_eq!(Content::parse("sockets: used 3\n"), None);
    }

    #[test]
    fn name_servers_at_barred_addresses_are_known() {
        let text = "nameserver 127.0.0.53\nnameserver 169.254.169.254\nnameserver 10.0.0.2\n";
        assert_eq!(barred_servers(text), [Ipv4Addr::new(169, 254, 169, 254)]);
    }

    #[test]
    fn a_resolver_on_loopback_is_not_led_to_where_there_is_another() {
        for (text, want) in [
            ("", Names::Forwarded),
            ("nameserver 10.0.0.1\n", Names::Forwarded),
            ("nameserver 127.0.0.1\nnameserver 10.0.0.1\n", Names::Direct),
            ("search a\nnameserver 127.0.0.53\n", Names::OnLoopback),
            ("nameserver ::1\n", Names::OnLoopback),
        ] {
            assert_eq!(Names::of(text), want, "{text:?}");
        }
    }

    #[test]
    fn hosts_has_the_name_and_additions() {
        let policy = SandboxPolicy {
            hostname: "h".into(),
            extra_hosts: vec![("db".into(), "10.9.8.7".into())],
            ..SandboxPolicy::default()
        };
        assert_eq!(
            hosts(&policy, &NetworkOptions::default()),
            "127.0.0.1\tlocalhost h\n::1\tlocalhost ip6-localhost ip6-loopback\n10.9.8.7\tdb\n"
        );
    }
}
