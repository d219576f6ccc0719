//! What a release has, made of the program under test.

use super::base::hex;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The time of the files in packages: 2026-01-01T00:00:00Z.
pub const EPOCH: &str = "1767225600";

/// The root of the source.
const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// Returns a program that needs no library of the machine: the one that `scripts/static.sh` compiles,
/// linked in seconds from what the program under test was linked from.
pub fn program() -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // One test at a time; the others find what it made.
    let lock = fs::File::create(made.join("release.lock")).expect("lock");
    lock.lock().expect("lock");
    let library = library();
    let facts = fs::metadata(&library).expect("the library");
    let stamp = facts.modified().expect("a time").duration_since(std::time::UNIX_EPOCH);
    let stamp = stamp.expect("a time").as_nanos();
    let source = format!("{SOURCE}/src/main.rs");
    let main = hex(&fs::read(&source).expect("main.rs"));
    let program = made.join(format!("builder-static-{stamp}-{}", &main[..8]));
    if !program.exists() {
        let new = made.join("builder-static.new");
        forget(made, "builder-static-");
        let dependencies = library.parent().expect("a directory").display();
        let status = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
            .args(["--edition=2024", "--crate-name=builder", "--crate-type=bin"])
            .args(["-Ctarget-feature=+crt-static", "-Cstrip=symbols"])
            .arg(format!("-Ldependency={dependencies}"))
            .arg(format!("--extern=builder={}", library.display()))
            .arg(source)
            .arg("-o")
            .arg(&new)
            .status()
            .expect("rustc");
        assert!(status.success(), "rustc: {status}");
        fs::rename(&new, &program).expect("rename");
    }
    program
}

/// Returns the library that the program under test consists of: the one that was compiled last.
fn library() -> PathBuf {
    let directory = Path::new(super::BUILDER).with_file_name("deps");
    let is_library = |path: &PathBuf| {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libbuilder-") && path.extension().is_some_and(|kind| kind == "rlib")
    };
    let files = fs::read_dir(&directory).expect("the directory of dependencies").flatten();
    let libraries = files.map(|entry| entry.path()).filter(is_library);
    let time = |path: &PathBuf| fs::metadata(path).and_then(|facts| facts.modified()).ok();
    libraries.max_by_key(time).expect("the library is compiled before its tests")
}

/// Returns the directory of the packages of a release, made once of what they are made of now.
pub fn packages() -> PathBuf {
    let program = program();
    let made = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = fs::File::create(made.join("packages.lock")).expect("lock");
    lock.lock().expect("lock");
    let mut files: Vec<PathBuf> = ["README.md", "CHANGELOG.md", "LICENSE", "Cargo.lock"]
        .map(|name| Path::new(SOURCE).join(name))
        .to_vec();
    for directory in ["scripts", "deploy", "deploy/debian"] {
        let entries = fs::read_dir(Path::new(SOURCE).join(directory)).expect("list").flatten();
        files.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    files.sort();
    let bytes: Vec<u8> =
        files.iter().flat_map(|file| fs::read(file).expect("a file of the source")).collect();
    let stamp = &hex(&bytes)[..8];
    let name = program.file_name().and_then(|name| name.to_str()).expect("a plain name");
    let packages = made.join(name.replace("builder-static", &format!("packages-{stamp}")));
    if !packages.exists() {
        let new = made.join("packages.new");
        forget(made, "packages-");
        write(&program, &new);
        fs::rename(&new, &packages).expect("rename");
    }
    packages
}

/// Writes the packages of a release into a directory, as `scripts/dist.sh` does.
pub fn write(program: &Path, directory: &Path) {
    let cargo = Path::new(env!("CARGO")).parent().expect("a directory").display();
    let status = Command::new(format!("{SOURCE}/scripts/dist.sh"))
        .arg("--binary")
        .arg(program)
        .arg(directory)
        .env("PATH", format!("{cargo}:{}", super::PATH))
        .env("SOURCE_DATE_EPOCH", EPOCH)
        // How well it is compressed says nothing that a test needs.
        .env("DIST_LEVEL", "1")
        .status()
        .expect("the script starts");
    assert!(status.success(), "dist.sh: {status}");
}

/// Removes what was made of another program, which takes 70 MB each time.
fn forget(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).expect("list").flatten() {
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.expect("remove");
        }
    }
}
