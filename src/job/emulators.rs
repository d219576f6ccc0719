//! Emulators that are files of images.
//!
//! An image is looked at before the first step, and only if a step may need what is in it. One that
//! cannot be had is an error of the first step that needs an emulator: if all of them are cached,
//! nothing is missed.

use super::failure;
use super::resolve::Images;
use crate::image::Image;
use crate::oci::Platform;
use crate::plan::{Op, Plan, Resolved, Resolver as _};
use crate::sandbox::{
    EmulatorLack, EmulatorPlace, Emulators, GivenEmulator, Machine, SandboxError,
};
use crate::sys::rooted::open_in_root;
use rustix::fs::{FileType, Mode, OFlags, fstat};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use walkdir::WalkDir;

/// Where emulators usually are in an image.
const USUAL: [&str; 4] = ["usr/bin", "usr/local/bin", "bin", ""];

/// Returns the machines that programs of a plan's commands may be for, besides this one: those of
/// its steps, and of the images that these start from, which may be for others.
pub(super) fn machines_of(plan: &Plan, images: &[Image]) -> Vec<&'static Machine> {
    let runs = plan.steps.iter().filter(|step| matches!(step.op, Op::Run(_)));
    let of_steps = runs.map(|step| step.platform.clone());
    let of_images = images.iter().map(|image| image.config.platform());
    let mut machines = Vec::new();
    if plan.runs_commands() {
        for platform in of_steps.chain(of_images).filter(|platform| *platform != Platform::host()) {
            machines.extend(Machine::of(&platform).filter(|known| !machines.contains(known)));
        }
    }
    machines
}

/// Puts the files of images in the place of their names, for these machines.
pub fn bring(
    emulators: &Emulators,
    machines: &[&'static Machine],
    images: &mut Images<'_>,
) -> Emulators {
    let mut emulators = emulators.clone();
    for GivenEmulator { platform, place, .. } in &mut emulators.given {
        let EmulatorPlace::Image(name) = place else { continue };
        let meant: Vec<_> = match platform {
            Some(platform) => Machine::of(platform).into_iter().collect(),
            None => machines.to_vec(),
        };
        if meant.iter().any(|machine| machines.contains(machine)) {
            *place = match files_of(name, &meant, images) {
                Ok(files) => EmulatorPlace::Files(files),
                Err(reason) => EmulatorPlace::Unusable(reason),
            };
        }
    }
    emulators
}

/// Returns what to do about programs of another processor that do not run here.
pub fn hints(error: &SandboxError) -> Vec<String> {
    let SandboxError::NoEmulator { platform, lack, .. } = error else { return Vec::new() };
    let architecture = platform.split('/').nth(1).unwrap_or(platform);
    let own = [
        "install an emulator: apt-get install qemu-user-static",
        "or name one: --emulator PATH, or out of an image: --emulator image:tonistiigi/binfmt",
    ];
    let of_host = format!(
        "register one for all of this machine, as its root: docker run --privileged --rm \
         tonistiigi/binfmt --install {architecture}"
    );
    let native = "do without: a stage FROM --platform=$BUILDPLATFORM that cross-compiles runs no \
                  program of the other platform";
    let mut hints = Vec::new();
    match lack {
        EmulatorLack::Emulator => hints.extend(own.map(str::to_owned)),
        EmulatorLack::Kernel | EmulatorLack::Namespace => hints.push(of_host),
        EmulatorLack::Processor => {
            hints.push(format!("name an emulator: --emulator {platform}=PATH"));
        }
    }
    hints.push(native.to_owned());
    hints
}

/// Returns the emulators of an image that is for this machine.
fn files_of(
    name: &str,
    machines: &[&'static Machine],
    images: &mut Images<'_>,
) -> Result<Vec<(String, Arc<OwnedFd>)>, String> {
    let resolved = images.resolve(name, &Platform::host());
    let resolved = resolved.map_err(|error| failure::chain(&*error))?;
    let Resolved::Image { image, .. } = resolved else {
        return Err("it is not an image".to_owned());
    };
    let image = &images.images[image];
    let names: Vec<String> = machines.iter().flat_map(|machine| machine.emulators()).collect();
    let found = names.iter().filter_map(|name| Some((name.clone(), Arc::new(find(image, name)?))));
    Ok(found.collect())
}

/// Opens a file of an image by its name, from the top layer down, in the usual places first.
fn find(image: &Image, name: &str) -> Option<OwnedFd> {
    let layers: Vec<_> =
        image.layers.iter().rev().flat_map(|layer| layer.layer.directories()).collect();
    let usual = |layer: &Path| USUAL.iter().find_map(|dir| open(layer, &Path::new(dir).join(name)));
    layers.iter().find_map(|layer| usual(layer)).or_else(|| {
        layers.iter().find_map(|layer| {
            let entries = WalkDir::new(layer).sort_by_file_name().into_iter().flatten();
            let mut named = entries.filter(|entry| entry.file_name() == name);
            named.find_map(|entry| open(layer, entry.path().strip_prefix(layer).ok()?))
        })
    })
}

/// Opens a file of a layer, whose links lead nowhere else.
fn open(layer: &Path, path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(layer, flags, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open_in_root(root.as_fd(), path.as_os_str().as_bytes(), flags).ok()?;
    let stat = fstat(&file).ok()?;
    FileType::from_raw_mode(stat.st_mode).is_file().then_some(file)
}
