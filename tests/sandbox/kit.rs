//! A sandbox, a busybox to run in it, and what is needed to look at the result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::sandbox::{
    Control, Exit, Ids, Inputs, RunSpec, Sandbox, SandboxError, SandboxOptions, Source, Stdio,
    Stream,
};
use builder::snapshot::{MountOptions, Upper, mount};
use builder::sys::cancel::Cancel;
use tempfile::TempDir;

/// Debian's `busybox-static` puts it there.
const BUSYBOX: &str = "/bin/busybox";

pub struct Kit {
    pub dir: TempDir,
    pub sandbox: Sandbox,
    pub cancel: Cancel,
    pub control: Control,
    base: PathBuf,
}

/// What came of a command.
#[derive(Debug)]
pub struct Outcome {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
    /// The layer it made, overlay form.
    pub layer: PathBuf,
}

impl Outcome {
    /// Paths in the layer, sorted, without `/proc`, `/sys` and `/dev`.
    pub fn entries(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![self.layer.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                found.push(entry.path().strip_prefix(&self.layer).unwrap().display().to_string());
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        found.retain(|path| !["proc", "sys", "dev"].contains(&path.as_str()));
        found.sort();
        found
    }
}

impl Kit {
    /// Makes a kit, or says why it cannot.
    pub fn new() -> Option<Self> {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut SandboxOptions)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            cannot_run_here!("needs root");
            return None;
        }
        if !Path::new(BUSYBOX).exists() {
            cannot_run_here!("needs the package busybox-static");
            return None;
        }
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let base = dir.path().join("base");
        for directory in ["bin", "etc", "tmp", "root", "dev"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        fs::copy(BUSYBOX, base.join("bin/busybox")).unwrap();
        let list = Command::new(BUSYBOX).arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines() {
            if applet != "busybox" {
                std::os::unix::fs::symlink("busybox", base.join("bin").join(applet)).unwrap();
            }
        }
        fs::write(
            base.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:77:app\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let mut options = SandboxOptions::new(dir.path().join("leases"));
        options.program = env!("CARGO_BIN_EXE_builder").into();
        options.idmap = Some(builder::sandbox::choose_map(None));
        change(&mut options);
        Some(Self {
            sandbox: Sandbox::new(options),
            cancel: Cancel::new(),
            control: Control::default(),
            base,
            dir,
        })
    }

    /// A file or directory of the base.
    pub fn base(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// Compiles C to a program of the base that needs no libraries.
    pub fn compile(&self, source: &str, path: &str) {
        let file = self.dir.path().join("source.c");
        fs::write(&file, source).unwrap();
        let program = self.base(path);
        let status =
            Command::new("cc").args(["-static", "-O1", "-o"]).arg(program).arg(file).status();
        assert!(status.unwrap().success());
    }

    pub fn spec(&self, script: &str) -> RunSpec {
        let mut spec = RunSpec::new(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        spec.env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        spec
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> Outcome {
        self.run(&self.spec(script))
    }

    /// What a script prints.
    #[track_caller]
    pub fn says(&self, script: &str) -> String {
        let outcome = self.sh(script);
        assert_eq!(outcome.exit.status, 0, "{outcome:?}");
        outcome.stdout
    }

    #[track_caller]
    pub fn run(&self, spec: &RunSpec) -> Outcome {
        self.run_with(spec, Vec::new())
    }

    #[track_caller]
    pub fn run_with(&self, spec: &RunSpec, sources: Vec<Source<'_>>) -> Outcome {
        self.try_run(spec, sources, &mut |_, _| {}).unwrap()
    }

    pub fn try_run(
        &self,
        spec: &RunSpec,
        sources: Vec<Source<'_>>,
        watch: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Outcome, SandboxError> {
        let work = TempDir::new_in(self.dir.path()).unwrap().keep();
        let (layer, scratch) = (work.join("fs"), work.join("work"));
        fs::create_dir(&layer).unwrap();
        fs::create_dir(&scratch).unwrap();
        let ids = self.sandbox.ids(spec.security)?;
        let mut options = MountOptions::detect();
        options.idmap = ids.as_deref().and_then(Ids::mapping);
        let upper = Upper { fs: &layer, work: &scratch };
        let root = mount(std::slice::from_ref(&self.base), Some(&upper), &options).unwrap();
        let inputs = Inputs { root: root.root(), sources, stdio: Stdio::Capture };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = self.sandbox.run(
            spec,
            &inputs,
            &self.cancel,
            &self.control,
            &mut |stream, bytes| {
                watch(stream, bytes);
                match stream {
                    Stream::Stdout => stdout.extend_from_slice(bytes),
                    Stream::Stderr => stderr.extend_from_slice(bytes),
                }
            },
        )?;
        Ok(Outcome {
            exit,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            layer,
        })
    }
}
