//! A hermetic place to run `builder` in: a context, a store and a home of its own, and nothing else
//! of the machine but its kernel.
//!
//! Every run is the real program with the real sandbox, so it needs root; `scripts/test.sh` sees to
//! that. Nothing outside the [`Kit`]'s directory is written.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared by several test programs, each of which uses a part of it"
)]

pub mod archive;
pub mod base;
pub mod emulation;
pub mod host;
pub mod narrow;
mod outcome;
pub mod pod;
pub mod release;
pub mod running;
pub mod swapping;
pub mod users;
pub mod wait;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use archive::Archive;
pub use outcome::{Counts, Outcome, State, Step, base64};

/// The program under test.
pub const BUILDER: &str = env!("CARGO_BIN_EXE_builder");

/// The environment a run starts with; everything else of ours is hidden from it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A directory with a context, a store and a home, removed at the end.
pub struct Kit {
    dir: tempfile::TempDir,
    store: PathBuf,
    /// Who runs the program, where that is not root.
    user: Option<users::User>,
}

impl Kit {
    /// Makes an empty context and an empty store.
    pub fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// As [`Kit::new`], beneath a directory of choice.
    pub fn new_in(directory: &Path) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests build images as root: run them with scripts/test.sh"
        );
        let dir = tempfile::Builder::new().prefix("builder-kit-").tempdir_in(directory);
        let dir = dir.expect("temp dir");
        for name in ["context", "home", "tmp", "out"] {
            make_dir(&dir.path().join(name));
        }
        let store = dir.path().join("store");
        Self { dir, store, user: None }
    }

    /// A kit whose program another user of the machine runs, who can reach nothing else of ours.
    pub fn of(user: users::User) -> Self {
        Self::of_in(user, &std::env::temp_dir())
    }

    /// As [`of`](Self::of), in a directory of the caller's that the user can reach.
    pub fn of_in(user: users::User, directory: &Path) -> Self {
        let mut kit = Self::new_in(directory);
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(kit.dir.path(), open).expect("chmod");
        for name in ["home", "tmp", "out", "store"] {
            make_dir(&kit.beside(name));
            std::os::unix::fs::chown(kit.beside(name), Some(user.uid), Some(user.gid))
                .expect("chown");
        }
        // The build's own directory may be one that only root can enter.
        fs::copy(BUILDER, kit.beside("builder")).expect("copy the program");
        let layout = base::layout().to_str().expect("UTF-8");
        host::tool(&["cp", "-r", layout, kit.beside("base").to_str().expect("UTF-8")]);
        kit.user = Some(user);
        kit
    }

    /// The root of the store, which the first command makes.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A path beside the context.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the context.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("context").join(name)
    }

    /// Where exports go.
    pub fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    /// Writes a file of the context, mode 0644, with its directories.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        write_file(&self.path(name), content.as_ref());
        self
    }

    /// Writes the Dockerfile.
    pub fn dockerfile(&self, text: &str) -> &Self {
        self.file("Dockerfile", text)
    }

    /// Changes the mode of a file of the context.
    pub fn chmod(&self, name: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
        self
    }

    /// Makes a symbolic link in the context.
    pub fn symlink(&self, target: &str, name: &str) -> &Self {
        let path = self.path(name);
        make_dir(path.parent().expect("a parent"));
        std::os::unix::fs::symlink(target, path).expect("symlink");
        self
    }

    /// Starts to describe `builder ARGS…`.
    pub fn builder<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        let mut command = match &self.user {
            Some(user) => {
                let mut command = Command::new(self.beside("builder"));
                command.uid(user.uid).gid(user.gid);
                command
            }
            None => Command::new(BUILDER),
        };
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("RUST_BACKTRACE", "1")
            .env("HOME", self.beside("home"))
            .env("TMPDIR", self.beside("tmp"))
            .env("BUILDER_ROOT", &self.store)
            // However full this machine's disk is, nothing is collected.
            .env("BUILDER_MIN_FREE", "0")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .args(args);
        Run { command, input: None, archive: None, user: self.user.clone() }
    }

    /// Who runs the program, where that is not root.
    pub fn user(&self) -> Option<&users::User> {
        self.user.as_ref()
    }

    /// Starts to describe a run of another program, in the environment of `builder`.
    pub fn command(&self, program: &str) -> Run {
        let mut run = self.builder([""; 0]);
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).current_dir(self.dir.path());
        command.envs(run.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run.command = command;
        run
    }

    /// Starts to describe `builder build` of the context, with JSON progress and `fixture/base` at hand.
    pub fn build(&self) -> Run {
        self.build_of(&self.path(""))
    }

    /// As [`Kit::build`], of a context somewhere else.
    pub fn build_of(&self, context: &Path) -> Run {
        self.with_context("build", context).arg("--progress=rawjson")
    }

    /// As [`Kit::build`], with another kind of progress.
    pub fn build_showing(&self, progress: &str) -> Run {
        self.with_context("build", &self.path("")).arg(format!("--progress={progress}"))
    }

    /// Starts to describe `builder explain` of what a build would do now.
    pub fn explain(&self) -> Run {
        self.with_context("explain", &self.path(""))
    }

    /// Starts to describe `builder check` of the context.
    pub fn check(&self) -> Run {
        self.with_context("check", &self.path(""))
    }

    fn with_context(&self, command: &str, context: &Path) -> Run {
        let layout = match &self.user {
            Some(_) => self.beside("base"),
            None => base::layout().to_owned(),
        };
        let base = format!("--build-context=fixture/base=oci-layout://{}", layout.display());
        let mut run = self.builder([command]).arg(base).arg(context);
        run.archive = Some(self.out("image.tar"));
        run
    }

    /// Builds, exports and reads the image.
    #[track_caller]
    pub fn image(&self) -> Archive {
        self.build().image()
    }
}

