//! What a release has: packages, and images of ourselves that we build ourselves.

use crate::kit::pod::Pod;
use crate::kit::{Kit, Run, base, host, release, users};
use crate::server::{Kind, Registry};
use serde_json::{Value, json};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// In a bare Debian, whose root directory is all there is: `$1` has the packages, `$2` the program's
/// place in the tarball.
const INSTALLED: &str = r#"
set -eu
(cd /dist && sha256sum --check --quiet SHA256SUMS)
works() {
    [ "$(command -v builder)" = "$1/bin/builder" ] && builder version | grep -q ^builder
    bash -n "$1/share/bash-completion/completions/builder" && grep -q '#compdef builder' "$2"
    grep -q 'complete -c builder' "$1/share/fish/vendor_completions.d/builder.fish"
    mkdir -p /ctx && echo hello >/ctx/f && printf 'FROM scratch\nCOPY f /f\n' >/ctx/Dockerfile
    builder build -t scratch -o type=local,dest=/made /ctx && [ "$(cat /made/f)" = hello ]
}
tar -xzf /dist/builder-*.tar.gz -C /usr/local --strip-components=1
works /usr/local /usr/local/share/zsh/site-functions/_builder
grep -q 'TH builder-build' /usr/local/share/man/man1/builder-build.1
[ -s /usr/local/share/doc/builder/LICENSE ] && grep -q '^rustls v' /usr/local/share/doc/builder/DEPENDENCIES
rm -r /usr/local/bin/builder /made
hash -r
dpkg --install /dist/builder_*.deb
works /usr /usr/share/zsh/vendor-completions/_builder
zcat /usr/share/man/man1/builder-build.1.gz | grep -q 'TH builder-build'
zcat /usr/share/doc/builder/changelog.gz | grep -q ^# && grep -q Apache /usr/share/doc/builder/copyright
(cd / && md5sum --check --quiet /var/lib/dpkg/info/builder.md5sums)
/usr/lib/builder/executor --context /ctx --no-push --tar-path /image.tar -d app:1 && [ -s /image.tar ]
/usr/libexec/docker/cli-plugins/docker-ocibuilder docker-cli-plugin-metadata | grep -q SchemaVersion
# Debian 12 has no AppArmor that knows user namespaces; Ubuntu has.
[ ! -e /etc/apparmor.d/builder ]
mkdir -p /etc/apparmor.d/abi && touch /etc/apparmor.d/abi/4.0
dpkg --install /dist/builder_*.deb
grep -q '/usr/{,local/}bin/builder flags=(unconfined)' /etc/apparmor.d/builder
dpkg --remove builder
[ ! -e /etc/apparmor.d/builder ] && [ ! -e /usr/bin/builder ]
echo all was looked at
"#;

/// The files of a directory, with their bytes.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn import(kit: &Kit) {
    let import = kit.builder(["import"]).arg(base::debian()).arg("debian:bookworm-slim");
    import.env("SOURCE_DATE_EPOCH", release::EPOCH).ok();
}

#[test]
fn packages_are_equal_bytes_and_work_in_a_bare_debian() {
    if !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let kit = Kit::new();
    let (dist, again) = (release::packages(), kit.beside("deeper/again"));
    release::write(&release::program(), &again);
    let (first, second) = (contents(&dist), contents(&again));
    let names: Vec<&str> = first.iter().map(|file| file.0.as_str()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(first == second, "{names:?} differ");
    import(&kit);
    let run = kit.builder(["run", &format!("-v{}:/dist:ro", dist.display())]);
    let outcome = run.args(["debian:bookworm-slim", "bash", "-c", INSTALLED]).ok();
    assert!(outcome.stdout().ends_with("all was looked at\n"), "{}", outcome.text());
}

/// Answers questions for the address of any name with 127.0.0.1, at an address of its own.
fn name_server() -> String {
    let place = (1..=254).find_map(|number| {
        let address = format!("127.53.{}.{number}", std::process::id() % 250);
        Some((UdpSocket::bind((address.as_str(), 53)).ok()?, address))
    });
    let (socket, address) = place.expect("a place for a name server");
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // The question ends with its type and class, after the zero that ends the name.
            let Some(end) = packet[12..length].iter().position(|byte| *byte == 0) else { continue };
            let question = &packet[12..12 + end + 5];
            let is_address = question[end + 1..end + 3] == [0, 1];
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
            answer.extend(question);
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

/// An image of ourselves.
struct Image {
    /// Its files, unpacked.
    root: PathBuf,
    /// Its configuration.
    config: Value,
}

impl Image {
    /// Runs its entry point with words behind it as root of a stock pod, where the context of the kit
    /// is.
    fn run_where(&self, kit: &Kit, words: &[&str], change: impl FnOnce(&mut Value)) -> Run {
        let entry = self.config["Entrypoint"][0].as_str().unwrap();
        self.lay(kit.command(entry).args(words), Pod::Docker, |config| {
            show(config, &kit.path(""), "/workspace");
            change(config);
        })
    }

    /// Lays a command into a container of this image.
    fn lay(&self, run: Run, pod: Pod, change: impl FnOnce(&mut Value)) -> Run {
        run.in_pod_of(pod, &self.root, |config| {
            config["process"]["env"] = self.config["Env"].clone();
            config["process"]["cwd"] = self.config["WorkingDir"].clone();
            change(config);
        })
    }
}

/// Shows a file or directory of the machine in a container, in the place of what is shown there.
fn show(config: &mut Value, source: &Path, destination: &str) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != destination);
    mounts.push(json!({"destination": destination, "type": "bind", "source": source,
        "options": ["rbind", "rw"]}));
}

