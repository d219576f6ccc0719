//! One step then and now: every cause why its key is another one.

use super::diff::{self, Piece};
use super::listing::{self, FileChanges, Listings};
use super::redact;
use crate::cache::{Inputs, TreeId, Value};
use crate::history::{Origin, StepRecord};
use serde::Serialize;
use std::collections::BTreeMap;

/// Why a step missed, with the evidence. Several may hold at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Cause {
    /// Records were not looked up: `--no-cache`.
    NoCache,
    /// Nothing to compare with.
    NoRecord {
        /// Why there is nothing.
        reason: NoRecord,
    },
    /// The step failed when it last ran, so nothing was kept.
    FailedBefore {
        /// The build in which it failed.
        build: String,
        /// Its exit status.
        exit: Option<i32>,
    },
    /// The same step was recorded and the record is gone: garbage collection, or another store.
    Evicted {
        /// What is gone.
        what: Evicted,
        /// The build that had it last, where known.
        #[serde(skip_serializing_if = "Option::is_none")]
        build: Option<String>,
    },
    /// The record is there and cannot be read.
    Damaged,
    /// Another version of the program makes keys in another way.
    Format,
    /// The image it starts from is another one, or has other files.
    Base {
        /// The old name; `scratch` for none.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// The new name.
        new: String,
        /// The old digest.
        #[serde(skip_serializing_if = "Option::is_none")]
        old_digest: Option<String>,
        /// The new digest.
        #[serde(skip_serializing_if = "Option::is_none")]
        new_digest: Option<String>,
    },
    /// An earlier step made other files, or (where not certain) may do so.
    EarlierStep {
        /// The number of the step whose files it starts from or reads.
        number: usize,
        /// The name of that step.
        name: String,
        /// The number of the first broken step behind that one; itself, where it is the first.
        first: usize,
        /// Whether the files did change; else that is known once the earlier step has run.
        is_certain: bool,
        /// Whether that step was found in the cache, as another build made it.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_found: bool,
        /// Whether only times differ, which the step set.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_times: bool,
        /// Whether that step's own files are the same, and it follows another step or image.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_moved: bool,
        /// If not certain: the builds whose results could be hit.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        builds: Vec<String>,
        /// If not certain: whether the files are read, not started from.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_read: bool,
    },
    /// It starts from another step or image than before: an instruction was put in, taken out or
    /// moved.
    Predecessor {
        /// The name of what it started from.
        old: String,
        /// The name of what it starts from now.
        new: String,
    },
    /// The instruction's text.
    Instruction {
        /// What differs.
        diff: Vec<Piece>,
    },
    /// The command that the instruction means, by SHELL or its variables.
    Command {
        /// What differs, words joined by blanks.
        diff: Vec<Piece>,
    },
    /// A build argument.
    Arg(Variable),
    /// An environment variable.
    Env(Variable),
    /// The platform.
    Platform {
        /// The old one.
        old: String,
        /// The new one.
        new: String,
    },
    /// Files that the step copies.
    Files {
        /// The source as the instruction names it.
        source: String,
        /// What differs; none where the old listing is gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        changes: Option<FileChanges>,
        /// The step that made them, where it is not a context.
        #[serde(skip_serializing_if = "Option::is_none")]
        made_by: Option<usize>,
    },
    /// Something mounted for the command.
    Mount {
        /// Where, as the instruction names it.
        target: String,
        /// What differs in the options: old.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// What differs in the options: new.
        #[serde(skip_serializing_if = "Option::is_none")]
        new: Option<String>,
        /// What differs in the files.
        #[serde(skip_serializing_if = "Option::is_none")]
        changes: Option<FileChanges>,
    },
    /// Any other input: user, working directory, network …
    Input {
        /// Its name.
        name: String,
        /// The old value; none where it had none.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// The new value.
        #[serde(skip_serializing_if = "Option::is_none")]
        new: Option<String>,
    },
    /// The same inputs in another order.
    Order {
        /// The names whose order changed, in the new order.
        names: Vec<String>,
    },
}

/// A variable that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// The old value; none where it was not set, or is hidden.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The new value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Whether it was set then and is now.
    #[serde(skip)]
    pub was_and_is_set: (bool, bool),
    /// Whether the values are hidden, since the name says that they are secret.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_hidden: bool,
}

