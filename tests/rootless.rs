//! Builds by users without privileges, who are real users of the machine, and builds in a container: the
//! images are those of root, byte for byte.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program: failing is its job")]

#[macro_use]
#[path = "kit/skip.rs"]
mod skip;

mod kit;

use std::collections::BTreeSet;

use kit::{Archive, Kit, Run, base, host, users};

const DOCKERFILE: &str = "\
FROM fixture/base AS one
RUN echo hi > /a && chown 5:6 /a && chmod 4755 /a && ln -s a /l && chown -h 8:9 /l && mkfifo /p
RUN mkdir -p /d/e && chown -R 1000:1001 /d && rm /etc/group && rm -r /home && mkdir /home && touch /home/x
RUN --mount=type=cache,target=/cache,uid=1000 --mount=type=tmpfs,target=/t \\
    --mount=type=secret,id=s,uid=1000,mode=0400 \\
    stat -c '%u:%g %a' /cache /run/secrets/s > /facts && cat /run/secrets/s >> /facts && touch /cache/x /t/x
FROM fixture/base
COPY --chown=app --from=one /a /b
COPY --from=one /d /d
COPY --from=one /a /l /facts /
COPY words /words
ADD tree.tar /tree
RUN --mount=type=bind,from=one,target=/one stat -c '%u:%g %a %n' /a /b /d/e /tree/f /one/a > /seen
WORKDIR /w
USER app
RUN id > /tmp/id && touch /tmp/app
";

/// The files of the builds below.
fn fill(kit: &Kit) {
    kit.file("words", "some words\n").dockerfile(DOCKERFILE);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_path("f").unwrap();
    header.set_mode(0o640);
    header.set_uid(12);
    header.set_gid(34);
    header.set_mtime(base::TIME);
    header.set_size(2);
    header.set_cksum();
    tar.append(&header, &b"f\n"[..]).unwrap();
    kit.file("tree.tar", tar.into_inner().unwrap());
}

/// Builds with all times fixed, so that equal files are equal bytes.
fn timeless(kit: &Kit, run: Run) -> Archive {
    let path = kit.out("timeless.tar");
    let output = format!(
        "--output=type=oci,dest={},compression=uncompressed,rewrite-timestamp=true",
        path.display()
    );
    run.env("SOURCE_DATE_EPOCH", "1767225600")
        .env("s", "hush")
        .arg("--secret=id=s")
        .arg(output)
        .ok();
    Archive::open(&path)
}

fn build(kit: &Kit) -> Archive {
    fill(kit);
    timeless(kit, kit.build())
}

/// Compares entry by entry first: that says what differs.
#[track_caller]
fn same(ours: &Archive, roots: &Archive) {
    for (number, (ours, roots)) in ours.layers.iter().zip(&roots.layers).enumerate() {
        let names = |entries: &[kit::archive::Entry]| -> Vec<String> {
            entries
                .iter()
                .map(|e| format!("{} {} {:o} {}:{}", e.path, e.kind, e.mode, e.uid, e.gid))
                .collect()
        };
        assert_eq!(names(ours), names(roots), "layer {number}");
    }
    assert_eq!(ours.digest, roots.digest);
}

#[test]
fn rootless_images_are_those_of_root() {
    let roots = build(&Kit::new());
    assert_eq!(roots.text("/facts"), "1000:0 755\n1000:0 400\nhush");
    assert!(
        roots.text("/seen").contains("12:34 640 /tree/f\n5:6 4755 /one/a"),
        "{}",
        roots.text("/seen")
    );
    same(&build(&Kit::of(users::without_ranges())), &roots);
    let kit = Kit::of(users::with_ranges());
    same(&build(&kit), &roots);
    let again = kit.build().env("SOURCE_DATE_EPOCH", "1767225600").env("s", "hush");
    assert_eq!(again.arg("--secret=id=s").ok().counts().ran, 0, "all is cached");
}

