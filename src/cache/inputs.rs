//! The inputs of a step: named values, hashed into a key and spelled out in records.

use crate::store::Key;
use serde::{Deserialize, Serialize};

/// Changes with every change to what keys are made of; old records are misses then.
const KEY_FORMAT: &str = "builder key 2";

/// The hash of a listing of files: `trees/<kk>/<hash>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeId(pub [u8; 32]);

impl Serialize for TreeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Key::from_bytes(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TreeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Key::deserialize(deserializer).map(|key| Self(*key.as_bytes()))
    }
}

/// One value that a step depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// The value itself, to be shown as it is.
    Text(String),
    /// A list of words, such as an argv.
    List(Vec<String>),
    /// The listing of the files that are read.
    Tree(TreeId),
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is: `argv`, `env PATH`, `arg VERSION`, `files src`, `mount /root/.cache` …
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub value: Value,
}

/// All that a step depends on, but for the files it starts from. Ordered: the order counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Inputs(Vec<Input>);

impl Inputs {
    /// Starts an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text.
    pub fn text(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push(Input { name: name.into(), value: Value::Text(value.into()) });
    }

    /// Adds a list of words.
    pub fn list(&mut self, name: impl Into<String>, words: Vec<String>) {
        self.0.push(Input { name: name.into(), value: Value::List(words) });
    }

    /// Adds a listing of files.
    pub fn tree(&mut self, name: impl Into<String>, tree: TreeId) {
        self.0.push(Input { name: name.into(), value: Value::Tree(tree) });
    }

    /// Returns the inputs in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Input> {
        self.0.iter()
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the list without the listings of files whose names `is_left_out` says yes to.
    #[must_use]
    pub fn without_trees(&self, is_left_out: impl Fn(&str) -> bool) -> Self {
        let stays =
            |input: &&Input| !matches!(input.value, Value::Tree(_)) || !is_left_out(&input.name);
        Self(self.0.iter().filter(stays).cloned().collect())
    }

    /// Calls `change` with the name and each text of every value; listings stay.
    pub fn change_texts(&mut self, mut change: impl FnMut(&str, &mut String)) {
        for Input { name, value } in &mut self.0 {
            match value {
                Value::Text(text) => change(name, text),
                Value::List(words) => words.iter_mut().for_each(|word| change(name, word)),
                Value::Tree(_) => {}
            }
        }
    }

    /// Finds the first input of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|input| input.name == name).map(|input| &input.value)
    }

    /// Hashes the list. Every part is preceded by its length, so no two lists run together.
    pub fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        part(KEY_FORMAT.as_bytes());
        for input in &self.0 {
            part(input.name.as_bytes());
            match &input.value {
                Value::Text(text) => {
                    part(b"text");
                    part(text.as_bytes());
                }
                Value::List(words) => {
                    part(b"list");
                    part(&(words.len() as u64).to_le_bytes());
                    for word in words {
                        part(word.as_bytes());
                    }
                }
                Value::Tree(tree) => {
                    part(b"tree");
                    part(&tree.0);
                }
            }
        }
        Key::from_bytes(*hasher.finalize().as_bytes())
    }
}

impl<'a> IntoIterator for &'a Inputs {
    type Item = &'a Input;
    type IntoIter = std::slice::Iter<'a, Input>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One entry of a listing, as `explain` compares and shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Path in its source; bytes that are no UTF-8 are shown as `\xNN`.
    #[serde(rename = "p")]
    pub path: String,
    /// `file`, `dir`, `symlink`, `fifo`, `char`, `block`.
    #[serde(rename = "t")]
    pub kind: String,
    /// Permission bits with setuid, setgid and sticky.
    #[serde(rename = "m")]
    pub mode: u32,
    /// Owner and group, where the step keeps them.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// Size in bytes, of files.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Content hash of a file, or target of a link, or number of a device.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_parts_do_not_run_together() {
        let of = |parts: &[(&str, &str)]| {
            let mut inputs = Inputs::new();
            for (name, value) in parts {
                inputs.text(*name, *value);
            }
            inputs.key()
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("c", "d"), ("a", "b")]));
        assert_eq!(of(&[("a", "b")]), of(&[("a", "b")]));
    }

    #[test]
    fn a_list_is_not_its_words_joined() {
        let of = |words: &[&str]| {
            let mut inputs = Inputs::new();
            inputs.list("argv", words.iter().map(|w| (*w).to_owned()).collect());
            inputs.key()
        };
        assert_ne!(of(&["a b"]), of(&["a", "b"]));
        assert_ne!(of(&[]), of(&[""]));
    }

    #[test]
    fn inputs_survive_a_record() {
        let mut inputs = Inputs::new();
        inputs.text("env A", "1");
        inputs.list("argv", vec!["/bin/sh".into(), "-c".into()]);
        inputs.tree("files .", TreeId([9; 32]));
        let json = serde_json::to_string(&inputs).unwrap();
        assert_eq!(serde_json::from_str::<Inputs>(&json).unwrap(), inputs);
    }
}