/// Why there is nothing to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoRecord {
    /// No build to compare with is in the history.
    FirstBuild,
    /// The earlier builds had no such step.
    NewStep,
    /// No earlier build was for its platform.
    NewPlatform,
    /// The earlier builds ended before this step.
    NeverReached,
    /// No result of this step on these files is in the cache.
    NotKept,
    /// What it copied changed while it was copied, so the result was not kept.
    Unsound,
}

/// What is gone of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evicted {
    /// The record.
    Record,
    /// The layer that it names.
    Layer,
}

/// Returns the earlier inputs with the files of each source under the name that the source has now,
/// if sources have other names than before and each still is one: what they hold is compared then,
/// and the name is a difference of its own.
fn renamed_sources(earlier: &Inputs, now: &Inputs) -> Option<Inputs> {
    let names = |inputs: &Inputs| -> Vec<String> {
        let files = inputs.iter().filter(|input| {
            input.name.starts_with("files ") && !input.name.starts_with("files of mount ")
        });
        files.map(|input| input.name.clone()).collect()
    };
    let (old, new) = (names(earlier), names(now));
    if old == new || old.len() != new.len() {
        return None;
    }
    let mut new = new.into_iter();
    let mut renamed = Inputs::new();
    for input in earlier {
        let name = if old.contains(&input.name) { new.next()? } else { input.name.clone() };
        match &input.value {
            Value::Text(text) => renamed.text(name, text),
            Value::List(words) => renamed.list(name, words.clone()),
            Value::Tree(tree) => renamed.tree(name, *tree),
        }
    }
    Some(renamed)
}

/// Returns how the inputs of a step differ from its earlier ones, in the order of the inputs, the
/// instruction first. Empty where they are equal.
pub fn inputs(now: &StepRecord, earlier: &StepRecord, listings: &dyn Listings) -> Vec<Cause> {
    if now.inputs == earlier.inputs {
        return if now.key == earlier.key { Vec::new() } else { vec![Cause::Format] };
    }
    let is_edited = now.instruction != earlier.instruction;
    let renamed = renamed_sources(&earlier.inputs, &now.inputs);
    let old_inputs = renamed.as_ref().unwrap_or(&earlier.inputs);
    let (old, new) = (Named::new(old_inputs), Named::new(&now.inputs));
    let mut causes = Vec::new();
    let mut is_waiting = false;
    for (name, old, new) in old.pairs(&new) {
        let cause = one(name, old, new, listings);
        // The text of the instruction says the same in the user's own words.
        if is_edited && is_in_text(&cause, old, new) {
            is_waiting = true;
        } else {
            causes.push(cause);
        }
    }
    if is_waiting {
        let diff = text_diff(&earlier.instruction, &now.instruction);
        causes.insert(0, Cause::Instruction { diff });
    }
    if causes.is_empty() {
        causes.push(Cause::Order { names: old.moved(&new) });
    }
    causes
}

/// As [`inputs`], of a step whose files are not known: they are left out of both sides.
pub(super) fn outlines(
    now: &StepRecord,
    earlier: &StepRecord,
    listings: &dyn Listings,
) -> Vec<Cause> {
    let mut outline = Inputs::new();
    for input in &earlier.inputs {
        match &input.value {
            Value::Text(text) => outline.text(&input.name, text),
            Value::List(words) => outline.list(&input.name, words.clone()),
            Value::Tree(_) => {}
        }
    }
    let key = Some(outline.key());
    let earlier = StepRecord { inputs: outline, key, ..earlier.clone() };
    let now = StepRecord { key, ..now.clone() };
    inputs(&now, &earlier, listings)
}

/// Says whether an input is spelled out in the instruction's own text.
fn is_in_text(cause: &Cause, old: Option<&Value>, new: Option<&Value>) -> bool {
    match cause {
        Cause::Command { .. } => match (old, new) {
            // `["/bin/sh", "-c", text]`: the same but for the text.
            (Some(Value::List(old)), Some(Value::List(new))) => {
                let shell = |argv: &[String]| argv.len() == 3 && argv[1].starts_with('-');
                !shell(old) || !shell(new) || old[..2] == new[..2]
            }
            _ => true,
        },
        Cause::Files { .. } | Cause::Mount { .. } => old.is_none() || new.is_none(),
        Cause::Input { name, .. } => !matches!(name.as_str(), "user" | "workdir" | "cwd" | "shell"),
        _ => false,
    }
}

