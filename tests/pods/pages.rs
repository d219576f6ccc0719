//! The page that people paste from, docs/ci.md: each of its command lines, in a container with the
//! settings that stand beside it.
//!
//! What a cluster or a runner makes of a snippet is made here: the pod of its `securityContext`, its
//! volumes, the variables of a job, and the checkout.

use crate::backend::backend;
use crate::http::Http;
use crate::kit::pod::Pod;
use crate::kit::pod::own_users;
use crate::kit::{Kit, base, host, release, users, write_file};
use crate::server::{Kind, PASSWORD, Registry, USER};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PAGE: &str = include_str!("../../docs/ci.md");

/// A fenced block, and the headings that it stands under.
#[derive(Debug, Clone)]
struct Block {
    section: String,
    title: String,
    language: String,
    text: String,
}

impl Block {
    fn wants_namespaces(&self) -> bool {
        self.title.to_lowercase().contains("with namespaces")
    }
}

fn blocks() -> Vec<Block> {
    let (mut section, mut title) = ("", "");
    let mut found: Vec<Block> = Vec::new();
    let mut is_open = false;
    for line in PAGE.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(language) => {
                is_open = true;
                found.push(Block {
                    section: section.to_owned(),
                    title: title.to_owned(),
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            None if is_open => {
                let block = found.last_mut().unwrap();
                block.text += line;
                block.text.push('\n');
            }
            None => match (line.strip_prefix("## "), line.strip_prefix("### ")) {
                (Some(text), _) => (section, title) = (text, ""),
                (_, Some(text)) => title = text,
                _ => {}
            },
        }
    }
    found
}

/// Reads YAML as the tools do that it is for.
fn yaml(text: &str) -> Value {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "no YAML:\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    list(value).iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

/// Settings of a container, and of what is around it.
#[derive(Debug, Clone, Default)]
struct Place {
    /// `securityContext` of Kubernetes.
    security: Value,
    /// `hostUsers: false`.
    has_own_users: bool,
    /// A container without a filter.
    is_unconfined: bool,
    /// A virtual machine of its own instead of a container.
    is_machine: bool,
    /// Where empty volumes are.
    volumes: Vec<String>,
    /// The directory that docker's `config.json` with the login is in.
    login: Option<String>,
}

/// A command line of the page, as its place would run it.
#[derive(Debug, Clone)]
struct Job {
    /// What it is called in messages.
    name: String,
    place: Place,
    words: Vec<String>,
    env: Vec<(String, String)>,
    /// Where the checkout is; the working directory.
    checkout: String,
    wants_namespaces: bool,
}

/// The place of a container of a pod.
fn place_of(pod: &Value, container: &Value) -> Place {
    let mut place = Place {
        security: container["securityContext"].clone(),
        has_own_users: pod["hostUsers"] == false,
        ..Place::default()
    };
    for mount in list(&container["volumeMounts"]) {
        let path = mount["mountPath"].as_str().unwrap().to_owned();
        let volumes = list(&pod["volumes"]);
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.unwrap_or_else(|| panic!("no volume for {mount}"));
        if volume["emptyDir"].is_object() {
            place.volumes.push(path);
        } else {
            let item = &volume["secret"]["items"][0];
            assert_eq!(
                (&item["key"], &item["path"]),
                (&".dockerconfigjson".into(), &"config.json".into())
            );
            place.login = Some(path);
        }
    }
    place
}

/// The shell that runs lines as a runner does: it ends with the first that fails.
fn shell(lines: &[String]) -> Vec<String> {
    ["sh", "-euc", &lines.join("\n")].map(str::to_owned).to_vec()
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The text between two marks, of each pair of marks.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).map(|rest| rest.split(close).next().unwrap()).collect()
}

/// What else of the page GitLab's jobs need: the runners that are configured.
fn runners(blocks: &[Block]) -> Vec<(String, Place)> {
    let mut found = vec![("as it is".to_owned(), Place::default())];
    for block in blocks.iter().filter(|block| block.language == "toml") {
        let file: toml::Table = block.text.parse().unwrap();
        let runner = serde_json::to_value(file).unwrap()["runners"][0].clone();
        let place = match runner["executor"].as_str() {
            Some("docker") => {
                let options = words(&runner["docker"]["security_opt"]);
                assert_eq!(options, ["seccomp=unconfined", "apparmor=unconfined"]);
                assert_eq!(runner["docker"]["volumes"][0], "builder-store:/var/lib/builder");
                Place { is_unconfined: true, ..Place::default() }
            }
            Some("kubernetes") => {
                assert_eq!(runner["feature_flags"]["FF_USE_ADVANCED_POD_SPEC_CONFIGURATION"], true);
                let patch = &runner["kubernetes"]["pod_spec"][0];
                let pod = yaml(patch["patch"].as_str().unwrap());
                assert_eq!(pod["containers"][0]["name"], "build", "GitLab's name of the container");
                place_of(&pod, &pod["containers"][0])
            }
            other => panic!("an executor {other:?}"),
        };
        found.push((block.title.clone(), place));
    }
    found
}

/// Makes the jobs of a block. `at` is the registry with a project of the block's own.
fn jobs(block: &Block, all: &[Block], at: &str) -> Vec<Job> {
    let registry = at.split('/').next().unwrap();
    let job = |place: Place, words: Vec<String>, checkout: &str| Job {
        name: format!("{}, {}", block.section, block.title),
        place,
        words,
        env: Vec::new(),
        checkout: checkout.to_owned(),
        wants_namespaces: block.wants_namespaces(),
    };
    let of_page = |text: &str| text.replace("registry.example.com/team/app", at);
    match (block.section.as_str(), block.language.as_str()) {
        ("Kubernetes", "yaml") => {
            let pod = &yaml(&of_page(&block.text))["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            let line = [vec!["builder".to_owned()], words(&container["args"])].concat();
            vec![job(place_of(pod, container), line, "/workspace")]
        }
        ("GitLab CI", "yaml") => {
            let file = yaml(&block.text);
            let build = &file["build"];
            let lines = [words(&build["before_script"]), words(&build["script"])].concat();
            let variables = env(&[
                ("CI_REGISTRY", registry),
                ("CI_REGISTRY_IMAGE", at),
                ("CI_REGISTRY_USER", USER),
                ("CI_REGISTRY_PASSWORD", PASSWORD),
                ("CI_COMMIT_SHORT_SHA", "0a1b2c3d"),
                ("CI_COMMIT_TAG", "v1"),
                ("CI_PROJECT_DIR", "/builds/team/app"),
            ]);
            let on_runner = |(title, place): (String, Place)| {
                let wants_namespaces = title.contains("namespaces");
                let name = format!("{}, {}: {title}", block.section, block.title);
                let job = job(place, shell(&lines), "/builds/team/app");
                Job { name, env: variables.clone(), wants_namespaces, ..job }
            };
            runners(all).into_iter().map(on_runner).collect()
        }
        // Where the jobs above run.
        ("GitLab CI", "toml") => Vec::new(),
        ("GitHub Actions", "yaml") => {
            let text = block.text.replace("${{ secrets.GITHUB_TOKEN }}", PASSWORD);
            let text = text.replace("${{ vars.BUILDER_URL }}", "file:///packages/tarball");
            assert!(!text.contains("${{"), "{text}");
            let file = yaml(&text.replace("ghcr.io", registry));
            let image = &file["jobs"]["image"];
            let options = image["container"]["options"].as_str().unwrap_or_default();
            let place = Place {
                is_unconfined: options.contains("seccomp=unconfined"),
                is_machine: image["container"].is_null(),
                ..Place::default()
            };
            let project = at.split_once('/').unwrap().1;
            let mut variables = env(&[
                ("GITHUB_ACTOR", USER),
                ("GITHUB_REPOSITORY", project),
                ("GITHUB_SHA", "0a1b2c3d"),
            ]);
            let mut lines = Vec::new();
            for scope in [vec![image.clone()], list(&image["steps"])].concat() {
                for (name, value) in scope["env"].as_object().cloned().unwrap_or_default() {
                    variables.push((name, value.as_str().unwrap().to_owned()));
                }
                lines.extend(scope["run"].as_str().map(str::to_owned));
            }
            let job = job(place, shell(&lines), "/__w/app/app");
            vec![Job { env: variables, ..job }]
        }
        ("Jenkins", "groovy") => {
            let text = of_page(&block.text);
            let pod = &yaml(between(&text, "yaml '''", "'''")[0])["spec"];
            let lines: Vec<String> =
                between(&text, " sh '", "'").into_iter().map(str::to_owned).collect();
            let place = place_of(pod, &pod["containers"][0]);
            let job = job(place, shell(&lines), "/home/jenkins/agent/workspace/app");
            vec![Job { env: env(&[("BUILD_NUMBER", "7")]), ..job }]
        }
        ("Tekton", "yaml") => {
            let checkout = "/workspace/source";
            let text = block.text.replace("$(workspaces.source.path)", checkout);
            let text = text.replace("$(params.image)", &format!("{at}:1"));
            assert!(!text.contains("$("), "{text}");
            let spec = &yaml(&text)["spec"];
            let step = &spec["steps"][0];
            let mut place = place_of(spec, step);
            let workspaces = list(&spec["workspaces"]);
            let login = workspaces.iter().find(|workspace| workspace["name"] == "login");
            place.login = login.map(|login| login["mountPath"].as_str().unwrap().to_owned());
            let line = [words(&step["command"]), words(&step["args"])].concat();
            vec![job(place, line, checkout)]
        }
        ("Argo Workflows", "yaml") => {
            let text = of_page(&block.text);
            let text = text.replace("{{workflow.parameters.image}}", &format!("{at}:1"));
            assert!(!text.contains("{{"), "{text}");
            let spec = yaml(&text)["spec"].clone();
            let template = &spec["templates"][0];
            assert_eq!(template["name"], spec["entrypoint"]);
            let mut pod = json!({"volumes": spec["volumes"]});
            if let Some(patch) = template["podSpecPatch"].as_str() {
                let patch: Value = serde_json::from_str(patch).unwrap();
                pod["hostUsers"] = patch["hostUsers"].clone();
            }
            let container = &template["container"];
            let line = [words(&container["command"]), words(&container["args"])].concat();
            let source = &template["inputs"]["artifacts"][0]["path"];
            vec![job(place_of(&pod, container), line, source.as_str().unwrap())]
        }
        other => panic!("what runs the snippet of {other:?}?"),
    }
}

/// A directory that all can write to, of the user who is root of the container.
fn open_directory(kit: &Kit, name: &str) -> PathBuf {
    let path = kit.beside(name);
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    if let Some(user) = kit.user() {
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).unwrap();
    }
    path
}

/// Runs a job in a container as its place says; `git` is the address of the server of git.
fn run(job: &Job, registry: &Registry, git: &str) {
    let kit = if job.place.has_own_users { Kit::of(users::without_ranges()) } else { Kit::new() };
    kit.dockerfile(&dockerfile(registry)).file("source", "source\n");
    let login = open_directory(&kit, "login");
    let auth = String::from_utf8(base64_of(&format!("{USER}:{PASSWORD}"))).unwrap();
    let file = json!({"auths": {registry.host(): {"auth": auth}}}).to_string();
    write_file(&login.join("config.json"), file.as_bytes());
    let program = match kit.user() {
        Some(_) => kit.beside("builder"),
        None => PathBuf::from(crate::kit::BUILDER),
    };
    let line: Vec<_> =
        job.words.iter().map(|word| word.replace("https://git.example.com", git)).collect();
    let capabilities = words(&job.place.security["capabilities"]["add"]);
    let pod = match capabilities.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["SYS_ADMIN"] => Pod::DockerAdmin,
        [] if job.place.is_machine => Pod::Podman,
        [] => Pod::Docker,
        _ => panic!("{capabilities:?}"),
    };
    let confinement = if job.wants_namespaces { "namespaces" } else { "chroot" };
    let command = kit.command(&line[0]).args(&line[1..]);
    let command = command.in_pod_where(pod, |config| {
        let mut env = vec![
            "PATH=/usr/local/bin:/usr/bin:/bin:/kaniko".to_owned(),
            "HOME=/home/builder".to_owned(),
            format!("BUILDER_CONFINEMENT={confinement}"),
        ];
        if !job.place.is_machine {
            env.push("BUILDER_ROOT=/var/lib/builder/store".to_owned());
        }
        env.extend(job.env.iter().map(|(name, value)| format!("{name}={value}")));
        config["process"]["env"] = env.into();
        config["process"]["cwd"] = job.checkout.clone().into();
        let mut shown = vec![(kit.path(""), job.checkout.clone())];
        if job.place.is_machine {
            machine(&kit, &mut shown);
        } else {
            shown.push((program.clone(), "/usr/bin/builder".to_owned()));
            shown.push((program.clone(), "/kaniko/executor".to_owned()));
        }
        // Git of the image, and the volume that the image names.
        shown.push(("/usr/bin/git".into(), "/usr/bin/git".to_owned()));
        let mut volumes = job.place.volumes.clone();
        match job.place.is_machine {
            true => volumes.push("/var/lib".to_owned()),
            false if volumes.iter().any(|path| path == "/var/lib/builder") => {}
            false => volumes.push("/var/lib/builder".to_owned()),
        }
        volumes.push("/home/builder".to_owned());
        for (number, path) in volumes.into_iter().enumerate() {
            shown.push((open_directory(&kit, &format!("volume-{number}")), path));
        }
        shown.extend(job.place.login.clone().map(|path| (login.clone(), path)));
        for (source, path) in shown {
            let bind = json!({"destination": path, "type": "bind", "source": source,
                "options": ["rbind", "rw"]});
            config["mounts"].as_array_mut().unwrap().push(bind);
        }
        secure(config, &job.place);
    });
    println!("{}", job.name);
    command.ok();
}

