//! Finding an emulator: what was named, then the directories of `PATH`.
//!
//! What is found is used through a mount of its own that is read-only and attached nowhere, or as a
//! sealed copy in memory: no command can change it, although a process that runs in it reaches its
//! own program at `/proc/PID/exe`. Only the kernel opens it again, and it does so outside of every
//! root; so it must not need a library or a loader, which it would look for in the root of the step.

use std::fs::File;
use std::io::Seek as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::machine::{HEAD, Machine};
use crate::oci::Platform;
use crate::sandbox::program;
use crate::sys::foreign;

/// The largest emulator, in bytes; those of Debian have 3 to 7 MiB.
const SIZE_MAX: u64 = 256 << 20;

/// Most segments that are looked at.
const SEGMENTS_MAX: usize = 512;

/// Where emulators are looked for.
#[derive(Debug, Clone)]
pub struct Emulators {
    /// What was named, in this order. It goes before all else.
    pub given: Vec<GivenEmulator>,
    /// The directories of `PATH`.
    pub path: Vec<PathBuf>,
}

impl Default for Emulators {
    /// The usual directories of programs.
    fn default() -> Self {
        let path = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from).to_vec();
        Self { given: Vec::new(), path }
    }
}

/// An emulator that was named, or several.
#[derive(Debug, Clone)]
pub struct GivenEmulator {
    /// As it was named, for messages.
    pub name: String,
    /// The platform it is for; `None` where its files' names say so.
    pub platform: Option<Platform>,
    /// Where it is.
    pub place: EmulatorPlace,
}

/// Where an emulator that was named is.
#[derive(Debug, Clone)]
pub enum EmulatorPlace {
    /// A program, or a directory of programs.
    Path(PathBuf),
    /// An image. It cannot be used as it is: its files take its place before a sandbox is made.
    Image(String),
    /// Files of an image, by their names.
    Files(Vec<(String, Arc<OwnedFd>)>),
    /// Nowhere: why.
    Unusable(String),
}

impl PartialEq for EmulatorPlace {
    /// Says whether the same was named.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(one), Self::Path(other)) => one == other,
            (Self::Image(one), Self::Image(other)) => one == other,
            (Self::Unusable(one), Self::Unusable(other)) => one == other,
            _ => false,
        }
    }
}

/// An emulator that can be registered.
#[derive(Debug)]
pub(super) struct Found {
    /// What messages call it.
    pub(super) name: String,
    /// Its file, which cannot be written through this descriptor.
    pub(super) file: OwnedFd,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// There is nothing of its name; what was found and cannot serve.
    Nowhere(Option<String>),
    /// What was named cannot be used.
    Unusable(String),
}

impl Emulators {
    /// Finds what was named for a machine; `None` where nothing was.
    pub(super) fn named(&self, machine: &Machine) -> Option<Result<Found, NotFound>> {
        let unusable = |given: &GivenEmulator, reason: String| {
            Err(NotFound::Unusable(format!("--emulator {}: {reason}", given.name)))
        };
        for given in &self.given {
            let is_meant = match &given.platform {
                Some(platform) => match Machine::of(platform) {
                    Some(other) if other == machine => true,
                    _ => continue,
                },
                None => false,
            };
            match &given.place {
                EmulatorPlace::Image(_) => {
                    return Some(unusable(given, "its files were not looked for".to_owned()));
                }
                EmulatorPlace::Unusable(reason) => return Some(unusable(given, reason.clone())),
                EmulatorPlace::Files(files) => {
                    let is_it = |name: &str| machine.emulators().iter().any(|own| own == name);
                    let found = files.iter().find(|(name, _)| is_it(name));
                    if let Some((name, file)) = found {
                        let name = format!("{name} of {}", given.name);
                        let copied = File::from(match file.try_clone() {
                            Ok(file) => file,
                            Err(error) => return Some(unusable(given, error.to_string())),
                        });
                        return Some(match sealed(copied, &name) {
                            Ok(file) => Ok(Found { name, file }),
                            Err(reason) => unusable(given, reason),
                        });
                    }
                    if is_meant {
                        let [first, second] = machine.emulators();
                        return Some(unusable(given, format!("it has no {first} and no {second}")));
                    }
                }
                EmulatorPlace::Path(path) if path.is_dir() => {
                    match in_directories(std::slice::from_ref(path), machine) {
                        Ok(found) => return Some(Ok(found)),
                        Err(NotFound::Nowhere(None)) if !is_meant => {}
                        Err(NotFound::Nowhere(None)) => {
                            let [first, second] = machine.emulators();
                            let reason = format!("it has no {first} and no {second}");
                            return Some(unusable(given, reason));
                        }
                        Err(NotFound::Nowhere(Some(reason)) | NotFound::Unusable(reason)) => {
                            return Some(unusable(given, reason));
                        }
                    }
                }
                EmulatorPlace::Path(path) => {
                    let name = path.file_name().map(|name| name.to_string_lossy());
                    let of_name = name.and_then(|name| Machine::of_emulator(&name));
                    // One whose name says nothing is for whatever needs one.
                    if is_meant || of_name.is_none_or(|other| other == machine) {
                        return Some(match open(path) {
                            Ok(file) => Ok(Found { name: path.display().to_string(), file }),
                            Err(reason) => unusable(given, reason),
                        });
                    }
                }
            }
        }
        None
    }