fn one(name: &str, old: Option<&Value>, new: Option<&Value>, listings: &dyn Listings) -> Cause {
    let (kind, rest) = name.split_once(' ').unwrap_or((name, ""));
    match kind {
        "argv" => Cause::Command { diff: text_diff(&joined(old), &joined(new)) },
        "arg" => Cause::Arg(variable(rest, old, new)),
        "env" => Cause::Env(variable(rest, old, new)),
        "platform" => {
            Cause::Platform { old: joined(old).into_owned(), new: joined(new).into_owned() }
        }
        "files" if rest.starts_with("of mount ") => Cause::Mount {
            target: rest["of mount ".len()..].to_owned(),
            old: None,
            new: None,
            changes: changes(old, new, listings),
        },
        "files" => Cause::Files {
            source: redact::addresses(rest).into_owned(),
            changes: changes(old, new, listings),
            made_by: None,
        },
        "mount" => Cause::Mount {
            target: rest.to_owned(),
            old: old.map(|_| shown(old)),
            new: new.map(|_| shown(new)),
            changes: None,
        },
        _ => Cause::Input {
            name: name.to_owned(),
            old: old.map(|_| shown(old)),
            new: new.map(|_| shown(new)),
        },
    }
}

fn variable(name: &str, old: Option<&Value>, new: Option<&Value>) -> Variable {
    let is_hidden = redact::is_secret(name);
    let value = |v: Option<&Value>| v.filter(|_| !is_hidden).map(|_| shown(v));
    let was_and_is_set = (old.is_some(), new.is_some());
    Variable { name: name.to_owned(), old: value(old), new: value(new), was_and_is_set, is_hidden }
}

fn changes(
    old: Option<&Value>,
    new: Option<&Value>,
    listings: &dyn Listings,
) -> Option<FileChanges> {
    let entries = |value: Option<&Value>| match value {
        Some(Value::Tree(tree)) => listings.listing(tree),
        None => Some(Vec::new()),
        Some(_) => None,
    };
    Some(listing::compare(&entries(old)?, &entries(new)?))
}

fn text_diff(old: &str, new: &str) -> Vec<Piece> {
    diff::words(&redact::addresses(old), &redact::addresses(new))
}

fn shown(value: Option<&Value>) -> String {
    redact::addresses(&joined(value)).into_owned()
}

fn joined(value: Option<&Value>) -> std::borrow::Cow<'_, str> {
    match value {
        None => "".into(),
        Some(Value::Text(text)) => text.into(),
        Some(Value::List(words)) => words.join(" ").into(),
        Some(Value::Tree(TreeId(hash))) => crate::store::Key::from_bytes(*hash).to_hex().into(),
    }
}