/// Does what a kubelet or an engine does with the security settings of a container.
fn secure(config: &mut Value, place: &Place) {
    let security = &place.security;
    let is_unconfined = security["seccompProfile"]["type"] == "Unconfined" || place.is_unconfined;
    if is_unconfined {
        config["linux"].as_object_mut().unwrap().remove("seccomp");
    }
    if security["procMount"] == "Unmasked" {
        assert!(place.has_own_users, "Kubernetes refuses it with the node's users");
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    }
    if place.has_own_users {
        own_users(config);
    }
    let known = ["seccompProfile", "appArmorProfile", "procMount", "capabilities"];
    for name in security.as_object().cloned().unwrap_or_default().keys() {
        assert!(known.contains(&name.as_str()), "what does {name} do?");
    }
}

/// What a runner's virtual machine has besides: sudo, curl, AppArmor, and room for programs.
fn machine(kit: &Kit, shown: &mut Vec<(PathBuf, String)>) {
    let script = |name: &str, text: &str| {
        let path = kit.beside(name);
        write_file(&path, text.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let packages = release::packages();
    let tarball = fs::read_dir(&packages).unwrap().map(|entry| entry.unwrap().path());
    let tarball = tarball.into_iter().find(|path| path.extension().is_some_and(|e| e == "gz"));
    shown.extend([
        (script("sudo", "#!/bin/sh\nexec \"$@\"\n"), "/usr/bin/sudo".to_owned()),
        (
            script("parser", "#!/bin/sh\n[ \"$1\" = -r ] && exec grep -q 'userns,' \"$2\"\n"),
            "/usr/bin/apparmor_parser".to_owned(),
        ),
        ("/usr/bin/curl".into(), "/usr/bin/curl".to_owned()),
        (tarball.unwrap(), "/packages/tarball".to_owned()),
        (open_directory(kit, "local"), "/usr/local".to_owned()),
        (open_directory(kit, "profiles"), "/etc/apparmor.d".to_owned()),
    ]);
}

fn base64_of(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for three in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_there = digit <= three.len();
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            out.push(if is_there { DIGITS[index] } else { b'=' });
        }
    }
    out
}

