//! Repositories behind a login: a real git server, and where the credentials come to.

use super::backend::backend;
use super::http::{Answer, Http};
use super::kit::{Kit, host, write_file};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const USER: &str = "someone";
const PASSWORD: &str = "pa55-w0rd@=%";
/// As an address has it.
const ENCODED: &str = "pa55-w0rd%40=%25";
/// `someone:pa55-w0rd@=%` in base64.
const BASIC: &str = "c29tZW9uZTpwYTU1LXcwcmRAPSU=";
/// The time of the commits.
const TIME: i64 = 1_234_567_890;

/// Runs git in a directory, without the machine's configuration.
fn git(dir: &Path, words: &[&str]) -> String {
    let out = Command::new("git")
        .current_dir(dir)
        .args([
            "-c",
            "user.name=n",
            "-c",
            "user.email=n@example.com",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(words)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_DATE", format!("{TIME} +0000"))
        .env("GIT_COMMITTER_DATE", format!("{TIME} +0000"))
        .output()
        .unwrap();
    assert!(out.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Repositories that a server has: `app.git`, with `lib.git` as a submodule at `../lib.git`.
fn repositories(kit: &Kit) -> (PathBuf, String) {
    let root = kit.beside("repositories");
    for name in ["lib", "app"] {
        let work = root.join(name);
        write_file(&work.join("f"), name.as_bytes());
        git(&work, &["init", "-q", "-b", "main"]);
        if name == "app" {
            write_file(&work.join("Dockerfile"), b"FROM scratch\nCOPY . /\n");
            git(&work, &["submodule", "-q", "add", "../lib", "lib"]);
            git(&work, &["config", "-f", ".gitmodules", "submodule.lib.url", "../lib.git"]);
        }
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", "one"]);
    }
    let first = git(&root.join("app"), &["rev-parse", "HEAD"]);
    write_file(&root.join("app/later"), b"later");
    git(&root.join("app"), &["add", "."]);
    git(&root.join("app"), &["commit", "-q", "-m", "two"]);
    for name in ["lib", "app"] {
        let bare = format!("{name}.git");
        git(&root, &["clone", "-q", "--bare", name, &bare]);
        git(&root.join(&bare), &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    }
    (root, first)
}

fn is_secret(bytes: &[u8]) -> bool {
    [PASSWORD, ENCODED, BASIC]
        .iter()
        .any(|secret| bytes.windows(secret.len()).any(|part| part == secret.as_bytes()))
}

/// Processes other than this one whose command line or environment holds the password.
fn tellers() -> usize {
    let own = std::process::id().to_string();
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let others = all
        .filter(|path| path.file_name().unwrap() != own.as_str() && path.join("cmdline").exists());
    let tells = |path: &PathBuf| {
        // The program itself was started with the address.
        let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        let is_git = read("comm").starts_with(b"git") || read("comm").starts_with(b"sh");
        is_git && (is_secret(&read("cmdline")) || is_secret(&read("environ")))
    };
    others.filter(tells).count()
}

/// A server that wants the password, and how many of the others' processes told it during requests.
fn locked(root: &Path) -> (Http, Arc<AtomicUsize>) {
    let (root, told) = (root.to_owned(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&told);
    let server = Http::serve(move |request| {
        counted.fetch_add(tellers(), Ordering::AcqRel);
        let wanted = [
            format!("Basic {BASIC}"),
            "Bearer t0ken".to_owned(),
            "Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=".to_owned(),
        ];
        match request.header("authorization") {
            Some(given) if wanted.iter().any(|wanted| given == wanted) => backend(&root, request),
            _ => Answer::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        }
    });
    (server, told)
}

/// Files below a directory that hold the password.
fn leaks(dir: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file());
    let paths = files.map(walkdir::DirEntry::into_path);
    paths.filter(|path| is_secret(&fs::read(path).unwrap_or_default())).collect()
}

#[test]
fn credentials_of_an_address_reach_the_server_and_nothing_else() {
    if !host::has("git", "git") {
        return;
    }
    let kit = Kit::new();
    let (root, first) = repositories(&kit);
    let (server, told) = locked(&root);
    let at = |rest: &str| format!("http://{USER}:{ENCODED}@{}/{rest}", server.host());
    // As the context, with the submodule of the same server.
    let archive = format!("-otype=oci,dest={}", kit.out("a.tar").display());
    let run =
        kit.builder(["build", "--progress=plain", "-t", "a", &archive, &at("app.git#main")]).ok();
    assert!(!is_secret(run.text().as_bytes()), "{}", run.text());
    let image = super::kit::archive::Archive::open(&kit.out("a.tar"));
    assert_eq!(image.text("lib/f"), "lib");
    assert_eq!(image.text("later"), "later");
    // As the source of ADD, whose metadata is kept.
    kit.dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {} /src\n", at("app.git#main")));
    let run = kit.build_showing("plain").args(["-t", "b", &archive]).ok();
    assert!(!is_secret(run.text().as_bytes()), "{}", run.text());
    let image = super::kit::archive::Archive::open(&kit.out("a.tar"));
    assert!(image.text("src/.git/config").contains(&format!("http://{}/app.git", server.host())));
    for (path, entry) in image.content() {
        let name = path.rsplit('/').next().unwrap();
        assert!(!is_secret(&entry.content), "{path}");
        assert!(
            !path.contains(".git") || !matches!(name, "FETCH_HEAD" | "ORIG_HEAD" | "logs"),
            "{path}"
        );
    }
    for words in
        [&["history", "b"][..], &["history", "inspect", "last"], &["inspect", "b"], &["explain"]]
    {
        let outcome = kit.builder(words).ok();
        assert!(!is_secret(outcome.bytes()) && !is_secret(outcome.text().as_bytes()), "{words:?}");
    }
    assert_eq!(leaks(kit.store()), Vec::<PathBuf>::new());
    assert_eq!(told.load(Ordering::Acquire), 0, "a command line or environment tells the password");
    // One commit, with its own time.
    let query = format!("app.git?fetch-by-commit=true&commit={first}&mtime=commit#main");
    kit.dockerfile(&format!("FROM scratch\nADD {} /src\n", at(&query)));
    kit.build().args([&archive]).ok();
    let image = super::kit::archive::Archive::open(&kit.out("a.tar"));
    assert!(image.find("src/later").is_none(), "the branch was fetched");
    assert_eq!(image.entry("src/f").mtime, u64::try_from(TIME).unwrap());
    let bad = at("app.git?fetch-by-commit=true#main");
    kit.dockerfile(&format!("FROM scratch\nADD {bad} /src\n"));
    let outcome = kit.build().run();
    outcome.says(&["fetch-by-commit needs commit="]);
    assert!(!is_secret(outcome.text().as_bytes()));
    kit.dockerfile(&format!("FROM scratch\nADD {} /src\n", at("app.git?mtim=commit")));
    let outcome = kit.build().run();
    outcome.says(&["unknown query \"mtim\""]);
    assert!(!is_secret(outcome.text().as_bytes()));
    // A wrong one ends the build at once: nobody is asked.
    let wrong = format!("http://{USER}:wr0ng-w0rd@{}/app.git", server.host());
    let outcome = kit.builder(["build", &wrong]).run();
    assert_eq!(outcome.status, Some(6), "{}", outcome.text());
    assert!(!outcome.text().contains("wr0ng-w0rd"), "{}", outcome.text());
}

#[test]
fn the_time_of_the_context_is_that_of_the_commit() {
    if !host::has("git", "git") {
        return;
    }
    let kit = Kit::new();
    let (root, _) = repositories(&kit);
    let server = Http::serve(move |request| backend(&root, request));
    let address = format!("http://{}/app.git#main", server.host());
    let archive = format!("-otype=oci,dest={}", kit.out("a.tar").display());
    let run = kit.builder(["build", "--progress=plain", "-t", "a", &archive, &address]);
    run.env("SOURCE_DATE_EPOCH", "context").ok();
    let image = super::kit::archive::Archive::open(&kit.out("a.tar"));
    assert_eq!(image.document["created"], "2009-02-13T23:31:30Z");
    assert_eq!(image.entry("later").mtime, u64::try_from(TIME).unwrap());
    let shown = kit.builder(["history", "ls", "--filter", "repository=app.git"]).ok().stdout();
    assert_eq!(shown.lines().count(), 2, "{shown}");
}

#[test]
fn secrets_authenticate_git() {
    if !host::has("git", "git") {
        return;
    }
    let kit = Kit::new();
    let (root, _) = repositories(&kit);
    let (server, told) = locked(&root);
    let address = format!("http://{}/app.git", server.host());
    kit.builder(["build", &address]).fails(6);
    let (token, header) = (kit.beside("token"), kit.beside("header"));
    write_file(&token, b"t0ken\n");
    write_file(&header, b"Bearer t0ken");
    for secret in [
        format!("id=GIT_AUTH_TOKEN,src={}", token.display()),
        format!("id=GIT_AUTH_TOKEN.127.0.0.1,src={}", token.display()),
        format!("id=GIT_AUTH_TOKEN.{},src={}", server.host(), token.display()),
        format!("id=GIT_AUTH_HEADER,src={}", header.display()),
        format!("id=GIT_AUTH_HEADER.127.0.0.1,src={}", header.display()),
    ] {
        kit.builder(["build", "--no-cache", "--secret", &secret, &address]).ok();
    }
    let other = format!("id=GIT_AUTH_TOKEN.example.com,src={}", token.display());
    kit.builder(["build", "--no-cache", "--secret", &other, &address]).fails(6);
    assert_eq!(told.load(Ordering::Acquire), 0);
}

#[test]
fn credentials_go_to_no_server_but_the_one_they_are_for() {
    if !host::has("git", "git") {
        return;
    }
    let kit = Kit::new();
    let (root, _) = repositories(&kit);
    let other = Http::serve(move |request| backend(&root, request));
    let elsewhere = other.host();
    let server = Http::serve(move |request| {
        Answer::new(302).header("Location", format!("http://{elsewhere}{}", request.path))
    });
    let address = format!("http://{USER}:{ENCODED}@{}/app.git", server.host());
    let outcome = kit.builder(["build", &address]).run();
    assert_eq!(outcome.status, Some(0), "a public repository that moved: {}", outcome.text());
    let header = kit.beside("header");
    write_file(&header, b"Bearer t0ken");
    let secret = format!("id=GIT_AUTH_HEADER.{},src={}", server.host(), header.display());
    let bare = format!("http://{}/app.git", server.host());
    // A header would go on to wherever the server points.
    kit.builder(["build", "--no-cache", "--secret", &secret, &bare]).fails(6);
    assert!(!other.requests().is_empty());
    for request in other.requests() {
        assert_eq!(request.header("authorization"), None, "{}", request.path);
    }
    assert!(!is_secret(outcome.text().as_bytes()), "{}", outcome.text());
}