/// A command that is about to run.
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
    archive: Option<PathBuf>,
    /// Who runs it, where that is not root.
    user: Option<users::User>,
}

impl Run {
    /// The program that it runs.
    pub fn program(&self) -> PathBuf {
        self.command.get_program().into()
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Feeds standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Gives the store a disk of this size (`24m`), which goes when the run ends. Standard output
    /// has what `builder images` and `ls` show afterwards.
    pub fn on_disk_of(self, size: &str) -> Self {
        let script = "mkdir \"$BUILDER_ROOT\" && mount -t tmpfs -o size=\"$0\",mode=700 small \"$BUILDER_ROOT\" || exit\n\
                      \"$@\"; status=$?; \"$1\" images; ls \"$BUILDER_ROOT\"; exit $status";
        self.behind(script, size)
    }

    /// Lays the store on an overlay, as it would lie inside a container. What is in it stays for the
    /// next run that is laid there.
    pub fn on_overlay(self) -> Self {
        let script = "cd \"$0\" && mkdir -p lower upper work \"$BUILDER_ROOT\" && \
                      mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay \"$BUILDER_ROOT\" || exit\n\
                      cd \"$OLDPWD\" && exec \"$@\"";
        let directory =
            Path::new(self.command.get_current_dir().expect("the kit's")).join("overlay");
        make_dir(&directory);
        self.behind(script, directory.to_str().expect("the kit's directory has a plain name"))
    }

    /// Runs it as `user` on a machine whose `/dev/net/tun` is for everybody.
    pub fn with_tun_for(self, user: &users::User) -> Self {
        let script = "mount -t tmpfs -o dev tun \"$TMPDIR\" && mknod -m 666 \"$TMPDIR/tun\" c 10 200 && \
                      touch /dev/net/tun && mount --bind \"$TMPDIR/tun\" /dev/net/tun || exit\n\
                      umount -l \"$TMPDIR\"; exec setpriv $0 --clear-groups \"$@\"";
        self.behind(script, &format!("--reuid={} --regid={}", user.uid, user.gid))
    }

    /// Runs it in a network namespace of its own, as `setup` makes it.
    pub fn in_network_after(self, setup: &str) -> Self {
        self.behind_in("--net", &format!("{setup} || exit\nexec \"$@\""), "sh")
    }

    /// Runs it as root of a user namespace of its own, as `setup` makes it.
    pub fn in_user_namespace_after(self, setup: &str) -> Self {
        self.behind_in("--map-root-user", &format!("{setup} || exit\nexec \"$@\""), "sh")
    }

    /// Runs it as root of a user namespace and a mount namespace of its own, as `setup` makes them.
    pub fn in_mounts_after(self, setup: &str) -> Self {
        self.behind_in("-Urm", &format!("{setup} || exit\nexec \"$@\""), "sh")
    }

    /// Runs it through a script, whose `$0` is `argument`, in a mount namespace of its own.
    fn behind(self, script: &str, argument: &str) -> Self {
        self.behind_in("--mount", script, argument)
    }

    fn behind_in(mut self, namespace: &str, script: &str, argument: &str) -> Self {
        let old = std::mem::replace(&mut self.command, Command::new("unshare"));
        self.command.args([namespace, "--", "sh", "-c", script, argument]).env_clear();
        self.command.arg(old.get_program()).args(old.get_args()).stdin(Stdio::null());
        self.command.envs(old.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = old.get_current_dir() {
            self.command.current_dir(directory);
        }
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(mut self) -> Outcome {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.command.spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            if let (Some(mut stdin), Some(bytes)) = (stdin, &self.input) {
                // The program may well exit without reading it all.
                scope.spawn(move || drop(stdin.write_all(bytes)));
            }
            child.wait_with_output().expect("the program ends")
        });
        Outcome::of(output)
    }

    /// Runs it; anything but exit status 0 is a failure of the test.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        self.exits(0)
    }

