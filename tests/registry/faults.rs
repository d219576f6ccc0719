//! A registry behind a bad network: right, or one clear error; never a wrong image.

use super::fixture::{Packing, busybox, file, image};
use super::http::{Answer, Fault};
use super::kit::base::rootfs;
use super::kit::{Kit, Outcome};
use super::proxy::{self, Do, is_blob};
use super::pull::settings;
use super::server::{Kind, Registry};
use crate::kit::wait::eventually;

/// Pulls busybox through a proxy that follows `rule`; returns how that went, and what was asked.
fn pull(
    rule: impl Fn(&super::http::Request, usize) -> Do + Send + Sync + 'static,
) -> Option<(Outcome, Vec<String>)> {
    let registry = Registry::start(Kind::Plain)?;
    let kit = Kit::new();
    busybox().put(registry.host(), "x", "1");
    let proxy = proxy::before(registry.host(), rule);
    settings(&kit, "tries = 3\nstall-seconds = 1\n");
    let name = format!("{}/x:1", proxy.host());
    let outcome = kit.builder(["pull", "--progress=plain", &name]).run();
    if outcome.status == Some(0) {
        let listed = kit.builder(["run", &name, "sh", "-c", "wc -c < /one; wc -c < /two"]).ok();
        assert_eq!(listed.stdout(), "100000\n50000\n");
    } else {
        let images = kit.builder(["images", "-q"]).ok().stdout();
        assert_eq!(images, "", "a pull that failed leaves no image");
        assert_eq!(outcome.status, Some(6), "{}", outcome.text());
        let errors = outcome.text().lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "{}", outcome.text());
    }
    Some((outcome, proxy.seen()))
}