    /// Finds one in `PATH`.
    pub(super) fn in_path(&self, machine: &Machine) -> Result<Found, NotFound> {
        in_directories(&self.path, machine)
    }

    /// Returns where they are looked for, for messages: what was named, and `PATH`.
    pub(super) fn shown_places(&self) -> String {
        let named = self.given.iter().filter(|given| given.platform.is_none());
        let path: Vec<_> = self.path.iter().map(|dir| dir.display().to_string()).collect();
        let mut places: Vec<_> = named.map(|given| given.name.clone()).collect();
        places.push(path.join(":"));
        places.join(", ")
    }
}

/// Finds an emulator by its usual names, the static one of all directories first.
fn in_directories(directories: &[PathBuf], machine: &Machine) -> Result<Found, NotFound> {
    let mut unfit = None;
    for name in machine.emulators() {
        for directory in directories {
            let path = directory.join(&name);
            if !path.is_file() {
                continue;
            }
            match open(&path) {
                Ok(file) => return Ok(Found { name: path.display().to_string(), file }),
                Err(reason) => {
                    unfit.get_or_insert(format!("{}: {reason}", path.display()));
                }
            }
        }
    }
    Err(NotFound::Nowhere(unfit))
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let name = path.file_name().map_or_else(|| "emulator".into(), |name| name.to_string_lossy());
    sealed(file, &name)
}

/// Makes a program that can serve one that nothing can write.
fn sealed(mut file: File, name: &str) -> Result<OwnedFd, String> {
    check(&file)?;
    if let Ok(mount) = program::read_only_mount_of(file.as_fd()) {
        return Ok(mount);
    }
    let io = |error: std::io::Error| format!("it cannot be copied to memory: {error}");
    // A file of an image may have been read for another build.
    file.rewind().map_err(io)?;
    let bytes = foreign::whole(file, SIZE_MAX).map_err(io)?;
    // A name in the kernel has at most 249 bytes, and no path.
    let name: String = name.chars().filter(char::is_ascii).take(64).collect();
    program::in_memory(&name, &mut &bytes[..]).map_err(io)
}

/// Checks that a file is a program of this machine that needs no loader.
fn check(file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut head = [0; 64];
    let is_read = file.read_exact_at(&mut head, 0).is_ok();
    let machine = Machine::of_program(&head[..HEAD]).filter(|_| is_read);
    let Some(machine) = machine.filter(|machine| machine.is_of_family()) else {
        return Err(format!(
            "it is not a program of this machine's processor, {}",
            Platform::host().architecture
        ));
    };
    match needs_loader(file, &head, machine) {
        Some(false) => Ok(()),
        Some(true) => Err("it is linked dynamically, and its libraries are not in the root of a \
                           step: an emulator must be static, as qemu-user-static's are"
            .to_owned()),
        None => Err("its headers cannot be read".to_owned()),
    }
}