#[test]
fn rootless_users_have_their_own_ids_and_no_other_power() {
    let kit = Kit::of(users::with_ranges());
    kit.dockerfile("FROM fixture/base\nRUN cat /proc/self/uid_map /proc/self/setgroups && touch /proc/sys/kernel/x; true\n");
    let outcome = kit.build().ok();
    // As seen from inside, a namespace below the builder's, which has the user's ids.
    let log = outcome.log().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(log.contains("0 0 1 1 1 65536 allow"), "{log}");
    let run = |words: &[&str]| kit.builder(["run"]).args(words).run();
    kit.build().args(["-t", "mine"]).ok();
    assert_eq!(run(&["mine", "sh", "-c", "exit 7"]).status, Some(7));
    assert!(run(&["--user=app", "mine", "id"]).stdout().starts_with("uid=1000(app) gid=1001(app)"));
    assert_eq!(run(&["--network=none", "mine", "ls", "/sys/class/net"]).stdout(), "lo\n");
}

#[test]
fn rootless_ids_beyond_the_users_ranges_fail_before_a_wrong_owner_is_made() {
    let kit = Kit::of(users::with_ranges());
    kit.file("f", "x");
    for step in ["COPY --chown=100000 f /", "USER 100000\nWORKDIR /w", "USER 100000\nRUN true"] {
        kit.dockerfile(&format!("FROM fixture/base\n{step}\n"));
        let outcome = kit.build().run();
        assert_ne!(outcome.status, Some(0), "{step}");
        let text = outcome.text();
        assert!(text.contains("/etc/subuid"), "{step}: {text}");
    }
    // With one id owners are written down, whatever they are.
    let kit = Kit::of(users::without_ranges());
    kit.file("f", "x").dockerfile(
        "FROM fixture/base\nCOPY --chown=100000 f /\nRUN stat -c %u /f > /seen && chown 1000700000 /f\n",
    );
    let image = timeless(&kit, kit.build());
    assert_eq!(image.text("/seen"), "100000\n");
    assert_eq!(image.entry("/f").uid, 1_000_700_000);
}

#[test]
fn rootless_private_networks_lead_out_but_not_to_the_machine_s_loopback() {
    use std::io::Write as _;
    let user = users::with_ranges();
    let kit = Kit::of(user.clone());
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in service.incoming() {
            stream.unwrap().write_all(b"canary").unwrap();
        }
    });
    let script = format!("ip route | grep -q default && nc -w 5 10.0.2.2 {port}; true");
    kit.dockerfile("FROM fixture/base\n").build().args(["-t", "net"]).ok();
    for (network, seen) in [("default", ""), ("default:host-loopback", "canary")] {
        let run = kit.builder(["run", "--network", network, "net", "sh", "-c", &script]);
        let outcome = run.with_tun_for(&user).ok();
        assert_eq!(outcome.stdout(), seen, "{network}: {}", outcome.text());
        assert!(!outcome.text().contains("host's network"), "{}", outcome.text());
    }
    // A build has it too.
    kit.dockerfile("FROM fixture/base\nRUN ip route | grep default\n");
    let outcome = kit.build().with_tun_for(&user).ok();
    assert!(outcome.log().contains("via 10.0.2.2"), "{}", outcome.log());
}

/// Owners that only a record can hold, where the user has one id.
const OWNERS: &str = "\
FROM fixture/base AS one
RUN echo hi > /a && chown 5:6 /a && chmod 4755 /a && mkdir -p /d/e && chown -R 1000:1001 /d && chown 1000:7 /d && cp -a /a /copy
RUN touch /d/later && chmod 711 /d && chown 0:0 /copy && rm /etc/group && rm -r /home && mkdir /home && touch /home/x
FROM fixture/base
COPY --chown=12:34 --from=one /a /b
COPY --from=one /d /d
COPY --from=one /a /copy /
ADD tree.tar /tree
WORKDIR /w
RUN chown 3 /w && mv /d /moved && chown 1000:9 /moved/e
";

