//! None, host, private.

use std::io::{Read, Write};
use std::net::TcpListener;

use builder::sandbox::{NetworkMode, Runs, SandboxError};

use super::kit::Kit;

#[test]
fn privileged_without_network_there_is_lo_alone_and_it_works() {
    let Some(kit) = Kit::new() else { return };
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; ls /sys/class/net; \
        echo pong | nc -l -p 80 & \
        for i in $(seq 100); do nc 127.0.0.1 80 2>/dev/null && break; sleep 0.05; done";
    // Other interfaces (tunl0, sit0) are the kernel's own wherever their modules are loaded.
    let seen = kit.says(script);
    assert!(seen.starts_with("lo\n") && seen.ends_with("pong\n"), "{seen}");
    assert!(!seen.contains("eth") && !seen.contains("ens"), "{seen}");
}

#[test]
fn privileged_the_host_s_network_is_the_host_s() {
    let Some(kit) = Kit::new() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        listener.accept().unwrap().0.write_all(b"canary").unwrap();
    });
    let mut spec = kit.spec(&format!("nc 127.0.0.1 {port}"));
    spec.policy.network = NetworkMode::Host;
    assert_eq!(kit.run(&spec).stdout, "canary");
    served.join().unwrap();
}

#[test]
fn privileged_the_private_network_leads_out_but_not_to_host_loopback() {
    let Some(kit) = Kit::new() else { return };
    match kit.sandbox.start_network(&Runs::Natively) {
        Ok(()) => {}
        Err(SandboxError::Network { reason }) => {
            cannot_run_here!("{reason}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut spec = kit.spec(&format!(
        "cat /etc/resolv.conf; ip addr show tap0 2>/dev/null || ip addr; ip route; \
         for a in 127.0.0.1 10.0.2.2; do nc -w 1 $a {port} < /dev/null && echo reached $a; done; true"
    ));
    spec.policy.network = NetworkMode::Private;
    let outcome = kit.run(&spec);
    assert!(outcome.stdout.contains("nameserver "), "{outcome:?}");
    assert!(outcome.stdout.contains("default via"), "{outcome:?}");
    assert!(!outcome.stdout.contains("reached"), "{outcome:?}");
    if let Ok((mut stream, _)) = listener.accept() {
        stream.read_to_end(&mut Vec::new()).ok();
        panic!("the host's loopback was reached");
    }
    // The next command has one too.
    assert!(kit.run(&spec).stdout.contains("default via"));
}

#[test]
fn privileged_the_host_s_loopback_is_reached_where_it_was_asked_for() {
    use builder::sandbox::NetworkOptions;
    let asked =
        |reaches_host_loopback| NetworkOptions { reaches_host_loopback, ..Default::default() };
    for reaches in [false, true] {
        let Some(kit) = Kit::with(|options| options.network = asked(reaches)) else { return };
        if let Err(SandboxError::Network { reason }) = kit.sandbox.start_network(&Runs::Natively) {
            cannot_run_here!("{reason}");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(b"canary").unwrap();
            from
        });
        let mut spec = kit.spec(&format!("cat /etc/hosts; nc -w 2 10.0.2.2 {port}; true"));
        spec.policy.network = NetworkMode::Private;
        spec.policy.extra_hosts = vec![("host".into(), "host-gateway".into())];
        let outcome = kit.run(&spec);
        assert_eq!(outcome.stdout.contains("canary"), reaches, "{outcome:?}");
        assert_eq!(outcome.stdout.contains("10.0.2.2\thost"), reaches, "{outcome:?}");
        assert!(!outcome.stdout.contains("host-gateway"), "{outcome:?}");
        // Lets the thread go where nobody came.
        std::net::TcpStream::connect(("127.0.0.1", port)).ok();
        served.join().unwrap();
    }
}
