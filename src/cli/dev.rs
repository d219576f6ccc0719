//! `builder dev`: the parsers' answers, one JSON record a line, for corpora.
//!
//! The records have the form of the files under `conformance/parser`. Hidden:
//! its output is for tests and may change.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::dockerfile::ast::{Escape, Stage, Word};
use crate::dockerfile::expand;
use crate::dockerfile::ignore::Matcher;
use crate::dockerfile::parse::{self, Statement};

/// What can go wrong outside of an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// No such corpus.
    #[error("unknown kind `{kind}`: expected ast, words or ignore")]
    UnknownKind {
        /// What was asked for.
        kind: String,
    },
    /// Input or output failed.
    #[error("cannot {action}")]
    Stream {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file to parse cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Cause of the failure.
        source: std::io::Error,
    },
    /// A line is not a record.
    #[error("line {line} of the input is not a JSON record")]
    NotARecord {
        /// One-based.
        line: usize,
        /// Cause of the failure.
        source: serde_json::Error,
    },
}

/// Answers each line of `input` with a line on `output`.
///
/// `kind` is `ast` (lines are paths of Dockerfiles), `words` or `ignore` (lines
/// are JSON records with the input fields).
///
/// # Errors
///
/// [`DevError`]; what a parser refuses is part of its answer.
pub fn run(kind: &str, input: impl BufRead, mut output: impl Write) -> Result<(), DevError> {
    for (index, line) in input.lines().enumerate() {
        let line = line.map_err(|source| DevError::Stream { action: "read the input", source })?;
        if line.trim().is_empty() {
            continue;
        }
        let record = || -> Result<Value, DevError> {
            serde_json::from_str(&line)
                .map_err(|source| DevError::NotARecord { line: index + 1, source })
        };
        let answer = match kind {
            "ast" => ast(Path::new(&line))
                .map_err(|source| DevError::File { path: PathBuf::from(&line), source })?,
            "ignore" => ignore(&record()?),
            "words" => words(&record()?),
            _ => return Err(DevError::UnknownKind { kind: kind.to_owned() }),
        };
        writeln!(output, "{answer}")
            .map_err(|source| DevError::Stream { action: "write the answer", source })?;
    }
    Ok(())
}

/// A Dockerfile to `{parse_ok, instructions_ok, escape, nodes, stages}`.
fn ast(path: &Path) -> std::io::Result<Value> {
    let syntax = parse::syntax(&std::fs::read(path)?);
    if let Some(error) = syntax.errors.first() {
        let error = json!({ "error": error.message, "error_line": error.line });
        return Ok(merged(json!({ "parse_ok": false, "instructions_ok": false }), error));
    }
    let escape = syntax.escape.as_char().to_string();
    let nodes: Vec<Value> = syntax.statements.iter().map(node).collect();
    let (file, errors) = parse::assemble(syntax);
    let answer = json!({ "parse_ok": true, "escape": escape, "nodes": nodes });
    let rest = match errors.first() {
        Some(error) => json!({
            "instructions_ok": false, "error": error.message, "error_line": error.line,
        }),
        None => json!({
            "instructions_ok": true,
            "stages": file.stages.iter().map(stage).collect::<Vec<_>>(),
        }),
    };
    Ok(merged(answer, rest))
}

fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

fn node(statement: &Statement) -> Value {
    let mut args: Vec<String> = statement.flat().into_iter().map(str::to_owned).collect();
    if let parse::Arguments::Trigger(_) = statement.arguments {
        // The corpus has a trigger as one text.
        args = vec![args.join(" ")];
    }
    let heredocs = statement.heredocs.iter().map(|heredoc| {
        json!({
            "name": heredoc.name,
            "content": String::from_utf8_lossy(&heredoc.body),
            "expand": heredoc.expand,
            "chomp": heredoc.strip_tabs,
            "fd": heredoc.fd,
        })
    });
    json!({
        "cmd": statement.keyword.text.to_lowercase(),
        "args": args,
        "flags": statement.flags.iter().map(|flag| flag.text.as_str()).collect::<Vec<_>>(),
        "json": statement.arguments.is_json(),
        "original": statement.original,
        "start": statement.lines.first,
        "end": statement.lines.last,
        "heredocs": heredocs.collect::<Vec<_>>(),
    })
}