#[test]
fn rootless_owners_are_remembered_where_there_is_one_id() {
    let image = |kit: &Kit| {
        fill(kit);
        kit.dockerfile(OWNERS);
        timeless(kit, kit.build())
    };
    let roots = image(&Kit::new());
    let kit = Kit::of(users::without_ranges());
    same(&image(&kit), &roots);
    kit.dockerfile("FROM fixture/base\nUSER app\nRUN id -u && chown 7 /no/such || echo refused\n");
    let outcome = kit.build().ok();
    let said = format!("{}{}", outcome.text(), outcome.log());
    assert!(
        said.contains("1000\n")
            && said.contains("refused")
            && said.contains("other users are names"),
        "{said}"
    );
    kit.dockerfile("FROM fixture/base\nUSER app\nRUN --security=insecure touch /tmp/x && stat -c 'is %u' /tmp/x\n");
    let outcome = kit.build().arg("--allow=security.insecure").ok();
    assert!(outcome.log().contains("is 1000"), "{}", outcome.log());
}

/// What commands see of owners and users, and what they make as somebody else.
const APPEARANCES: &str = "\
FROM fixture/base AS one
RUN ln -s x /l && chown -h 5:6 /l && mv /l /link && ln /link /same && mkfifo /p && chown 7:8 /p \\
 && touch /f && chown 9:10 /f && chown :11 /f && chgrp -h 12 /link && mkdir /dir && cp -a /link /p /f /dir && chown 13:14 /dir
RUN stat -c '%n %u:%g %F' /link /same /p /f /dir > /seen && stat -L -c '%u:%g' /f >> /seen \\
 && ls -ln / | awk '{ print $1, $3, $4 }' >> /seen
FROM one
COPY --from=one /dir /copies
RUN chown -h 0:0 /link && rm /p && touch /dir/of-root && cp -a /f /kept && cp /f /lost
RUN mkdir /passing && chgrp 100 /passing && chmod 2775 /passing && cd /passing && touch f && mkdir d && ln -s x l \\
 && mkfifo p && touch d/f
WORKDIR /tmp
USER app
RUN id > id && touch f && mkdir d && mkdir -m 700 d/e/ && ln -s x l && mkfifo p && echo x > d/e/f && mktemp -d d/XXXXXX > /dev/null \\
 && umask 077 && echo secret > private && chgrp users f && ! chown 0 f && ! chgrp 0 f && stat -c '%n %u:%g %a' f d l p private > seen \\
 && rm -r d/??????
USER 1000:100
RUN id > id2 && touch g && cat /proc/self/fd/0 < g && sh -c 'echo append >> g' && ! su root -c true
USER root
RUN id > id3 && su app -c 'id > id4; touch by-su' && mkdir -m 1777 shared && su nobody -s /bin/sh -c 'touch shared/nobodys' \\
 && cp /bin/busybox /bin/id-of && chown app /bin/id-of && chmod 4755 /bin/id-of
";