/// Inputs by name; of several with one name, the first belongs to the first.
struct Named<'a> {
    values: BTreeMap<(&'a str, usize), &'a Value>,
    order: Vec<(&'a str, usize)>,
}

impl<'a> Named<'a> {
    fn new(inputs: &'a Inputs) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut named = Self { values: BTreeMap::new(), order: Vec::new() };
        for input in inputs {
            let count = counts.entry(&input.name).or_default();
            named.values.insert((&input.name, *count), &input.value);
            named.order.push((&input.name, *count));
            *count += 1;
        }
        named
    }

    /// Returns what differs: in the new order, then what is only in the old list.
    fn pairs(&self, new: &Self) -> Vec<(&'a str, Option<&'a Value>, Option<&'a Value>)> {
        let mut pairs = Vec::new();
        for name in &new.order {
            let (old, new) = (self.values.get(name).copied(), new.values.get(name).copied());
            if old != new {
                pairs.push((name.0, old, new));
            }
        }
        for name in &self.order {
            if !new.values.contains_key(name) {
                pairs.push((name.0, self.values.get(name).copied(), None));
            }
        }
        pairs
    }

    /// Returns the names that stand where another one stood.
    fn moved(&self, new: &Self) -> Vec<String> {
        let places = new.order.iter().zip(&self.order);
        places.filter(|(new, old)| new != old).map(|(new, _)| new.0.to_owned()).collect()
    }
}

/// Returns the cause that lies in the image a step starts from, where it starts from one.
pub(super) fn base(now: &StepRecord, earlier: Option<&StepRecord>) -> Option<Cause> {
    let parts = |origin: &Origin| match origin {
        Origin::Scratch => Some(("scratch".to_owned(), None)),
        Origin::Image { name, digest } => {
            let (name, pinned) =
                name.split_once('@').map_or((&**name, None), |(n, d)| (n, Some(d)));
            let digest = digest.map(|d| d.to_string()).or_else(|| pinned.map(str::to_owned));
            Some((name.to_owned(), digest))
        }
        Origin::Step { .. } | Origin::Context { .. } => None,
    };
    let (new, new_digest) = parts(&now.from)?;
    let (old, old_digest) = match earlier.and_then(|earlier| parts(&earlier.from)) {
        Some((old, digest)) => (Some(old), digest),
        None => (None, None),
    };
    Some(Cause::Base { old, new, old_digest, new_digest })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{entry, step};
    use super::*;
    use crate::cache::TreeEntry;

    struct Kept(BTreeMap<TreeId, Vec<TreeEntry>>);

    impl Listings for Kept {
        fn listing(&self, tree: &TreeId) -> Option<Vec<TreeEntry>> {
            self.0.get(tree).cloned()
        }
    }

    type Pair<'a> = (&'a str, &'a [&'a str]);

    /// A list of one word is a text; a word `tree:N` a tree.
    fn with(instruction: &str, entries: &[Pair<'_>]) -> StepRecord {
        let mut step = step(0, "build", instruction);
        step.inputs = Inputs::new();
        for (name, words) in entries {
            match words {
                [word] => match word.strip_prefix("tree:") {
                    Some(n) => step.inputs.tree(*name, TreeId([n.parse().unwrap(); 32])),
                    None => step.inputs.text(*name, *word),
                },
                _ => step.inputs.list(*name, words.iter().map(|w| (*w).to_owned()).collect()),
            }
        }
        step.key = Some(step.inputs.key());
        step
    }

    #[track_caller]
    fn check(old: (&str, &[Pair<'_>]), new: (&str, &[Pair<'_>]), expected: &[&str]) {
        let kept = Kept(BTreeMap::from([
            (TreeId([1; 32]), vec![entry("a.c", 0o644, "x")]),
            (TreeId([2; 32]), vec![entry("a.c", 0o755, "x")]),
        ]));
        let causes = inputs(&with(new.0, new.1), &with(old.0, old.1), &kept);
        let shown: Vec<String> = causes
            .iter()
            .map(|cause| {
                let json = serde_json::to_string(cause).unwrap();
                json.replace("\"kind\":", "").replace('"', "")
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn every_input_has_its_cause() {
        let run = |argv: &'static [&'static str]| [("argv", argv)];
        let sh = |text: &'static str| -> [&'static str; 3] { ["/bin/sh", "-c", text] };
        let (make, test) = (sh("make"), sh("make test"));
        check(("RUN make", &[("argv", &make)]), ("RUN make", &[("argv", &make)]), &[]);
        check(
            ("RUN make", &[("argv", &make)]),
            ("RUN make test", &[("argv", &test)]),
            &["{instruction,diff:[{op:same,text:RUN make},{op:added,text: test}]}"],
        );
        check(
            ("RUN x", &[("files of mount /m", &["tree:1"])]),
            ("RUN x", &[("files of mount /m", &["tree:2"])]),
            &["{mount,target:/m,changes:{added:0,removed:0,changed:1,files:[{path:a.c,\
               change:changed,attributes:[{attribute:mode,old:0644,new:0755}]}],is_umask:false}}"],
        );
        // SHELL, or a variable in the exec form: the text is the same and the command is not.
        check(
            ("RUN make", &run(&["/bin/sh", "-c", "make"])),
            ("RUN make", &run(&["/bin/bash", "-c", "make"])),
            &["{command,diff:[{op:removed,text:/bin/sh},{op:added,text:/bin/bash},\
               {op:same,text: -c make}]}"],
        );
        check(
            ("RUN x", &[("env A", &["1"]), ("arg V", &["1"])]),
            ("RUN x", &[("env A", &["2"]), ("arg W", &["1"])]),
            &["{env,name:A,old:1,new:2}", "{arg,name:W,new:1}", "{arg,name:V,old:1}"],
        );
        check(
            ("RUN x", &[("platform", &["linux/amd64"]), ("user", &["root"])]),
            ("RUN x", &[("platform", &["linux/arm64"]), ("user", &["app"])]),
            &["{platform,old:linux/amd64,new:linux/arm64}", "{input,name:user,old:root,new:app}"],
        );
        check(
            ("COPY . /", &[("files .", &["tree:1"])]),
            ("COPY . /", &[("files .", &["tree:2"])]),
            &["{files,source:.,changes:{added:0,removed:0,changed:1,files:[{path:a.c,\
               change:changed,attributes:[{attribute:mode,old:0644,new:0755}]}],is_umask:false}}"],
        );
        check(
            ("COPY . /", &[("files .", &["tree:9"])]),
            ("COPY . /", &[("files .", &["tree:2"])]),
            &["{files,source:.}"],
        );
        check(
            ("RUN x", &[("mount /c", &["cache,id=a"])]),
            ("RUN x", &[("mount /c", &["cache,id=b"])]),
            &["{mount,target:/c,old:cache,id=a,new:cache,id=b}"],
        );
        check(
            ("RUN x", &[("env A", &["1"]), ("env B", &["1"]), ("env C", &["1"])]),
            ("RUN x", &[("env B", &["1"]), ("env A", &["1"]), ("env C", &["1"])]),
            &["{order,names:[env B,env A]}"],
        );
    }

    #[test]
    fn an_edited_instruction_is_reported_once() {
        check(
            ("COPY a /x", &[("dest", &["/x"]), ("files a", &["tree:1"])]),
            ("COPY b /x/", &[("dest", &["/x/"]), ("files b", &["tree:1"])]),
            &["{instruction,diff:[{op:same,text:COPY },{op:removed,text:a},{op:added,text:b},\
               {op:same,text: },{op:removed,text:/x},{op:added,text:/x/}]}"],
        );
    }

    #[test]
    fn what_else_differs_beside_the_text_is_reported_too() {
        check(
            ("RUN a", &[("argv", &["/bin/sh", "-c", "a"]), ("env V", &["1"])]),
            ("RUN b", &[("argv", &["/bin/sh", "-c", "b"]), ("env V", &["2"])]),
            &[
                "{instruction,diff:[{op:same,text:RUN },{op:removed,text:a},{op:added,text:b}]}",
                "{env,name:V,old:1,new:2}",
            ],
        );
        // Blanks that mean nothing are not cause.
        check(
            ("RUN  a", &[("argv", &["/bin/sh", "-c", "a"]), ("env V", &["1"])]),
            ("RUN a", &[("argv", &["/bin/sh", "-c", "a"]), ("env V", &["2"])]),
            &["{env,name:V,old:1,new:2}"],
        );
    }

    #[test]
    fn secrets_stay_hidden() {
        check(
            ("RUN x", &[("arg NPM_TOKEN", &["abc"]), ("url", &["https://u:p@h/"])]),
            ("RUN x", &[("arg NPM_TOKEN", &["def"]), ("url", &["https://u:q@h/x"])]),
            &[
                "{arg,name:NPM_TOKEN,is_hidden:true}",
                "{input,name:url,old:https://***@h/,new:https://***@h/x}",
            ],
        );
    }

    #[test]
    fn other_keys_from_the_same_inputs_are_another_format() {
        let (old, mut new) = (with("RUN x", &[]), with("RUN x", &[]));
        new.key = Some(crate::store::Key::from_bytes([7; 32]));
        assert_eq!(inputs(&new, &old, &Kept(BTreeMap::new())), [Cause::Format]);
    }
}
