//! `--emulator`: what runs the programs of other processors; `build` and `run` share it.

use super::Environment;
use super::failure::{Class, Failure};
use crate::oci::Platform;
use crate::sandbox::{EmulatorPlace, Emulators, GivenEmulator};
use clap::Args;
use std::path::PathBuf;

/// The variable that stands for the flag.
pub(super) const VARIABLE: &str = "BUILDER_EMULATOR";

/// What runs the programs of other processors.
#[derive(Debug, Clone, Default, Args)]
pub struct EmulatorArgs {
    /// Emulator for RUN steps of other platforms, before any that is registered on this machine or
    /// found in PATH: a program (qemu-aarch64-static), a directory of them, or an image that has them
    #[arg(
        long,
        value_name = "[PLATFORM=]PATH|image:REF",
        value_delimiter = ',',
        env = VARIABLE,
        value_parser = given
    )]
    pub emulator: Vec<GivenEmulator>,
}

impl EmulatorArgs {
    /// Returns where emulators are looked for.
    ///
    /// # Errors
    ///
    /// A usage failure for a file that is not there.
    pub(super) fn emulators(&self, environment: &Environment) -> Result<Emulators, Failure> {
        for GivenEmulator { name, place, .. } in &self.emulator {
            if let EmulatorPlace::Path(path) = place
                && let Err(error) = std::fs::metadata(path)
            {
                let failure = Failure::new(Class::Usage, format!("--emulator {name}: {error}"));
                return Err(match is_image(name) {
                    true => {
                        failure.with_hint(format!("if it is an image: --emulator image:{name}"))
                    }
                    false => failure,
                });
            }
        }
        let path = environment.variable("PATH").unwrap_or_default();
        let directories = path.split(':').map(PathBuf::from).filter(|dir| dir.is_absolute());
        Ok(Emulators { given: self.emulator.clone(), path: directories.collect() })
    }

    /// Returns what the variable alone names.
    ///
    /// # Errors
    ///
    /// A usage failure for what is not an emulator.
    pub(super) fn of_variable(environment: &Environment) -> Result<Self, Failure> {
        let text = environment.variable(VARIABLE).unwrap_or_default();
        let emulator = text.split(',').filter(|text| !text.is_empty()).map(given).collect();
        let wrong = |error| Failure::new(Class::Usage, format!("{VARIABLE}: {error}"));
        Ok(Self { emulator: Result::map_err(emulator, wrong)? })
    }
}

/// Says whether a text looks like the name of an image of a registry.
fn is_image(text: &str) -> bool {
    !text.starts_with(['/', '.']) && text.contains(['/', ':'])
}

/// Reads `[PLATFORM=]PATH|image:REF`.
fn given(text: &str) -> Result<GivenEmulator, String> {
    let (platform, place) = match text.split_once('=') {
        Some((platform, place)) if !platform.starts_with(['/', '.']) => {
            let platform = platform.parse::<Platform>().map_err(|error| error.to_string())?;
            (Some(platform), place)
        }
        _ => (None, text),
    };
    let name = place.to_owned();
    let place = match place.strip_prefix("image:") {
        Some("") => return Err("image: takes the name of an image".to_owned()),
        Some(image) => EmulatorPlace::Image(image.to_owned()),
        None if place.is_empty() => return Err("an empty path".to_owned()),
        None => EmulatorPlace::Path(PathBuf::from(place)),
    };
    Ok(GivenEmulator { name, platform, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_is_a_path_or_an_image_for_one_platform_or_by_its_name() {
        let read = |text: &str| given(text).map(|given| (given.platform, given.place));
        let path = |text: &str| EmulatorPlace::Path(text.into());
        let arm64 = || Some(Platform::new("linux", "arm64", ""));
        assert_eq!(read("/a/qemu-arm"), Ok((None, path("/a/qemu-arm"))));
        assert_eq!(read("./a=b"), Ok((None, path("./a=b"))));
        assert_eq!(read("linux/arm64=box"), Ok((arm64(), path("box"))));
        assert_eq!(read("arm64=/x=y"), Ok((arm64(), path("/x=y"))));
        let image = EmulatorPlace::Image("a/b:1".to_owned());
        assert_eq!(read("arm64=image:a/b:1"), Ok((arm64(), image.clone())));
        assert_eq!(read("image:a/b:1"), Ok((None, image)));
        for wrong in ["", "image:", "arm65=x", "arm64="] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