#[test]
fn rootless_commands_see_owners_and_users_as_roots_do() {
    let image = |kit: &Kit| {
        kit.dockerfile(APPEARANCES);
        timeless(kit, kit.build())
    };
    let roots = image(&Kit::new());
    assert!(
        roots.text("/seen").contains("/link 5:12 symbolic link\n/same 5:12"),
        "{}",
        roots.text("/seen")
    );
    let single = image(&Kit::of(users::without_ranges()));
    for file in ["/seen", "/tmp/id", "/tmp/seen", "/tmp/id2", "/tmp/id3", "/tmp/id4"] {
        assert_eq!(single.text(file), roots.text(file), "{file}");
    }
    same(&single, &roots);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn rootless_32_bit_programs_see_owners_and_users_too() {
    use kit::narrow::{CALLS, EXIT, ROOM, TEXT, is_run_here, program, write};
    if !is_run_here(Kit::new().beside("").as_path()) {
        return;
    }
    const KEEP: u32 = u32::MAX;
    let calls = [
        [212, TEXT, 5000, 7],                            // chown32
        [182, TEXT, KEEP, 11],                           // chown, of 16 bits
        [195, TEXT, ROOM, 0],                            // stat64
        [206, 2, ROOM + 0x200, 0],                       // setgroups32: two of what stands there, 0
        [208, KEEP, 6000, KEEP],                         // setresuid32
        [24, 0, 0, 0],                                   // getuid, of 16 bits
        [49, 0, 0, 0],                                   // geteuid
        [201, 0, 0, 0],                                  // geteuid32
        [209, ROOM + 0x300, ROOM + 0x304, ROOM + 0x308], // getresuid32
        [165, ROOM + 0x310, ROOM + 0x312, ROOM + 0x314], // getresuid
        [205, 0, 0, 0],                                  // getgroups32
        [23, 7000, 0, 0],                                // setuid, of 16 bits: not allowed any more
        [5, TEXT + 3, 0o101, 0o640],                     // open, creating a file
    ];
    let length = 16 * calls.len() as u32;
    let shown = [write(CALLS, length), write(ROOM + 24, 8), write(ROOM + 0x300, 0x18), EXIT];
    let program = program(&[&calls[..], &shown].concat(), b"/f\0/tmp/new\0");
    let image = |kit: &Kit| {
        kit.file("narrow", &program).dockerfile(
            "FROM fixture/base\nCOPY --chmod=755 narrow /\nRUN touch /f\n\
             RUN /narrow | od -An -v -t d4 > /seen && stat -c '%u:%g' /f /tmp/new >> /seen\n",
        );
        timeless(kit, kit.build())
    };
    let roots = image(&Kit::new());
    assert!(roots.text("/seen").ends_with("5000:11\n6000:0\n"), "{}", roots.text("/seen"));
    let single = image(&Kit::of(users::without_ranges()));
    assert_eq!(single.text("/seen"), roots.text("/seen"));
    same(&single, &roots);
}

/// Files of all kinds, enough of them for several blocks of a compressed layer.
const KINDS: &str = "\
FROM fixture/base
COPY tree /tree
RUN cd /tree && ln d1/f1 hard && ln d1/f1 d2/hard && ln -s d1 link && ln -s /no/such d2/dangling && mkfifo pipe
RUN cd /tree && chmod 4755 d1/f1 && chmod 2750 d3/f3 && chmod 1777 d4 && chmod 000 d5/f5 && mkdir -m 000 closed \
  && chown 5:6 d1/f21 && chown -R 1000:1001 d6 && rm -r d7 && touch 'd8/a name with spaces' d8/ä && rm d9/f9
";

/// The digests of the images of one build, compressed in each way.
fn compressed(kit: &Kit, threads: u32, setup: &str) -> Vec<(&'static str, String)> {
    for number in 0..1500_u32 {
        let line = format!("{:08x} {number}\n", number.wrapping_mul(0x9e37_79b9));
        let name = format!("tree/d{}/f{number}", number % 10);
        kit.file(&name, line.repeat((number as usize * 37) % 700));
    }
    kit.dockerfile(KINDS);
    let ways = ["uncompressed", "gzip", "zstd", "estargz"];
    let path = |way: &str| kit.out(&format!("{way}.tar"));
    let outputs = ways.map(|way| {
        let dest = path(way).display().to_string();
        format!("--output=type=oci,dest={dest},compression={way},force-compression=true,rewrite-timestamp=true")
    });
    let run = kit.build().env("SOURCE_DATE_EPOCH", "1767225600").args(outputs);
    run.env("BUILDER_THREADS", threads.to_string()).after(setup).ok();
    let way = |way: &'static str| (way, Archive::open(&path(way)).digest);
    ways.map(way).to_vec()
}

#[test]
fn rootless_images_are_those_of_root_in_each_compression() {
    let roots = compressed(&Kit::new(), 1, "true");
    assert_eq!(compressed(&Kit::new(), 8, "taskset -p -c 0 $$ > /dev/null"), roots);
    for user in [users::with_ranges(), users::without_ranges()] {
        // That it is the user who builds shows in a directory that nobody else made.
        let setup = "umask 077; mkdir \"$HOME/mine\"";
        let kit = Kit::of(user.clone());
        assert_eq!(compressed(&kit, 8, setup), roots, "{}", user.name);
        let owner = std::fs::metadata(kit.beside("home/mine")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), user.uid);
    }
}

