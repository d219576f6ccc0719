//! Whole projects in the places that people build in: `cargo bench --bench places [-- NAME…]`.
//!
//! A row is a project, a column a place: the seconds of a cold build there, and whether the image has
//! the digest that root of this machine makes (`=`) or another one (`DIFFERS`). Under the table are
//! the digests. The first line has the rung that commands run on.
//!
//! | project | what |
//! |---|---|
//! | `busybox` | two stages, files and owners |
//! | `gcc` | Debian: `apt-get install` of a compiler, `make`, a second stage |
//! | `owners` | Debian: `useradd`, `USER`, set-id bits, capabilities, hard links, `chown` |
//! | `python` | Debian: `python3 -m venv`, `pip install` |
//! | `node` | Debian: `npm ci` |
//! | `cargo` | Debian: `cargo build --release` |
//!
//! Packages come from Debian's, PyPI's and npm's registries, so the network is a part of the times.
//! Nothing here fails for being slow.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::format_collect,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark's results go to the terminal"
)]

#[macro_use]
#[path = "../tests/kit/skip.rs"]
mod skip;

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::pod::{self, Pod};
use kit::{Archive, Kit, Run, base, host, users};
use std::time::{Duration, Instant};

/// Certificates of this machine, for registries behind its proxy; no layer has them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