#[test]
fn a_blob_that_breaks_off_goes_on_where_it_stopped() {
    let result = pull(|request, number| match is_blob(request) && number <= 2 {
        true => Do::Break(Fault::CutAt(30_000)),
        false => Do::Carry,
    });
    let Some((outcome, seen)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
    outcome.says(&["trying again in"]);
    let most = seen.iter().filter(|line| line.contains("/blobs/")).count();
    assert!(most >= 6, "each large blob broke twice: {seen:?}");
}

#[test]
fn a_server_that_knows_no_ranges_starts_over() {
    let result = pull(|request, number| match is_blob(request) {
        true if number == 1 => Do::Break(Fault::CutAt(30_000)),
        true => Do::Without("range"),
        false => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
}

#[test]
fn an_interruption_does_not_wait_for_a_silent_server() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    busybox().put(registry.host(), "x", "1");
    settings(&kit, "stall-seconds = 86400\n");
    let proxy = proxy::before(registry.host(), |request, _| match is_blob(request) {
        true => Do::Break(Fault::Silence),
        false => Do::Carry,
    });
    let name = format!("{}/x:1", proxy.host());
    let mut child =
        kit.builder(["pull", "--progress=quiet", &name]).into_command().spawn().unwrap();
    eventually("the config is asked for", || {
        assert!(child.try_wait().unwrap().is_none(), "it waits for the config");
        proxy.seen().iter().any(|line| line.contains("/blobs/"))
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn resets_and_trouble_pass() {
    let result = pull(|_, number| match number {
        1 => Do::Break(Fault::Reset),
        2 => Do::Answer(Answer::new(503)),
        _ => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
}

#[test]
fn too_many_requests_wait_as_long_as_they_are_told() {
    let result = pull(|_, number| match number {
        1 => Do::Answer(Answer::new(429).header("Retry-After", "0")),
        _ => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
    outcome.says(&["it answered 429; trying again in 0.0 s"]);
    let (outcome, seen) =
        pull(|_, _| Do::Answer(Answer::new(429).header("Retry-After", "86400"))).unwrap();
    outcome.says(&["answers no more requests for 86400 s"]);
    assert_eq!(seen.len(), 1, "nobody waits for a day: {seen:?}");
}

#[test]
fn trouble_that_lasts_is_one_error() {
    let Some((outcome, seen)) = pull(|_, _| Do::Answer(Answer::new(500))) else { return };
    outcome.says(&["answered 500"]);
    assert_eq!(seen.len(), 3, "as often as the settings say: {seen:?}");
}

#[test]
fn wrong_bytes_are_an_error_and_no_image() {
    let Some((outcome, _)) = pull(|request, _| match is_blob(request) {
        true => Do::Corrupt,
        false => Do::Carry,
    }) else {
        return;
    };
    outcome.says(&["is damaged: its bytes hash to"]);
    let (outcome, _) = pull(|request, _| match request.method == "GET" && !is_blob(request) {
        true => Do::Corrupt,
        false => Do::Carry,
    })
    .unwrap();
    outcome.says(&["sends bytes that hash to"]);
}

#[test]
fn a_blob_that_is_too_short_is_an_error() {
    let Some((outcome, _)) = pull(|request, _| match is_blob(request) {
        true => Do::Shorten,
        false => Do::Carry,
    }) else {
        return;
    };
    outcome.says(&["bytes instead of"]);
}

#[test]
fn silence_ends_and_is_tried_again() {
    let result = pull(|request, number| match is_blob(request) && number == 1 {
        true => Do::Break(Fault::StallAt(20_000)),
        false => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
    let (outcome, _) = pull(|request, _| match is_blob(request) {
        true => Do::Break(Fault::StallAt(0)),
        false => Do::Carry,
    })
    .unwrap();
    outcome.says(&["cannot fetch"]);
}

#[test]
fn a_slow_drip_is_progress() {
    let result = pull(|request, _| match is_blob(request) {
        true => Do::Break(Fault::Drip(997)),
        false => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
}

#[test]
fn a_trickle_is_silence() {
    let result = pull(|request, _| match is_blob(request) {
        true => Do::Break(Fault::Trickle),
        false => Do::Carry,
    });
    let Some((outcome, seen)) = result else { return };
    outcome.says(&["it is too slow: ", "trying again in", "cannot fetch"]);
    let most = seen.iter().filter(|line| line.contains("/blobs/")).count();
    assert!(most <= 4 * 3, "as often as the settings say, for each blob: {seen:?}");
}

#[test]
fn a_date_to_try_again_is_kept_to_by_the_server_s_clock() {
    let result = pull(|_, number| match number {
        1 => Do::Answer(
            Answer::new(503)
                .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .header("Retry-After", "Sun, 06 Nov 1994 08:49:38 GMT"),
        ),
        _ => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    assert_eq!(outcome.status, Some(0), "{}", outcome.text());
    outcome.says(&["it answered 503; trying again in 1.0 s"]);
}

#[test]
fn redirects_do_not_leave_the_web() {
    for (target, what) in [
        ("file:///etc/passwd", "its scheme is neither"),
        ("ftp://127.0.0.1/x", "its scheme is neither"),
    ] {
        let Some((outcome, _)) = pull(move |request, _| match is_blob(request) {
            true => Do::Answer(Answer::new(307).header("Location", target)),
            false => Do::Carry,
        }) else {
            return;
        };
        outcome.says(&[what]);
    }
    let (outcome, seen) = pull(|request, _| match is_blob(request) {
        true => Do::Answer(Answer::new(307).header("Location", request.path.clone())),
        false => Do::Carry,
    })
    .unwrap();
    outcome.says(&["there were too many"]);
    assert!(seen.len() < 60, "{}", seen.len());
}

#[test]
fn documents_have_a_limit() {
    let result = pull(|request, _| match request.path.contains("/manifests/") {
        true if request.method == "GET" => {
            Do::Answer(Answer::new(200).header("Content-Type", "x/y").body(vec![b' '; 5 << 20]))
        }
        true => Do::Answer(Answer::new(405)),
        false => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    outcome.says(&["more than the 4194304 bytes"]);
}

#[test]
fn docker_s_first_format_is_refused_by_name() {
    let result = pull(|request, _| match request.path.contains("/manifests/") {
        true => Do::Answer(
            Answer::new(200)
                .header("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
                .header("Docker-Content-Digest", format!("sha256:{}", "0".repeat(64)))
                .header("Content-Length", "2"),
        ),
        false => Do::Carry,
    });
    let Some((outcome, _)) = result else { return };
    outcome.says(&["schema 1", "no longer supported"]);
}

#[test]
fn a_manifest_without_a_content_type_is_what_it_says_itself() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let made = busybox();
    made.put(registry.host(), "x", "1");
    let manifest = made.manifest.clone();
    let proxy = proxy::before(registry.host(), move |request, _| {
        match (request.path.contains("/manifests/"), request.method.as_str()) {
            (true, "HEAD") => Do::Answer(Answer::new(405)),
            (true, _) => Do::Answer(Answer::new(200).body(manifest.clone())),
            _ => Do::Carry,
        }
    });
    let name = format!("{}/x:1", proxy.host());
    kit.builder(["pull", "--progress=quiet", &name]).ok();
    kit.builder(["run", &name, "true"]).ok();
}

#[test]
fn a_killed_pull_goes_on_with_what_had_arrived() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let made = image(&[
        (rootfs(), Packing::Gzip),
        (file("one", 300_000), Packing::Gzip),
        (file("two", 400_000), Packing::Gzip),
    ]);
    made.put(registry.host(), "x", "1");
    // The last layer never ends, until the pull has been killed.
    let last = made.layer(2);
    let proxy = proxy::before(registry.host(), move |request, number| {
        match request.path.ends_with(&last) && number == 1 {
            true => Do::Break(Fault::StallAt(100_000)),
            false => Do::Carry,
        }
    });
    let name = format!("{}/x:1", proxy.host());
    let mut child =
        kit.builder(["pull", "--progress=quiet", &name]).into_command().spawn().unwrap();
    let blobs = kit.store().join("blobs/sha256");
    let arrived = |digest: &str| blobs.join(digest.trim_start_matches("sha256:")).exists();
    eventually("two layers have arrived", || {
        assert!(child.try_wait().unwrap().is_none(), "it waits for the last layer");
        arrived(&made.layer(0)) && arrived(&made.layer(1))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.forget();
    kit.builder(["pull", "--progress=quiet", &name]).ok();
    let blobs: Vec<_> = proxy.seen().into_iter().filter(|line| line.contains("/blobs/")).collect();
    assert_eq!(blobs, [format!("GET /v2/x/blobs/{}", made.layer(2))], "only what was missing");
    assert_eq!(kit.builder(["run", &name, "sh", "-c", "wc -c < /two"]).ok().stdout(), "400000\n");
}

#[test]
fn two_pulls_at_once_fetch_each_layer_once() {
    let Some(registry) = Registry::start(Kind::Plain) else { return };
    let kit = Kit::new();
    let made = busybox();
    made.put(registry.host(), "x", "1");
    let proxy = proxy::before(registry.host(), |_, _| Do::Carry);
    let name = format!("{}/x:1", proxy.host());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| kit.builder(["pull", "--progress=quiet", &name]).ok());
        }
    });
    for number in 0..3 {
        let layer = made.layer(number);
        let fetched = proxy.seen().iter().filter(|line| line.contains(&layer)).count();
        assert_eq!(fetched, 1, "layer {number}");
    }
}