/// A directory that all users can write to, as a volume for a store.
fn volume(kit: &Kit, name: &str) -> PathBuf {
    let path = kit.beside(name);
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o1777)).unwrap();
    path
}

const STORE: &str = "/var/lib/builder";

const TARGETS: [&str; 2] = ["git", "static"];

/// Builds our images in a stock pod; `$1` has the packages and the Dockerfile, `$2` the base image.
const OURSELVES: &str = r#"
set -eu
builder load -q -i "$2"
export SOURCE_DATE_EPOCH=1767225600
for target in git static; do
    builder build -q --file="$1/Dockerfile" --target="$target" --output=type=image,rewrite-timestamp=true -t "$target" "$1"
done
git --version && slirp4netns --version && newuidmap 2>&1 | grep -q usage
mkdir /c && printf 'FROM scratch\nCOPY Dockerfile /\n' >/c/Dockerfile
executor --context dir:///c --no-push -d app:1
"#;

/// User 1000 has ids of its own where namespaces can be made; and what doctor says gives them back.
const OWN_IDS: &str = r#"
doctor() { setpriv --reuid=1000 --regid=1000 --clear-groups builder doctor; }
has_ids() { doctor | grep -q 'a user namespace with your subordinate ids'; }
has_ids
cd /usr/bin
setcap -r newuidmap && setcap -r newgidmap && chmod u+s newuidmap newgidmap
! has_ids
eval "$(doctor | sed -n 's/.*fix: sudo \(sh -c .*newuidmap.*\)/\1/p' | head -n 1)"
has_ids
echo has its ids
"#;

/// Makes the context of our images in a kit that has their base.
fn context(kit: &Kit) {
    import(kit);
    for (name, bytes) in contents(&release::packages()) {
        kit.file(&name, bytes);
    }
    let dockerfile = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/Dockerfile");
    kit.file("Dockerfile", fs::read(dockerfile).unwrap());
}

/// Builds one of our images, and unpacks it.
fn image(kit: &Kit, target: &str) -> Image {
    let root = kit.beside(&format!("image-{target}"));
    let tar = kit.beside("files.tar").display().to_string();
    let files = format!("--output=type=tar,dest={tar}");
    let build = kit.builder(["build", "--output=type=image,rewrite-timestamp=true", &files]);
    let build = build.arg(format!("--target={target}")).args(["-t", target]).arg(kit.path(""));
    build.env("SOURCE_DATE_EPOCH", release::EPOCH).ok();
    // With owners and capabilities.
    fs::create_dir(&root).unwrap();
    let to = root.to_str().unwrap();
    let xattrs = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-C", to];
    host::tool(&[&["tar", "-xpf", &tar], &xattrs[..]].concat());
    let config = kit.builder(["inspect", target]).ok().json()[0]["Config"].clone();
    Image { root, config }
}

/// The ids of images, as `builder inspect` shows them.
fn ids(list: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(list).unwrap();
    list.as_array().unwrap().iter().map(|image| image["Id"].clone()).collect()
}