/// Two stages on an image of the registry, with commands that run.
fn dockerfile(registry: &Registry) -> String {
    let base = format!("{}/base:1", registry.host());
    format!(
        "FROM {base} AS build\nCOPY source /source\nRUN cp /source /made && id -u >> /made\n\
         FROM {base}\nCOPY --from=build /made /made\nRUN grep -q source /made\n"
    )
}

/// A server of git, with `team/app.git` in it.
fn git_server(kit: &Kit, registry: &Registry) -> Http {
    let root = kit.beside("repositories");
    let work = root.join("work");
    write_file(&work.join("Dockerfile"), dockerfile(registry).as_bytes());
    write_file(&work.join("source"), b"source\n");
    let work = work.to_str().unwrap();
    let git = |words: &[&str]| {
        let own = ["git", "-C", work, "-c", "user.name=n", "-c", "user.email=n@example.com"];
        host::tool(&[&own[..], words].concat());
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    let bare = root.join("team/app.git");
    git(&["clone", "-q", "--bare", work, bare.to_str().unwrap()]);
    Http::serve(move |request| backend(&root, request))
}

/// The tags that a project of the registry has.
fn tags(at: &str) -> usize {
    let (name, login) = (format!("docker://{at}"), format!("{USER}:{PASSWORD}"));
    let words = ["skopeo", "list-tags", "--tls-verify=false", "--creds", &login, &name];
    let found: Value = serde_json::from_str(&host::tool(&words)).unwrap();
    list(&found["Tags"]).len()
}

#[test]
fn each_snippet_of_the_page_on_ci_builds_and_pushes_in_its_place() {
    let has_python = host::has_file("/usr/lib/python3/dist-packages/yaml", "python3-yaml");
    if !Pod::can_run() || !has_python || !host::has("curl", "curl") || !host::has("git", "git") {
        return;
    }
    let Some(registry) = Registry::start(Kind::Login) else { return };
    let kit = Kit::new();
    let git = git_server(&kit, &registry);
    let layout = format!("oci:{}", base::layout().display());
    let name = format!("docker://{}/base:1", registry.host());
    let login = format!("{USER}:{PASSWORD}");
    host::tool(&[
        "skopeo",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        "--dest-creds",
        &login,
        &layout,
        &name,
    ]);
    let blocks = blocks();
    let mut number = 0;
    for block in &blocks {
        // Each job has a project of its own, so that what another pushed does not count.
        for turn in 0.. {
            let at = format!("{}/team{number}/app", registry.host());
            let Some(job) = jobs(block, &blocks, &at).into_iter().nth(turn) else {
                assert!(turn > 0 || block.language == "toml", "nothing ran {block:?}");
                break;
            };
            run(&job, &registry, &format!("http://{}", git.host()));
            assert_eq!(tags(&at), 1, "{}", job.name);
            number += 1;
        }
    }
    let runners = blocks.iter().filter(|block| block.language == "toml").count();
    assert_eq!(runners, 2, "each is a place of GitLab's jobs");
}
