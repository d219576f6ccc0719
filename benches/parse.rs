//! Parsing and planning a Dockerfile of 200 lines, and what is long or deep: `cargo bench --bench parse`.
//!
//! Lines tell the best of many runs, in milliseconds, and what was made of the text.

#![expect(clippy::print_stdout, reason = "a benchmark's results go to the terminal")]

use builder::dockerfile::ast::{Dockerfile, Escape};
use builder::dockerfile::{expand, parse};
use builder::oci::{Config, Platform};
use builder::plan::{NoCache, Plan, PlanRequest, Resolved, Resolver, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Every name is an image without anything.
struct Images(usize);

impl Resolver for Images {
    fn resolve(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn std::error::Error + Send + Sync>> {
        self.0 += 1;
        let config = Config::empty(platform);
        Ok(Resolved::Image { image: self.0, name: name.to_owned(), config })
    }
}

/// Four stages of 50 lines as people write them.
fn sample() -> String {
    let mut text = "# syntax=docker/dockerfile:1\nARG VERSION=1.2\n".to_owned();
    for stage in 0..4 {
        let base =
            if stage == 0 { "debian:bookworm".to_owned() } else { format!("s{}", stage - 1) };
        let _ = writeln!(
            text,
            "FROM {base} AS s{stage}\nARG VERSION\nENV A{stage}=1 PATH=\"/opt/{stage}/bin:$PATH\""
        );
        for block in 0..3 {
            let _ = write!(
                text,
                "# The packages of block {block}\n\
                 RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\\n    \
                 apt-get update && \\\n    \
                 apt-get install -y --no-install-recommends \\\n        \
                 # why this one\n        \
                 build-essential \\\n        \
                 libssl-dev=${{VERSION}} \\\n        \
                 pkg-config\n\
                 WORKDIR /src/${{VERSION%.*}}/{block}\n\
                 COPY --chown=1000:1000 Cargo.toml Cargo.lock src/*.rs ./\n\
                 LABEL org.example.block=\"{block}\" org.example.stage='s{stage}'\n\
                 RUN <<EOF\nset -e\nmake -j\"$(nproc)\"\nEOF\n"
            );
        }
        let _ = writeln!(text, "EXPOSE 80 443/tcp\nUSER app\nENTRYPOINT [\"/app\", \"--serve\"]");
    }
    while text.lines().count() < 200 {
        text.push_str("ENV LAST=$A0\n");
    }
    text
}

fn planned(file: &Dockerfile) -> Plan {
    let request = PlanRequest {
        dockerfile: file,
        build_args: BTreeMap::new(),
        target: None,
        platform: None,
        names_platforms: false,
        build_platform: Platform::new("linux", "amd64", ""),
        labels: BTreeMap::new(),
        named_contexts: BTreeSet::new(),
        no_cache: NoCache::Never,
    };
    plan(&request, &mut Images(0)).expect("the sample can be planned")
}

fn best<T>(runs: usize, what: &str, mut run: impl FnMut() -> T, count: impl Fn(&T) -> String) {
    let (time, result): (Duration, T) = (0..runs)
        .map(|_| {
            let start = Instant::now();
            let result = run();
            (start.elapsed(), result)
        })
        .min_by_key(|(time, _)| *time)
        .expect("some runs");
    println!("{:>9.3} ms  {what}: {}", time.as_secs_f64() * 1e3, count(&result));
}

fn main() {
    let text = sample();
    let file = parse(text.as_bytes()).expect("the sample parses");
    let instructions =
        |file: &Dockerfile| -> usize { file.stages.iter().map(|s| s.instructions.len() + 1).sum() };
    let lines = text.lines().count();
    best(
        200,
        "parse",
        || parse(text.as_bytes()),
        |file| {
            let file = file.as_ref().expect("as above");
            format!("{lines} lines, {} instructions", instructions(file))
        },
    );
    best(200, "plan", || planned(&file), |plan| format!("{} steps", plan.steps.len()));
    best(
        200,
        "parse and plan",
        || planned(&parse(text.as_bytes()).expect("as above")),
        |plan| format!("{lines} lines, {} steps", plan.steps.len()),
    );

    let megabyte = 1 << 20;
    let continued = |text: &str| {
        let chunks = text.as_bytes().chunks(60_000).map(String::from_utf8_lossy);
        chunks.collect::<Vec<_>>().join("\\\n")
    };
    for (what, source) in [
        ("100,000 continuation lines", format!("FROM a\nRUN x{}", "\\\ny".repeat(100_000))),
        ("100,000 instructions", format!("FROM a\n{}", "RUN x\n".repeat(100_000))),
        ("1 MB of ENV", format!("FROM a\nENV {}", continued(&"a=b ".repeat(megabyte / 4)))),
        (
            "1 MB of JSON",
            format!(
                "FROM a\nRUN {}",
                continued(&format!("[{}\"\"]", "\"\",".repeat(megabyte / 3)))
            ),
        ),
        ("1 MB of brackets", format!("FROM a\nRUN {}", continued(&"[".repeat(megabyte)))),
        (
            "1 MB of ${a:-${b:-",
            format!("FROM a\nENV A={}", continued(&"${a:-".repeat(megabyte / 5))),
        ),
        ("1 MB of markers", format!("FROM a\nRUN {}", continued(&" <<".repeat(megabyte / 3)))),
    ] {
        best(
            3,
            what,
            || parse(source.as_bytes()),
            |file| match file {
                Ok(file) => format!("{} instructions", instructions(file)),
                Err(errors) => format!("refused: {}", errors[0].message),
            },
        );
    }
    let deep = "${a:-".repeat(megabyte / 5);
    best(
        3,
        "expand 1 MB of ${a:-${b:-",
        || expand::process_word(&deep, &|_| None, Escape::Backslash),
        |value| match value {
            Ok(value) => format!("{} bytes", value.text.len()),
            Err(error) => format!("refused: {error}"),
        },
    );
}
