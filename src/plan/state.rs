//! A stage as far as it has been walked: its configuration, variables and files.

use super::step::{Files, StepId};
use crate::dockerfile::ast::{self, CommandLine};
use crate::dockerfile::env::Env;
use crate::dockerfile::golang;
use crate::oci::{Config, HISTORY_COMMENT, History, Platform};
use std::collections::BTreeMap;

/// The shell of shell forms where SHELL says nothing.
const DEFAULT_SHELL: &[&str] = &["/bin/sh", "-c"];

/// A stage as far as it has been walked.
#[derive(Clone)]
pub(super) struct StageState {
    pub(super) files: Files,
    pub(super) config: Config,
    /// Which step made the layer of each entry that was added to the history.
    pub(super) made_by: Vec<Option<StepId>>,
    pub(super) env: Env,
    /// What ARG declared, in order, with the values they had.
    pub(super) args: Vec<(String, Option<String>)>,
    pub(super) platform: Platform,
    /// The platform of the image: with `FROM --platform=X scratch`, that of the build, since no
    /// base exists that could be for another.
    pub(super) image_platform: Platform,
    /// Whether its base is for another platform than that, and so what is made of it.
    pub(super) is_foreign: bool,
    /// Whether CMD came in this stage.
    pub(super) has_cmd: bool,
    /// How many names with a number progress has seen.
    pub(super) counted: usize,
    /// Whether it starts from an image of which nothing is known.
    pub(super) is_guess: bool,
}

impl StageState {
    pub(super) fn new(files: Files, config: Option<Config>, platform: Option<Platform>) -> Self {
        let platform = platform.expect("reached stages have a platform");
        let is_foreign = config.as_ref().is_some_and(|config| {
            let actual = config.platform();
            // An image without layers is for any platform.
            let has_layers = config.diff_ids().is_ok_and(|ids| !ids.is_empty());
            has_layers
                && (&actual.os, &actual.architecture) != (&platform.os, &platform.architecture)
        });
        let config = config.unwrap_or_else(|| {
            let mut config = Config::empty(&platform);
            config.set_working_dir("/");
            config
        });
        Self {
            files,
            config,
            image_platform: platform.clone(),
            made_by: Vec::new(),
            env: Env::default(),
            args: Vec::new(),
            platform,
            is_foreign,
            has_cmd: false,
            counted: 0,
            is_guess: false,
        }
    }

    /// Adds an entry to the history; `step` made its layer.
    pub(super) fn commit(&mut self, created_by: String, step: Option<StepId>) {
        self.config.push_history(&History {
            created_by,
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: step.is_none(),
            ..History::default()
        });
        self.made_by.push(step);
    }

    pub(super) fn with_shell(&self, text: &str) -> Vec<String> {
        let mut argv = self.config.shell().unwrap_or_default();
        if argv.is_empty() {
            argv = DEFAULT_SHELL.iter().map(|&word| word.to_owned()).collect();
        }
        argv.push(text.to_owned());
        argv
    }

    pub(super) fn argv(&self, line: &CommandLine) -> Vec<String> {
        match line {
            CommandLine::Shell(word) => self.with_shell(&word.text),
            CommandLine::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }

    /// `|2 A=1 B=2 /bin/sh -c make`: the arguments a RUN could see come first.
    pub(super) fn run_message(&self, argv: &[String]) -> String {
        let mut shown: Vec<(&str, &str)> = Vec::new();
        let mut places = BTreeMap::new();
        for (name, value) in &self.args {
            let value = self.env.get(name).or(value.as_deref()).unwrap_or_default();
            let place = *places.entry(name.as_str()).or_insert(shown.len());
            match shown.get_mut(place) {
                Some((_, old)) => *old = value,
                None => shown.push((name, value)),
            }
        }
        let mut parts = Vec::with_capacity(shown.len() + argv.len() + 1);
        if !shown.is_empty() {
            parts.push(format!("|{}", shown.len()));
        }
        parts.extend(shown.iter().map(|(name, value)| format!("{name}={value}")));
        parts.extend_from_slice(argv);
        parts.join(" ")
    }
}

pub(super) fn healthcheck_message(check: &ast::Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        golang::list(&check.test),
        golang::duration(check.interval),
        golang::duration(check.timeout),
        golang::duration(check.start_period),
        golang::duration(check.start_interval),
        check.retries
    )
}

pub(super) fn healthcheck_json(check: &ast::Healthcheck) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    object.insert("Test".into(), serde_json::json!(check.test));
    for (key, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", i64::from(check.retries)),
    ] {
        if value != 0 {
            object.insert(key.into(), value.into());
        }
    }
    object.into()
}