    /// Runs it and expects an error: this exit status, one message, and no panic.
    #[track_caller]
    pub fn fails(self, status: i32) -> Outcome {
        let outcome = self.exits(status);
        let errors = outcome.text().lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "one error is shown:\n{}", outcome.text());
        outcome
    }

    /// Runs it; the result may be a failure.
    pub fn any(self) -> Outcome {
        self.run()
    }

    /// Runs it and expects this exit status.
    #[track_caller]
    pub fn exits(self, status: i32) -> Outcome {
        let shown = format!("{:?}", self.command);
        let outcome = self.run();
        assert_eq!(
            outcome.status,
            Some(status),
            "{shown}\n{}\n{}\n{}",
            outcome.stdout(),
            outcome.text(),
            outcome.log()
        );
        outcome
    }

    /// Builds with an export and reads what came out.
    #[track_caller]
    pub fn image(self) -> Archive {
        let path = self.archive.clone().expect("this run builds");
        self.arg(format!("--output=type=oci,dest={},compression=uncompressed", path.display()))
            .ok();
        Archive::open(&path)
    }

    /// Runs the command from a shell, after `setup`; as `umask 077`.
    pub fn after(mut self, setup: &str) -> Self {
        let script = format!("{setup}; exec \"$0\" \"$@\"");
        let old = std::mem::replace(&mut self.command, Command::new("sh"));
        self.command.args(["-c", &script]).arg(old.get_program()).args(old.get_args());
        self.command.env_clear().stdin(Stdio::null());
        self.command.envs(old.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = old.get_current_dir() {
            self.command.current_dir(directory);
        }
        if let Some(user) = &self.user {
            self.command.uid(user.uid).gid(user.gid);
        }
        self
    }

    /// Gives up the description for tests that talk to the process while it runs.
    pub fn into_command(self) -> Command {
        self.command
    }
}

/// Writes a file with mode 0644 and its directories with 0755, whatever the umask is.
pub fn write_file(path: &Path, content: &[u8]) {
    make_dir(path.parent().expect("a parent"));
    fs::write(path, content).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("chmod");
}

/// Makes a directory and those above it with mode 0755.
pub fn make_dir(path: &Path) {
    if path.is_dir() {
        return;
    }
    make_dir(path.parent().expect("a parent"));
    fs::create_dir(path).expect("mkdir");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}
