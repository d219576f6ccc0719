//! Private networks: one for each command that runs, and no way to a cloud's metadata.

use crate::kit::{Kit, host};

fn has_helper() -> bool {
    host::has("slirp4netns", "slirp4netns")
}

/// Two stages that serve one port at one time; each says what answers there.
const SERVERS: &str = "FROM fixture/base AS base
FROM base AS one
ENV N=one
RUN SERVE
FROM base AS two
ENV N=two
RUN SERVE
FROM base
COPY --from=one /seen /one
COPY --from=two /seen /two
";

/// Serves, waits until both do, and asks.
const SERVE: &str = "--mount=type=cache,id=meet,target=/c \
    mkdir /served && echo $N > /served/name && httpd -p 8080 -h /served && readlink /proc/self/ns/net > /c/$N.up; \
    until [ -s /c/one.up ] && [ -s /c/two.up ]; do usleep 1000; done; cmp -s /c/one.up /c/two.up && exit 3; \
    wget -q -O /seen http://127.0.0.1:8080/name; touch /c/$N.done; \
    until [ -e /c/one.done ] && [ -e /c/two.done ]; do usleep 1000; done";

#[test]
fn privileged_steps_that_run_at_once_have_networks_of_their_own() {
    if !has_helper() {
        return;
    }
    let kit = Kit::new();
    kit.dockerfile(&SERVERS.replace("SERVE", SERVE));
    let image = kit.image();
    assert_eq!((image.text("/one"), image.text("/two")), ("one\n".into(), "two\n".into()));
}

/// Packets that the loopback interface has seen: a mark that a command leaves in its network.
const PACKETS: &str = "awk '/lo:/ { print $3 }' /proc/net/dev";

#[test]
fn privileged_a_network_passes_to_steps_on_the_same_files_and_to_no_other() {
    if !has_helper() {
        return;
    }
    let kit = Kit::new();
    kit.dockerfile(&format!(
        "FROM fixture/base AS one\nRUN ping -c 2 127.0.0.1 && {PACKETS} > /first\nRUN {PACKETS} > /second\n\
         FROM fixture/base\nCOPY --from=one /first /second /\nRUN {PACKETS} > /other\n"
    ));
    let image = kit.image();
    let seen = ["/first", "/second", "/other"].map(|file| image.text(file));
    assert_eq!(seen[0], seen[1], "the second step has the first one's network");
    assert_eq!((seen[0] != "0\n", seen[2].as_str()), (true, "0\n"), "{seen:?}");
}

#[test]
fn privileged_a_network_in_which_something_is_left_is_not_used_again() {
    if !has_helper() {
        return;
    }
    let kit = Kit::new();
    // The side that closes first keeps its port busy for a minute.
    let leave = "httpd -p 8080 -h /etc && wget -q -O /dev/null http://127.0.0.1:8080/passwd && \
                 awk '/TCP:/ { print ($7 > 0) }' /proc/net/sockstat > /first";
    let look = "awk '/TCP:/ { print ($7 > 0) }' /proc/net/sockstat > /second";
    kit.dockerfile(&format!("FROM fixture/base\nRUN {leave}\nRUN {look}\n"));
    let image = kit.image();
    assert_eq!((image.text("/first"), image.text("/second")), ("1\n".into(), "0\n".into()));
}

#[test]
fn privileged_a_network_whose_addresses_may_have_changed_is_not_used_again() {
    if !has_helper() {
        return;
    }
    let kit = Kit::new();
    kit.dockerfile(
        "FROM fixture/base\nRUN ip addr add 10.9.9.9/32 dev lo && ip addr show lo > /first\n\
         RUN ip addr show lo > /second\n",
    );
    let output = format!("--output=type=oci,dest={}", kit.out("image.tar").display());
    kit.build().args(["--cap-add=NET_ADMIN", &output]).ok();
    let image = crate::kit::Archive::open(&kit.out("image.tar"));
    assert!(image.text("/first").contains("10.9.9.9"), "{}", image.text("/first"));
    assert!(!image.text("/second").contains("10.9.9.9"), "{}", image.text("/second"));
}

/// A machine with an address of a cloud's metadata and another one, after which a server is started.
const CLOUD: &str = "ip link set lo up && ip link add v0 type veth peer name v1 && ip link set v0 up && \
    ip addr add 10.99.0.1/24 dev v0 && ip addr add 169.254.169.254/32 dev lo && ip addr add 192.0.2.1/32 dev lo && \
    ip route add default via 10.99.0.2 dev v0";