/// The digest of an index for several platforms.
fn index_of(kit: &Kit, threads: u32) -> String {
    let text = "FROM --platform=$BUILDPLATFORM fixture/base AS build\n\
        RUN echo all > /all && chown 5:6 /all\nARG TARGETARCH\n\
        RUN echo $TARGETARCH > /own && chown app /own && chmod 4755 /own\n\
        FROM scratch\nCOPY --from=build /all /own /\n";
    let path = kit.out("index.tar");
    kit.dockerfile(text)
        .build()
        .args(["--platform=linux/riscv64,linux/amd64", "--platform=linux/arm64"])
        .arg(format!("--output=type=oci,rewrite-timestamp=true,dest={}", path.display()))
        .env("SOURCE_DATE_EPOCH", "1767225600")
        .env("BUILDER_THREADS", threads.to_string())
        .ok();
    let (listed, _, images) = Archive::open_index(&path);
    assert_eq!(images["linux/riscv64"].entry("/own").mode, 0o4755);
    listed["digest"].as_str().unwrap().to_owned()
}

#[test]
fn rootless_indexes_for_several_platforms_are_those_of_root() {
    let roots = index_of(&Kit::new(), 1);
    assert_eq!(index_of(&Kit::new(), 8), roots);
    for user in [users::with_ranges(), users::without_ranges()] {
        let name = user.name;
        assert_eq!(index_of(&Kit::of(user), 3), roots, "{name}");
    }
}

/// A project that needs a compiler, packages that make users and groups, programs with set-id bits and
/// capabilities, and commands of other users.
const PROJECT: &str = "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
    gcc libc6-dev make adduser sudo libcap2-bin iputils-ping openssh-client cron
RUN adduser --disabled-password --gecos '' app && echo 'app ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/app \
 && getcap /bin/ping | grep net_raw
RUN su app -c 'id -u; sudo id -u; ulimit -x 5; id -u; touch /tmp/mine; stat -c %U /tmp/mine' | tr '\\n' ' ' \
 | grep -x '1000 0 1000 app ' && rm /tmp/mine
RUN echo app:word | chpasswd && setpriv --reuid=app --regid=app --init-groups id -un | grep -x app
WORKDIR /src
COPY --chown=app Makefile hello.c ./
USER app
RUN sudo chown app . && make && ./hello | grep -x 'hello from 1000'
FROM fixture/base
COPY --from=build /src/hello /usr/bin/
COPY --from=build /etc/shadow /etc/gshadow /etc/sudoers.d /etc/copied/
COPY --from=build /var/spool /var/spool
COPY --chown=app --from=build /home/app /home/app
USER app
RUN mkdir /tmp/bin && cp /usr/bin/hello /tmp/bin && hello && test -r /home/app/.profile
";

#[test]
fn rootless_projects_on_debian_are_those_of_root() {
    if !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    // Layers of the stage that installs, then of the image; without the times that programs write.
    let image = |kit: &Kit| {
        let tar = kit.beside("debian.tar");
        std::fs::copy(base::debian(), &tar).unwrap();
        let import = kit.builder(["import"]).arg(&tar).arg("debian:bookworm");
        import.env("SOURCE_DATE_EPOCH", "1767225600").ok();
        kit.file("Makefile", "hello: hello.c\n\t$(CC) -static -o $@ $<\n").file(
            "hello.c",
            "#include <stdio.h>\n#include <unistd.h>\n\
             int main(void) { printf(\"hello from %d\\n\", getuid()); return 0; }\n",
        );
        kit.dockerfile(PROJECT);
        let stage = timeless(kit, kit.build().arg("--target=build"));
        let image = timeless(kit, kit.build());
        let layers = stage.layers.iter().chain(&image.layers);
        layers.map(|layer| layer.iter().map(described).collect()).collect::<Vec<BTreeSet<_>>>()
    };
    let roots = image(&Kit::new());
    for user in [users::with_ranges(), users::without_ranges()] {
        let name = user.name;
        let theirs = image(&Kit::of(user));
        assert_eq!(theirs.len(), roots.len(), "{name}");
        for (number, (theirs, roots)) in theirs.iter().zip(&roots).enumerate() {
            let other: Vec<_> = theirs.difference(roots).collect();
            let missing: Vec<_> = roots.difference(theirs).collect();
            assert!(
                other.is_empty() && missing.is_empty(),
                "{name}, layer {number}: {other:#?} for {missing:#?}"
            );
        }
    }
}

