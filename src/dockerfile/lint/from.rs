//! FROM lines: what their variables make of them, and what the image is.

use super::rules::{
    FROM_PLATFORM_FLAG_CONST_DISALLOWED, INVALID_BASE_IMAGE_PLATFORM, INVALID_DEFAULT_ARG_IN_FROM,
    REDUNDANT_TARGET_PLATFORM, UNDEFINED_ARG_IN_FROM, UNPINNED_BASE_IMAGE,
};
use super::suggest::suggest;
use super::{Base, Findings, ImageFacts, Input, Options, Site};
use crate::dockerfile::ast::{Command, Stage, Word};
use crate::dockerfile::env::{self, Env};
use crate::dockerfile::expand::{ExpandError, Expanded, Lexer};
use crate::dockerfile::golang::quote;
use crate::oci::{Platform, Reference};
use std::collections::BTreeMap;

pub(super) fn check(input: &Input<'_>, report: &mut Findings) {
    default_names(input, report);
    let Ok(globals) = env::globals(input.file, input.platform_args, input.build_args) else {
        return;
    };
    let declared =
        input.file.global_args.iter().flat_map(|instruction| match &instruction.command {
            Command::Arg(declarations) => declarations.as_slice(),
            _ => &[],
        });
    let known: Vec<&str> =
        globals.names().chain(declared.map(|declaration| declaration.name.as_str())).collect();
    for (index, stage) in input.file.stages.iter().enumerate() {
        let options = input.options.with_comments(&stage.from.comments);
        let place = Site::of(&stage.from);
        let (name, _) = expand(input, &stage.base, &globals);
        undefined(&options, place.at(&stage.base), &name, &known, report);
        if let Some(word) = &stage.platform {
            let (platform, _) = expand(input, word, &globals);
            undefined(&options, place.at(word), &platform, &known, report);
            platform_flag(&options, stage, word, &platform, &globals, report);
        }
        if let Some(facts) = input.stages.get(index).filter(|facts| facts.counts) {
            base_image(input, &options, &facts.base, place.at(&stage.base), report);
        }
    }
}

fn expand(input: &Input<'_>, word: &Word, env: &Env) -> (Expanded, Result<(), ExpandError>) {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    Lexer::new(input.file.escape).process_noting(&word.text, &lookup)
}

/// The names that come out where no build argument is given.
fn default_names(input: &Input<'_>, report: &mut Findings) {
    let Ok(defaults) = env::globals(input.file, input.platform_args, &BTreeMap::new()) else {
        return;
    };
    for stage in &input.file.stages {
        let (name, Ok(())) = expand(input, &stage.base, &defaults) else { return };
        if name.text.parse::<Reference>().is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base.text
            );
            let place = Site::of(&stage.from).at(&stage.base);
            report.add(input.options, &INVALID_DEFAULT_ARG_IN_FROM, place, message);
        }
    }
}

fn undefined(
    options: &Options,
    place: Site,
    expanded: &Expanded,
    known: &[&str],
    report: &mut Findings,
) {
    for name in &expanded.unmatched {
        if known.contains(&name.as_str()) {
            continue;
        }
        let mut message = format!("FROM argument '{name}' is not declared");
        if let Some(near) = suggest(name, known.iter().copied()) {
            message += &format!(" (did you mean {near}?)");
        }
        report.add(options, &UNDEFINED_ARG_IN_FROM, place, message);
    }
}

fn platform_flag(
    options: &Options,
    stage: &Stage,
    word: &Word,
    platform: &Expanded,
    globals: &Env,
    report: &mut Findings,
) {
    const TARGET: &str = "TARGETPLATFORM";
    let place = Site::of(&stage.from).at(word);
    // A name that is put together of several variables is taken to be intended.
    let is_target = platform.matched.len() == 1
        && platform.unmatched.is_empty()
        && platform.matched.contains(TARGET);
    if is_target && globals.get(TARGET) == Some(platform.text.as_str()) {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.text
        );
        report.add(options, &REDUNDANT_TARGET_PLATFORM, place, message);
    }
    if !platform.matched.is_empty() || !platform.unmatched.is_empty() {
        return;
    }
    let Ok(parsed) = platform.text.parse::<Platform>() else { return };
    let name = stage.name.as_ref().map_or("", Word::as_str);
    if !name.contains(&parsed.os) && !name.contains(&parsed.architecture) {
        let message =
            format!("FROM --platform flag should not use constant value {}", quote(&platform.text));
        report.add(options, &FROM_PLATFORM_FLAG_CONST_DISALLOWED, place, message);
    }
}

fn base_image(
    input: &Input<'_>,
    options: &Options,
    base: &Base,
    place: Site,
    report: &mut Findings,
) {
    let name = match base {
        Base::Image(image) => {
            // As in BuildKit, comments above the FROM have no say in this one.
            image_platform(input.options, image, place, report);
            if image.is_given {
                return;
            }
            &image.name
        }
        Base::Unknown(name) => name,
        Base::Scratch | Base::Stage(_) | Base::Replaced | Base::Directory => return,
    };
    let Ok(reference) = name.parse::<Reference>() else { return };
    if reference.digest().is_some() {
        return;
    }
    match reference.tag() {
        None => {
            let message = format!("Base image {name} has no tag, which means latest");
            report.add(options, &UNPINNED_BASE_IMAGE, place, message);
        }
        Some("latest") => {
            let message = format!("Base image {name} is whatever is the latest");
            report.add(options, &UNPINNED_BASE_IMAGE, place, message);
        }
        Some(_) => {}
    }
}

fn image_platform(options: &Options, image: &ImageFacts, place: Site, report: &mut Findings) {
    let (expected, actual) = (&image.expected, &image.actual);
    if image.is_given
        || (&expected.os, &expected.architecture) == (&actual.os, &actual.architecture)
    {
        return;
    }
    let message = format!(
        "Base image {} was pulled with platform {}, expected {} for current build",
        image.name,
        quote(&actual.to_string()),
        quote(&expected.to_string())
    );
    report.add(options, &INVALID_BASE_IMAGE_PLATFORM, place, message);
}