struct Project {
    name: &'static str,
    dockerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const PROJECTS: &[Project] = &[
    Project {
        name: "busybox",
        dockerfile: "\
FROM fixture/base AS build
RUN mkdir -p /out/deep && i=0; while [ $i -lt 300 ]; do echo $i > /out/deep/$i; i=$((i+1)); done
RUN chown -R app:app /out && ln /out/deep/1 /out/hard && chmod 4755 /out/deep/2
FROM fixture/base
COPY --from=build /out /out
USER app
RUN id -u > /tmp/who && echo new > /out/deep/3
",
        files: &[],
    },
    Project {
        name: "gcc",
        dockerfile: "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make
WORKDIR /src
COPY Makefile hello.c ./
RUN make && ./hello
FROM debian:bookworm
COPY --from=build /src/hello /usr/local/bin/
RUN hello > /said
",
        files: &[
            ("Makefile", "hello: hello.c\n\t$(CC) -o $@ $<\n"),
            ("hello.c", "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n"),
        ],
    },
    Project {
        name: "owners",
        dockerfile: "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin
RUN mkdir /d && cp /bin/true /d/net && setcap cap_net_raw+ep /d/net && cp /bin/true /d/set \\
 && chmod 6755 /d/set && echo 1 > /d/a && ln /d/a /d/b && chown 5:6 /d/a && mkfifo /d/pipe
FROM debian:bookworm
COPY --from=build /d /d
RUN useradd -m app && rm /etc/*- && sed -i 's/^app:!:[0-9]*/app:!:1/' /etc/shadow \\
 && install -d -o app -g app /work && rm -rf /var/log/* /var/cache/ldconfig
USER app
WORKDIR /work
RUN id -un > who && chmod 0700 . && ln who again
",
        files: &[],
    },
    Project {
        name: "python",
        dockerfile: "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
RUN --mount=type=secret,id=ca,target=/ca.pem python3 -m venv /venv \\
 && PIP_CERT=/ca.pem /venv/bin/pip install --no-compile six==1.16.0 && /venv/bin/python -c 'import six' \\
 && find /venv -name __pycache__ -prune -exec rm -r {} +
FROM debian:bookworm
COPY --from=build /venv /venv
",
        files: &[],
    },
    Project {
        name: "node",
        dockerfile: "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends nodejs npm
WORKDIR /app
COPY package.json index.js ./
RUN --mount=type=secret,id=ca,target=/ca.pem export NODE_EXTRA_CA_CERTS=/ca.pem \\
 && npm install --package-lock-only && npm ci && node index.js
FROM debian:bookworm
COPY --from=build /app /app
",
        files: &[
            (
                "package.json",
                "{\"name\": \"app\", \"version\": \"1.0.0\", \"dependencies\": {\"is-odd\": \"3.0.1\"}}\n",
            ),
            ("index.js", "console.log(require('is-odd')(3), process.memoryUsage().rss > 0)\n"),
        ],
    },
    Project {
        name: "cargo",
        dockerfile: "\
FROM debian:bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cargo
WORKDIR /src
COPY Cargo.toml main.rs ./
RUN cargo build --release --offline && ./target/release/app
FROM debian:bookworm
COPY --from=build /src/target/release/app /usr/local/bin/
",
        files: &[
            (
                "Cargo.toml",
                "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2021\"\n\
                 [[bin]]\nname = \"app\"\npath = \"main.rs\"\n",
            ),
            ("main.rs", "fn main() { println!(\"built\"); }\n"),
        ],
    },
];

struct Place {
    name: &'static str,
    kit: fn() -> Kit,
    enter: fn(Run) -> Run,
}

const PLACES: &[Place] = &[
    Place { name: "root", kit: Kit::new, enter: |run| run },
    Place { name: "user", kit: || Kit::of(users::without_ranges()), enter: |run| run },
    Place { name: "podman", kit: Kit::new, enter: |run| run.in_pod(Pod::Podman) },
    Place {
        name: "hostUsers",
        kit: || Kit::of(users::without_ranges()),
        enter: |run| run.in_pod_where(Pod::DockerAdmin, pod::own_users),
    },
    Place { name: "stock pod", kit: Kit::new, enter: |run| run.in_pod(Pod::Docker) },
    Place {
        name: "restricted",
        kit: || Kit::of(users::without_ranges()),
        enter: |run| run.in_pod(Pod::Restricted),
    },
];

/// What came of a build.
struct Built {
    took: Duration,
    rung: String,
    digest: Option<String>,
}

fn main() {
    let names: Vec<String> =
        std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    if !Pod::can_run() || !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    // One import, whose time is in the base image's configuration.
    let kit = Kit::new();
    let debian = kit.beside("debian.tar");
    kit.builder(["import"]).arg(base::debian()).arg("debian:bookworm").ok();
    kit.builder(["save", "debian:bookworm", "-o"]).arg(&debian).ok();

    let heads = PLACES.iter().map(|place| format!("{:>16}", place.name));
    println!("{:10}{}", "", heads.collect::<String>());
    let mut rungs = vec![String::new(); PLACES.len()];
    let mut digests = Vec::new();
    for project in PROJECTS.iter().filter(|p| names.is_empty() || names.iter().any(|n| n == p.name))
    {
        print!("{:10}", project.name);
        let mut wanted = None;
        for (place, rung) in PLACES.iter().zip(&mut rungs) {
            let built = build(project, place, &debian);
            let secs = built.took.as_secs_f64();
            let cell = match (&built.digest, &wanted) {
                (None, _) => "failed".to_owned(),
                (Some(digest), Some(wanted)) if digest != wanted => format!("{secs:.1} DIFFERS"),
                (Some(_), _) => format!("{secs:.1} ="),
            };
            print!("{cell:>16}");
            let _ = std::io::Write::flush(&mut std::io::stdout());
            wanted = wanted.or(built.digest);
            rung.clone_from(&built.rung);
        }
        println!();
        digests.push((project.name, wanted.unwrap_or_default()));
    }
    println!("{:10}{}", "rung", rungs.iter().map(|rung| format!("{rung:>16}")).collect::<String>());
    for (name, digest) in digests {
        println!("{name:10}{digest}");
    }
}

/// Builds a project at a place, in a store that has its base images and no more.
fn build(project: &Project, place: &Place, debian: &std::path::Path) -> Built {
    let kit = (place.kit)();
    kit.dockerfile(project.dockerfile);
    for (name, text) in project.files {
        kit.file(name, text);
    }
    let base = kit.beside("debian.tar");
    std::fs::copy(debian, &base).unwrap();
    (place.enter)(kit.builder(["load", "-i"]).arg(&base)).ok();
    let archive = kit.out("image.tar");
    let run = kit
        .build_showing("plain")
        .env("SOURCE_DATE_EPOCH", "1600000000")
        .arg(format!(
            "--secret=id=ca,src={}",
            kit.file("ca.pem", certificates()).path("ca.pem").display()
        ))
        .arg(format!("-otype=oci,dest={},rewrite-timestamp=true", archive.display()));
    let start = Instant::now();
    let outcome = (place.enter)(run).any();
    let took = start.elapsed();
    let text = outcome.text();
    let rung = text.split_once("--confinement=").map_or("none", |(_, rest)| {
        rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default()
    });
    let digest = (outcome.status == Some(0)).then(|| Archive::open(&archive).digest);
    if digest.is_none() {
        eprintln!("{} at {}:\n{text}", project.name, place.name);
    }
    Built { took, rung: rung.to_owned(), digest }
}

fn certificates() -> Vec<u8> {
    std::fs::read(CERTIFICATES).unwrap_or_default()
}