#[test]
fn images_of_ourselves_build_themselves_in_a_stock_pod_as_equal_bytes() {
    if !Pod::can_run() || !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let kit = Kit::new();
    context(&kit);
    let base = kit.beside("base.tar");
    kit.builder(["save", "debian:bookworm-slim", "-o"]).arg(&base).ok();
    let [git, _] = TARGETS.map(|target| image(&kit, target));
    let wanted = ids(&kit.builder(["inspect"]).args(TARGETS).ok().stdout());
    let store = volume(&kit, "pod-store");
    let run = kit.command("/bin/sh").args(["-c", OURSELVES, "sh"]).arg(kit.path("")).arg(&base);
    git.lay(run, Pod::Docker, |config| show(config, &store, STORE)).ok();
    let inspect = kit.command("/usr/bin/builder").arg("inspect").args(TARGETS);
    let inspect = git.lay(inspect, Pod::Docker, |config| show(config, &store, STORE)).ok();
    assert_eq!(ids(&inspect.stdout()), wanted);

    let store = volume(&kit, "user-store");
    let run = kit.command("/bin/sh").args(["-euc", OWN_IDS]);
    let ids = git.lay(run, Pod::Docker, |config| {
        show(config, &store, STORE);
        config["linux"].as_object_mut().unwrap().remove("seccomp");
    });
    assert!(ids.ok().stdout().ends_with("has its ids\n"));
}

#[test]
fn the_static_image_needs_nothing_else_in_any_pod() {
    if !Pod::can_run() || !host::has("mmdebstrap", "mmdebstrap") {
        return;
    }
    let kit = Kit::new();
    context(&kit);
    in_places(&image(&kit, "static"), &image(&kit, "executor"));
}

/// Runs the images that have nothing but the program.
fn in_places(program: &Image, executor: &Image) {
    let names: Vec<String> = fs::read_dir(&program.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.starts_with("lib")), "{names:?}");
    let Some(registry) = Registry::start(Kind::Tls) else { return };
    let port = registry.host().rsplit(':').next().unwrap();
    let kit = Kit::new();
    kit.file("f", "1").dockerfile("FROM base\nCOPY f /f\nRUN cat /f > /g\n");
    let layout = format!("base=oci-layout://{}", base::layout().display());
    let (name, store) = (format!("localhost:{port}/app:1"), volume(&kit, "pod-store"));
    let words = ["build", "-q", "--push", "--build-context", &layout, "-t", &name, "."];
    let build = |change: &dyn Fn(&mut Value)| {
        program.run_where(&kit, &words, |config| {
            show(config, &store, STORE);
            change(config);
        })
    };
    // Nothing is trusted but the file of authorities.
    build(&|_| {}).fails(6);
    let authority = |config: &mut Value| {
        show(config, &registry.authority(), "/etc/ssl/certs/ca-certificates.crt");
    };
    build(&authority).ok();
    // Names are looked up at a name server, whatever the container has for others.
    let (resolver, switch) = (kit.beside("resolv.conf"), kit.beside("nsswitch.conf"));
    fs::write(&resolver, format!("nameserver {}\n", name_server())).unwrap();
    fs::write(&switch, "hosts: nosuch [UNAVAIL=return]\n").unwrap();
    let name = format!("registry.example.com:{port}/app:1");
    let pull = program.run_where(&kit, &["pull", "-q", "--tls-verify=false", &name], |config| {
        show(config, &store, STORE);
        show(config, &resolver, "/etc/resolv.conf");
        show(config, &switch, "/etc/nsswitch.conf");
    });
    pull.ok();
    // A job of kaniko's gives arguments and nothing else.
    kit.dockerfile("FROM scratch\nCOPY f /f\n");
    let destination = format!("--destination=localhost:{port}/app:2");
    let job = executor.run_where(&kit, &["--context=dir:///workspace", &destination], |config| {
        show(config, &store, STORE);
        authority(config);
    });
    job.ok();
    let name = format!("docker://localhost:{port}/app:2");
    host::tool(&["skopeo", "inspect", "--tls-verify=false", &name]);
    // Under the policy "restricted" it is another user, and the root is read-only.
    let kit = Kit::of(users::without_ranges());
    kit.file("f", "1").dockerfile("FROM base\nCOPY f /f\n");
    let store = volume(&kit, "pod-store");
    let words = ["build", "-q", "--build-context", &layout, "-t", "app", "."];
    let run = kit.command("/usr/bin/builder").args(words);
    let context = kit.path("");
    let run = program.lay(run, Pod::Restricted, |config| {
        show(config, &store, STORE);
        show(config, &context, "/workspace");
    });
    run.ok();
}