#[test]
fn privileged_link_local_addresses_are_reached_only_where_it_was_asked_for() {
    if !has_helper() || !host::has("ip", "iproute2") {
        return;
    }
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\n").build().args(["-t", "it"]).ok();
    kit.file("served/192.0.2.1", "open\n").file("served/169.254.169.254", "canary\n");
    // It ends with the program that the shell becomes.
    let cloud = format!(
        "{CLOUD} && {{ setpriv --pdeathsig KILL busybox httpd -f -p 80 -h {} & }} && \
         until grep -q ':0050 ' /proc/net/tcp /proc/net/tcp6; do :; done",
        kit.path("served").display()
    );
    // Not wget: Debian's static one looks for libraries of the image to read an address.
    let script = "for to in 192.0.2.1 169.254.169.254; do \
                  printf 'GET /%s HTTP/1.0\\r\\n\\r\\n' $to | nc -w 9 $to 80 | tail -n 1; done";
    for (flag, variable, seen) in [
        (&[][..], "", "open\n"),
        (&["--allow-link-local"], "", "open\ncanary\n"),
        (&[], "1", "open\ncanary\n"),
        (&[], "0", "open\n"),
    ] {
        let run = kit.builder(["run"]).args(flag).args(["it", "sh", "-c", script]);
        let run =
            if variable.is_empty() { run } else { run.env("BUILDER_ALLOW_LINK_LOCAL", variable) };
        let outcome = run.in_network_after(&cloud).ok();
        assert_eq!(outcome.stdout(), seen, "{flag:?} {variable}: {}", outcome.text());
    }
    kit.dockerfile(&format!("FROM fixture/base\nRUN echo seen $({script})\n"));
    for (flag, seen) in [(&[][..], "seen open\n"), (&["--allow-link-local"], "seen open canary\n")]
    {
        let outcome = kit.build().arg("--no-cache").args(flag).in_network_after(&cloud).ok();
        assert!(outcome.log().contains(seen), "{flag:?}: {}", outcome.log());
    }
}

/// Sends a datagram to each address as a frame of its own making, past all routes; without an address
/// prints the first datagram that comes.
const FRAMES: &str = r#"
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc == 1) {
        char got[128] = {0};
        struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(99)};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        alarm(60);
        if (bind(fd, (void *)&any, sizeof any) < 0) return 1;
        return recv(fd, got, sizeof got - 1, 0) < 0 || fputs(got, stdout) < 0;
    }
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), bypass = 1;
    struct ifreq ifr = {0};
    strcpy(ifr.ifr_name, "tap0");
    if (fd < 0 || ioctl(fd, SIOCGIFHWADDR, &ifr) < 0) return 1;
    unsigned char mac[6];
    memcpy(mac, ifr.ifr_hwaddr.sa_data, 6);
    if (ioctl(fd, SIOCGIFINDEX, &ifr) < 0) return 2;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = ifr.ifr_ifindex, .sll_halen = 6};
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &bypass, sizeof bypass);
    for (int i = 1; i < argc; i++) {
        unsigned char frame[128] = {0x52, 0x55, 10, 0, 2, 2};
        memcpy(frame + 6, mac, 6);
        frame[12] = 8;
        unsigned char *ip = frame + 14, *udp = ip + 20;
        int length = strlen(argv[i]) + 1;
        unsigned char head[] = {0x45, 0, 0, 28 + length, 0, i, 0, 0, 64, 17, 0, 0, 10, 0, 2, 100};
        memcpy(ip, head, sizeof head);
        inet_pton(AF_INET, argv[i], ip + 16);
        unsigned sum = 0;
        for (int n = 0; n < 20; n += 2) sum += ip[n] << 8 | ip[n + 1];
        sum = (sum >> 16) + (sum & 0xffff);
        sum = ~((sum >> 16) + sum);
        ip[10] = sum >> 8, ip[11] = sum;
        unsigned char ports[] = {0x13, 0x88, 0, 99, 0, 8 + length, 0, 0};
        memcpy(udp, ports, sizeof ports);
        memcpy(udp + 8, argv[i], length - 1);
        udp[8 + length - 1] = '\n';
        // The filter shows as a full queue.
        sendto(fd, frame, 42 + length, 0, (void *)&to, sizeof to);
    }
    return 0;
}
"#;

#[test]
fn privileged_packets_of_a_commands_own_making_reach_no_link_local_address() {
    if !has_helper() || !host::has("ip", "iproute2") || !host::has("cc", "gcc") {
        return;
    }
    let kit = Kit::new();
    kit.file("frames.c", FRAMES);
    let (source, program) = (kit.path("frames.c"), kit.path("frames"));
    let [source, program] = [&source, &program].map(|path| path.display().to_string());
    host::tool(&["cc", "-static", "-o", &program, &source]);
    kit.dockerfile("FROM fixture/base\nCOPY --chmod=755 frames /\n")
        .build()
        .args(["-t", "it"])
        .ok();
    let script = "/frames 169.254.169.254 192.0.2.1 && until [ -s /v/got ]; do usleep 10000; done";
    for (flag, first) in [(&[][..], "192.0.2.1\n"), (&["--allow-link-local"], "169.254.169.254\n")]
    {
        let directory = kit.out("got");
        std::fs::create_dir_all(&directory).unwrap();
        let directory = directory.display().to_string();
        let cloud = format!(
            "{CLOUD} && {{ {program} > {directory}/got & }} && \
             until grep -q ':0063 ' /proc/net/udp; do :; done"
        );
        let run = kit.builder(["run", "-v", &format!("{directory}:/v")]).args(flag);
        run.args(["it", "sh", "-c", script]).in_network_after(&cloud).ok();
        assert_eq!(std::fs::read_to_string(format!("{directory}/got")).unwrap(), first, "{flag:?}");
    }
}