/// Says what an entry is, but for its time and content.
fn described(entry: &kit::archive::Entry) -> String {
    let e = entry;
    format!("{} {} {:o} {}:{} {:?}", e.path, e.kind, e.mode, e.uid, e.gid, e.pax)
}

#[test]
fn nested_builds_work_in_a_container_that_allows_user_namespaces() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\n").build().args(["-t", "base"]).ok();
    if !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    kit.builder(["import"]).arg(base::debian()).arg("debian:bookworm").ok();
    kit.builder(["save", "base", "-o"]).arg(kit.path("base.tar")).ok();
    std::fs::copy(kit::BUILDER, kit.path("builder")).unwrap();
    kit.chmod("builder", 0o755);
    kit.dockerfile(
        "FROM base\nRUN touch /f && chown 5:6 /f && stat -c '%u:%g' /f && ! touch /proc/sys/x\n",
    );
    for store in ["/v/store", "/store"] {
        let script = format!(
            "export BUILDER_ROOT={store}; cd /v && ./builder load -i base.tar && \
             ./builder build --progress=plain -t made . && ./builder run made stat -c '%u %n' /f"
        );
        let volume = format!("-v{}:/v", kit.path("").display());
        let run = kit.builder(["run", "--security-opt=seccomp=unconfined"]).arg(volume);
        let outcome = run.args(["debian:bookworm", "sh", "-c", &script]).ok();
        assert!(outcome.stdout().ends_with("5 /f\n"), "{}", outcome.stdout());
        outcome.says(&["5:6", "/proc is masked by a container around the builder"]);
    }
    let refused = kit.builder(["run"]).arg(format!("-v{}:/v", kit.path("").display()));
    // One that allows none runs no command, and does all else.
    let script = "export BUILDER_ROOT=/store; cd /v && ./builder load -i base.tar && \
                  ./builder images | grep base && ./builder run base true";
    let refused = refused.args(["debian:bookworm", "sh", "-c", script]).exits(125);
    refused.says(&["no user namespace can be made", "--security-opt seccomp=unconfined"]);
}

#[test]
fn nested_commands_see_owners_and_users_where_there_is_one_id() {
    if !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let kit = Kit::of(users::without_ranges());
    let tar = kit.beside("debian.tar");
    std::fs::copy(base::debian(), &tar).unwrap();
    kit.builder(["import"]).arg(&tar).arg("debian:bookworm").ok();
    kit.dockerfile(
        "FROM fixture/base\nRUN touch /f && chown 5:6 /f && ln -s x /l && chown -h 7:8 /l\n\
         USER app\nRUN touch /tmp/g && id -un | grep app\n",
    );
    let script = "export BUILDER_ROOT=/store; cd /v && \
        ./builder build --network=none --build-context=fixture/base=oci-layout:///v/base -t made context && \
        ./builder run --network=none made stat -c '%u:%g %n' /f /l /tmp/g";
    let run = kit.builder(["run", "--network=none", "--security-opt=seccomp=unconfined"]);
    let run = run.arg(format!("-v{}:/v", kit.beside("").display()));
    let outcome = run.args(["debian:bookworm", "sh", "-c", script]).ok();
    assert!(outcome.stdout().ends_with("5:6 /f\n7:8 /l\n1000:1001 /tmp/g\n"), "{}", outcome.text());
}