fn stage(stage: &Stage) -> Value {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for instruction in &stage.instructions {
        *counts.entry(instruction.command.name().to_lowercase()).or_default() += 1;
    }
    let text =
        |word: &Option<Word>| word.as_ref().map(|word| word.text.clone()).unwrap_or_default();
    json!({
        "name": text(&stage.name),
        "base": stage.base.text,
        "platform": text(&stage.platform),
        "commands": stage.instructions.len(),
        "counts": counts,
    })
}

/// `{id, file, paths}` to `{id, parsed, match}`, or `{…, error}`.
fn ignore(record: &Value) -> Value {
    let text = record["file"].as_str().unwrap_or_default();
    let mut answer = json!({ "id": record["id"] });
    let matcher = match Matcher::parse(text.as_bytes()) {
        Ok(matcher) => matcher,
        Err(error) => {
            answer["error"] = error.to_string().into();
            return answer;
        }
    };
    answer["parsed"] = matcher.patterns().collect();
    let mut matches = Vec::new();
    for path in record["paths"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        match matcher.matches_or_parent(path.as_bytes()) {
            Ok(true) => matches.push(path),
            Ok(false) => {}
            Err(error) => {
                answer["error"] = error.to_string().into();
                return answer;
            }
        }
    }
    answer["match"] = matches.into();
    answer
}

/// `{id, word, env, escape}` to `{id, result, words}` with `error` and
/// `words_error` where there is none.
fn words(record: &Value) -> Value {
    let word = record["word"].as_str().unwrap_or_default();
    let escape = if record["escape"] == "`" { Escape::Backtick } else { Escape::Backslash };
    let env: BTreeMap<&str, &str> = record["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    let lookup = |name: &str| env.get(name).map(|value| (*value).to_owned());
    let mut answer = json!({ "id": record["id"] });
    match expand::process_word(word, &lookup, escape) {
        Ok(expanded) => {
            answer["result"] = expanded.text.into();
            if !expanded.unmatched.is_empty() {
                answer["unmatched"] = expanded.unmatched.into_iter().collect();
            }
        }
        Err(error) => answer["error"] = error.to_string().into(),
    }
    match expand::process_words(word, &lookup, escape) {
        Ok(words) => answer["words"] = words.into(),
        Err(error) => answer["words_error"] = error.to_string().into(),
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The corpora, which lie beside the project where it is developed.
    fn corpora() -> Option<PathBuf> {
        let found = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|directory| directory.join("shared/conformance/parser"))
            .find(|directory| directory.is_dir());
        if found.is_none() {
            cannot_run_here!(optional: "no shared/conformance/parser beside the project");
        }
        found
    }

    fn records(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn answers(kind: &str, lines: &[String]) -> Vec<Value> {
        let mut output = Vec::new();
        run(kind, lines.join("\n").as_bytes(), &mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn compare(want: &[Value], got: &[Value], view: impl Fn(&Value) -> Value) {
        assert_eq!(want.len(), got.len());
        let mut failed = 0;
        for (want, got) in want.iter().zip(got) {
            if view(want) != view(got) {
                failed += 1;
                println!("want {want}\n got {got}");
            }
        }
        assert_eq!(failed, 0, "of {}", want.len());
    }

    fn sorted(list: &Value) -> Vec<String> {
        let mut list: Vec<String> =
            list.as_array().into_iter().flatten().map(ToString::to_string).collect();
        list.sort();
        list
    }

    #[test]
    fn ignore_corpus_is_answered_as_recorded() {
        let Some(corpora) = corpora() else { return };
        let mut want = records(&corpora.join("ignore.jsonl"));
        let paths = want.remove(0)["paths"].clone();
        let lines: Vec<String> = want
            .iter()
            .map(|r| json!({ "id": r["id"], "file": r["file"], "paths": paths }).to_string())
            .collect();
        compare(&want, &answers("ignore", &lines), |record| {
            json!([record.get("error").is_some(), sorted(&record["match"])])
        });
    }

    #[test]
    fn words_corpus_is_answered_as_recorded() {
        let Some(corpora) = corpora() else { return };
        let want = records(&corpora.join("words.jsonl"));
        let lines: Vec<String> = want.iter().map(ToString::to_string).collect();
        compare(&want, &answers("words", &lines), |record| {
            let words = record["words"].as_array().cloned().unwrap_or_default();
            let unmatched = sorted(&record["unmatched"]);
            let errors = [record.get("error").is_some(), record.get("words_error").is_some()];
            json!([errors, record["result"], words, unmatched])
        });
    }
}