/// Says whether a program names a loader (`PT_INTERP`).
fn needs_loader(file: &File, head: &[u8; 64], machine: &Machine) -> Option<bool> {
    const INTERPRETER: u32 = 3;
    let wide = machine.is_wide();
    let at = |wide_at: usize, narrow_at: usize| if wide { wide_at } else { narrow_at };
    let start = match wide {
        true => u64::from_le_bytes(head[32..40].try_into().ok()?),
        false => u64::from(u32::from_le_bytes(head[28..32].try_into().ok()?)),
    };
    let half = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let (size, count) = (half(at(54, 42)), half(at(56, 44)));
    if size < 4 || count == 0 || count > SEGMENTS_MAX {
        return None;
    }
    let mut bytes = vec![0; size * count];
    file.read_exact_at(&mut bytes, start).ok()?;
    Some(bytes.chunks_exact(size).any(|segment| segment.starts_with(&INTERPRETER.to_le_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    fn machine(architecture: &str) -> &'static Machine {
        Machine::of(&Platform::new("linux", architecture, "")).unwrap()
    }

    fn given(name: &str, place: EmulatorPlace) -> GivenEmulator {
        GivenEmulator { name: name.to_owned(), platform: None, place }
    }

    fn host() -> Vec<u8> {
        Machine::of(&Platform::host()).unwrap().program()
    }

    #[test]
    fn a_program_that_needs_a_loader_cannot_serve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu-arm");
        std::fs::write(&path, host()).unwrap();
        open(&path).unwrap();
        let mut linked = host();
        let wide = Machine::of_program(&linked).unwrap().is_wide();
        linked[if wide { 64 } else { 52 }] = 3;
        std::fs::write(&path, &linked).unwrap();
        assert!(open(&path).unwrap_err().contains("linked dynamically"));
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(open(&path).unwrap_err().contains("not a program of this machine"));
        assert!(open(dir.path()).unwrap_err().contains("not a file"));
        assert!(open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn names_say_which_machine_an_emulator_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, host()).unwrap();
            path
        };
        let (arm64, any) = (put("given/qemu-aarch64"), put("box"));
        put("first/qemu-riscv64");
        put("second/qemu-riscv64-static");
        symlink("qemu-riscv64-static", dir.path().join("second/qemu-s390x")).unwrap();
        let path = ["first", "second", "missing"].map(|name| dir.path().join(name)).to_vec();
        let place = |path: &PathBuf| EmulatorPlace::Path(path.clone());
        let file = Arc::new(OwnedFd::from(File::open(&any).unwrap()));
        let mut all = Emulators { given: vec![given("x", place(&arm64))], path };
        let named = |all: &Emulators, name: &str| {
            all.named(machine(name)).map(|found| found.map(|found| found.name))
        };
        let shown = |path: &PathBuf| Some(Ok(path.display().to_string()));
        assert_eq!(named(&all, "arm64"), shown(&arm64));
        assert_eq!(named(&all, "riscv64"), None);
        let in_path = |name| all.in_path(machine(name)).map(|found| found.name);
        let second = dir.path().join("second");
        let expect = |name: &str| Ok(second.join(name).display().to_string());
        assert_eq!(in_path("riscv64"), expect("qemu-riscv64-static"), "the static one");
        assert_eq!(in_path("s390x"), expect("qemu-s390x"));
        assert_eq!(in_path("arm64"), Err(NotFound::Nowhere(None)));

        all.given = vec![given("x", place(&any))];
        assert_eq!(named(&all, "s390x"), shown(&any), "a name that says nothing");
        all.given[0].platform = Some(Platform::new("linux", "arm64", ""));
        assert_eq!(named(&all, "s390x"), None);
        assert_eq!(named(&all, "arm64"), shown(&any));
        all.given = vec![given("x", place(&arm64.parent().unwrap().to_owned()))];
        assert_eq!(named(&all, "arm64"), shown(&arm64));
        assert_eq!(named(&all, "arm"), None);
        all.given =
            vec![given("image:i", EmulatorPlace::Files(vec![("qemu-arm".to_owned(), file)]))];
        assert_eq!(named(&all, "arm"), Some(Ok("qemu-arm of image:i".to_owned())));
        assert_eq!(named(&all, "arm64"), None);
        all.given = vec![given("image:i", EmulatorPlace::Unusable("gone".to_owned()))];
        let refused = Some(Err(NotFound::Unusable("--emulator image:i: gone".to_owned())));
        assert_eq!(named(&all, "arm"), refused);
    }

    #[test]
    fn the_file_of_an_emulator_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu-arm");
        std::fs::write(&path, host()).unwrap();
        let copy = open(&path).unwrap();
        let again = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let is_refused = match File::options().write(true).open(&again) {
            Ok(file) => rustix::io::write(&file, b"x").is_err(),
            Err(_) => true,
        };
        assert!(is_refused);
        assert!(File::options().write(true).truncate(true).open(&again).is_err());
    }
}
