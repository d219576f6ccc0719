//! An image's config: the base's JSON, edited in place so that no field is lost.
//!
//! Source: OCI image specification 1.1, "config.md"; Docker's image specification 1.3 for
//! `Healthcheck`, `OnBuild`, `Shell` and `ArgsEscaped`.

use super::json::object;
use super::{Digest, DigestParseError, DocumentError, Platform, canonical_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The comment BuildKit and we put into history entries.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// An image config. Getters take a malformed field for an absent one.
#[derive(Debug, Clone)]
pub struct Config {
    value: Value,
    /// Where the variables are in `Env`, once one was set: the first entry of each name. A
    /// Dockerfile may set hundreds of thousands.
    env_places: Option<BTreeMap<String, usize>>,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Config {}

/// One entry of a config's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// With which tool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether the instruction made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl Config {
    fn of(value: Value) -> Self {
        Self { value, env_places: None }
    }

    /// Makes the config of an image without layers.
    pub fn empty(platform: &Platform) -> Self {
        let mut value = platform.to_json();
        let fields = object(&mut value);
        fields.insert("config".to_owned(), json!({}));
        fields.insert("history".to_owned(), json!([]));
        fields.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": []}));
        Self::of(value)
    }

    /// Parses a config whose digest was verified as `digest`.
    ///
    /// # Errors
    ///
    /// [`DocumentError::Malformed`] for what is not a JSON object.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Self, DocumentError> {
        let bad = |what: String| DocumentError::Malformed { digest: *digest, what };
        let value: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if !value.is_object() {
            return Err(bad("a config is a JSON object".to_owned()));
        }
        Ok(Self::of(value))
    }

    /// Takes an object for a config.
    pub fn from_json(value: Value) -> Self {
        let mut value = value;
        object(&mut value);
        Self::of(value)
    }

    /// Returns the whole document.
    pub fn as_json(&self) -> &Value {
        &self.value
    }

    /// Returns the bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical_json(&self.value)
    }

    /// Returns what the image runs on; the host's where the config is silent.
    pub fn platform(&self) -> Platform {
        Platform::of_json(&self.value).unwrap_or_else(Platform::host)
    }

    /// Returns what a descriptor's `platform` says of the image: [`platform`](Self::platform), with
    /// the version and features of an operating system whose images have them.
    pub fn platform_json(&self) -> Value {
        let mut platform = self.platform().to_json();
        for name in ["os.version", "os.features"] {
            if let Some(value) = self.value.get(name).filter(|value| !value.is_null()) {
                platform[name] = value.clone();
            }
        }
        platform
    }

    /// Sets what the image runs on.
    pub fn set_platform(&mut self, platform: &Platform) {
        let fields = object(&mut self.value);
        fields.remove("variant");
        if let Value::Object(new) = platform.to_json() {
            fields.extend(new);
        }
    }

    /// Returns a field of the inner `config`, which is what a container is started with.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get("config")?.get(key).filter(|value| !value.is_null())
    }

    /// Sets a field of the inner `config`.
    pub fn set(&mut self, key: &str, value: Value) {
        self.inner().insert(key.to_owned(), value);
    }

    /// Removes a field of the inner `config`.
    pub fn remove(&mut self, key: &str) {
        self.inner().remove(key);
    }

    fn inner(&mut self) -> &mut Map<String, Value> {
        self.env_places = None;
        self.inner_but_env()
    }

    /// The inner `config`, for changes that leave `Env` as it is.
    fn inner_but_env(&mut self) -> &mut Map<String, Value> {
        object(object(&mut self.value).entry("config").or_insert_with(|| json!({})))
    }

    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn set_text(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.remove(key);
        } else {
            self.set(key, json!(text));
        }
    }

    fn list(&self, key: &str) -> Option<Vec<String>> {
        let items = self.get(key)?.as_array()?;
        Some(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect())
    }

    fn set_list(&mut self, key: &str, items: Option<&[String]>) {
        match items {
            Some(items) => self.set(key, json!(items)),
            None => self.remove(key),
        }
    }

    fn keys(&self, key: &str) -> Vec<String> {
        self.get(key)
            .and_then(Value::as_object)
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    }

    fn add_key(&mut self, key: &str, item: &str) {
        let map = object(self.inner_but_env().entry(key).or_insert_with(|| json!({})));
        map.entry(item).or_insert_with(|| json!({}));
    }

    /// Returns the environment in its order; an entry without `=` has an empty value.
    pub fn env(&self) -> Vec<(String, String)> {
        let entries = self.list("Env").unwrap_or_default();
        entries
            .into_iter()
            .map(|entry| match entry.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (entry, String::new()),
            })
            .collect()
    }

    /// Returns a variable's value.
    pub fn env_var(&self, name: &str) -> Option<String> {
        // The last one wins, as execve's readers see it through libc's first-match is not portable.
        let entries = self.get("Env")?.as_array()?;
        entries.iter().rev().filter_map(Value::as_str).find_map(|entry| {
            let (known, value) = entry.split_once('=').unwrap_or((entry, ""));
            (known == name).then(|| value.to_owned())
        })
    }

    /// Sets a variable, in its old place where it has one.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = json!(format!("{name}={value}"));
        let known = self.env_places.take();
        let list = self.inner_but_env().entry("Env").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let items = list.as_array_mut().expect("made an array above");
        let mut places = known.unwrap_or_else(|| {
            let mut places = BTreeMap::new();
            for (place, item) in items.iter().enumerate() {
                let Some(text) = item.as_str() else { continue };
                let name = text.split_once('=').map_or(text, |(name, _)| name);
                places.entry(name.to_owned()).or_insert(place);
            }
            places
        });
        match places.get(name) {
            Some(&place) => items[place] = entry,
            None => {
                places.insert(name.to_owned(), items.len());
                items.push(entry);
            }
        }
        self.env_places = Some(places);
    }

    /// Returns CMD.
    pub fn cmd(&self) -> Option<Vec<String>> {
        self.list("Cmd")
    }

    /// Sets or clears CMD.
    pub fn set_cmd(&mut self, argv: Option<&[String]>) {
        self.set_list("Cmd", argv);
    }

    /// Returns ENTRYPOINT.
    pub fn entrypoint(&self) -> Option<Vec<String>> {
        self.list("Entrypoint")
    }

    /// Sets or clears ENTRYPOINT.
    pub fn set_entrypoint(&mut self, argv: Option<&[String]>) {
        self.set_list("Entrypoint", argv);
    }

    /// Returns SHELL, where one was set.
    pub fn shell(&self) -> Option<Vec<String>> {
        self.list("Shell")
    }

    /// Sets SHELL.
    pub fn set_shell(&mut self, argv: &[String]) {
        self.set_list("Shell", Some(argv));
    }

    /// Returns WORKDIR; empty where none was set.
    pub fn working_dir(&self) -> &str {
        self.text("WorkingDir")
    }

    /// Sets WORKDIR.
    pub fn set_working_dir(&mut self, dir: &str) {
        self.set_text("WorkingDir", dir);
    }

    /// Returns USER; empty where none was set.
    pub fn user(&self) -> &str {
        self.text("User")
    }

    /// Sets USER.
    pub fn set_user(&mut self, user: &str) {
        self.set_text("User", user);
    }

    /// Returns STOPSIGNAL; empty where none was set.
    pub fn stop_signal(&self) -> &str {
        self.text("StopSignal")
    }

    /// Sets STOPSIGNAL.
    pub fn set_stop_signal(&mut self, signal: &str) {
        self.set_text("StopSignal", signal);
    }

    /// Returns the labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let map = self.get("Labels").and_then(Value::as_object);
        map.into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect()
    }

    /// Sets a label.
    pub fn set_label(&mut self, name: &str, value: &str) {
        let map = object(self.inner_but_env().entry("Labels").or_insert_with(|| json!({})));
        map.insert(name.to_owned(), json!(value));
    }

    /// Returns the exposed ports, as `80/tcp`, sorted.
    pub fn exposed_ports(&self) -> Vec<String> {
        self.keys("ExposedPorts")
    }

    /// Exposes a port, as `80/tcp`.
    pub fn add_exposed_port(&mut self, port: &str) {
        self.add_key("ExposedPorts", port);
    }

    /// Returns the volumes, sorted.
    pub fn volumes(&self) -> Vec<String> {
        self.keys("Volumes")
    }

    /// Declares a volume.
    pub fn add_volume(&mut self, path: &str) {
        self.add_key("Volumes", path);
    }

    /// Returns the health check as it is stored: `{"Test": […], "Interval": ns, …}`.
    pub fn healthcheck(&self) -> Option<&Value> {
        self.get("Healthcheck")
    }

    /// Sets or clears the health check.
    pub fn set_healthcheck(&mut self, check: Option<Value>) {
        match check {
            Some(check) => self.set("Healthcheck", check),
            None => self.remove("Healthcheck"),
        }
    }

    /// Returns the ONBUILD triggers.
    pub fn on_build(&self) -> Vec<String> {
        self.list("OnBuild").unwrap_or_default()
    }

    /// Sets the ONBUILD triggers; none removes the field.
    pub fn set_on_build(&mut self, triggers: &[String]) {
        self.set_list("OnBuild", (!triggers.is_empty()).then_some(triggers));
    }

    /// Adds an ONBUILD trigger.
    pub fn add_on_build(&mut self, trigger: &str) {
        let list = self.inner_but_env().entry("OnBuild").or_insert_with(|| json!([]));
        match list.as_array_mut() {
            Some(items) => items.push(json!(trigger)),
            None => *list = json!([trigger]),
        }
    }

    /// Returns MAINTAINER; empty where none was set.
    pub fn author(&self) -> &str {
        self.value.get("author").and_then(Value::as_str).unwrap_or("")
    }

    /// Sets MAINTAINER.
    pub fn set_author(&mut self, author: &str) {
        object(&mut self.value).insert("author".to_owned(), json!(author));
    }

    /// Returns when the image was made, in RFC 3339.
    pub fn created(&self) -> Option<&str> {
        self.value.get("created").and_then(Value::as_str)
    }

    /// Sets when the image was made, in RFC 3339.
    pub fn set_created(&mut self, created: &str) {
        object(&mut self.value).insert("created".to_owned(), json!(created));
    }

    /// Returns the history, oldest first.
    pub fn history(&self) -> Vec<History> {
        let entries = self.value.get("history").and_then(Value::as_array);
        entries
            .into_iter()
            .flatten()
            .map(|entry| History::deserialize(entry).unwrap_or_default())
            .collect()
    }

    /// Adds an entry to the history.
    pub fn push_history(&mut self, entry: &History) {
        let list = object(&mut self.value).entry("history").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let value = serde_json::to_value(entry).expect("an entry is plain data");
        list.as_array_mut().expect("made an array above").push(value);
    }

    /// Sets the times of all entries of the history, in RFC 3339 and in their order; entries beyond
    /// `times` keep theirs.
    pub fn set_history_times(&mut self, times: &[String]) {
        let list = object(&mut self.value).get_mut("history").and_then(Value::as_array_mut);
        for (entry, time) in list.into_iter().flatten().zip(times) {
            object(entry).insert("created".to_owned(), json!(time));
        }
    }

    /// Returns the diff_ids of the layers, from the bottom up.
    ///
    /// # Errors
    ///
    /// The first text that is not a sha256 digest.
    pub fn diff_ids(&self) -> Result<Vec<Digest>, DigestParseError> {
        let ids =
            self.value.get("rootfs").and_then(|r| r.get("diff_ids")).and_then(Value::as_array);
        ids.into_iter().flatten().map(|id| id.as_str().unwrap_or("").parse()).collect()
    }

    /// Sets the diff_ids of the layers, from the bottom up.
    pub fn set_diff_ids(&mut self, ids: &[Digest]) {
        let rootfs = object(object(&mut self.value).entry("rootfs").or_insert_with(|| json!({})));
        rootfs.insert("type".to_owned(), json!("layers"));
        rootfs.insert("diff_ids".to_owned(), json!(ids));
    }

    /// Makes the history fit the layers, as readers demand: one entry that is not empty per layer.
    ///
    /// Images of other tools may lack entries, or all of them; what is missing is put in front of
    /// what there is, what is too much is marked as empty.
    pub fn reconcile_history(&mut self, layers: usize) {
        let entries = self.history();
        let full = entries.iter().filter(|entry| !entry.empty_layer).count();
        if full == layers {
            return;
        }
        let list = object(&mut self.value).entry("history").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let list = list.as_array_mut().expect("made an array above");
        if full < layers {
            let created = entries.first().and_then(|entry| entry.created.clone());
            let filler = History { created, ..History::default() };
            let value = serde_json::to_value(&filler).expect("an entry is plain data");
            for _ in full..layers {
                list.insert(0, value.clone());
            }
        } else {
            let surplus = list
                .iter_mut()
                .filter(|entry| entry.get("empty_layer").and_then(Value::as_bool) != Some(true))
                .take(full - layers);
            for entry in surplus {
                object(entry).insert("empty_layer".to_owned(), json!(true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn unknown_fields_survive_an_edit() {
        let text = br#"{"architecture":"amd64","os":"linux","moby.buildkit":{"x":[1]},"config":{"ArgsEscaped":true,"Odd":{"k":null},"Env":["A=1","B","A=2"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let mut config = Config::parse(text, &Digest::of(text)).unwrap();
        config.set_env("B", "x=y");
        config.set_env("C", "");
        config.set_user("root");
        config.set_user("");
        let expected: Value = serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","moby.buildkit":{"x":[1]},"config":{"ArgsEscaped":true,"Odd":{"k":null},"Env":["A=1","B=x=y","A=2","C="]},"rootfs":{"type":"layers","diff_ids":[]}}"#,
        )
        .unwrap();
        assert_eq!(config.as_json(), &expected);
        assert_eq!(config.env_var("B").as_deref(), Some("x=y"));
        assert_eq!(config.env_var("Z"), None);
    }

    #[test]
    fn variables_are_found_after_any_other_change() {
        let mut config = Config::empty(&Platform::host());
        for round in ["1", "2"] {
            for number in 0..50_000 {
                config.set_env(&format!("N{number}"), round);
                config.set_label(&format!("L{number}"), round);
            }
            config.set("Env", json!(["N7=0", "X", "N7=9"]));
            config.set_env("N7", round);
            config.set_env("X", "y");
        }
        let env: Vec<_> = config.env();
        let expected = [("N7", "2"), ("X", "y"), ("N7", "9")];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(config.env_var("N7").as_deref(), Some("9"));
    }

    #[test]
    fn every_instruction_has_its_field() {
        let mut config = Config::empty(&Platform::new("linux", "arm", "v6"));
        config.set_cmd(Some(&strings(&["sh"])));
        config.set_entrypoint(Some(&strings(&["/init", "-x"])));
        config.set_shell(&strings(&["/bin/bash", "-c"]));
        config.set_working_dir("/w");
        config.set_user("1:2");
        config.set_stop_signal("SIGINT");
        config.set_label("a", "b");
        config.add_exposed_port("80/tcp");
        config.add_volume("/data");
        config.set_on_build(&strings(&["RUN x"]));
        config.set_healthcheck(Some(json!({"Test": ["NONE"]})));
        config.set_author("me");
        config.set_created("2020-01-01T00:00:00Z");
        config.set_diff_ids(&[Digest::of(b"l")]);
        config.push_history(&History { created_by: "RUN".to_owned(), ..History::default() });
        let id = Digest::of(b"l");
        assert_eq!(
            config.as_json(),
            &json!({
                "architecture": "arm", "os": "linux", "variant": "v6", "author": "me",
                "created": "2020-01-01T00:00:00Z",
                "config": {
                    "Cmd": ["sh"], "Entrypoint": ["/init", "-x"], "Shell": ["/bin/bash", "-c"],
                    "WorkingDir": "/w", "User": "1:2", "StopSignal": "SIGINT", "Labels": {"a": "b"},
                    "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "OnBuild": ["RUN x"],
                    "Healthcheck": {"Test": ["NONE"]},
                },
                "history": [{"created_by": "RUN"}],
                "rootfs": {"type": "layers", "diff_ids": [id.to_string()]},
            })
        );
        assert_eq!(config.cmd(), Some(strings(&["sh"])));
        assert_eq!(config.platform().to_string(), "linux/arm/v6");
        assert_eq!(config.diff_ids().unwrap(), [id]);
        config.set_cmd(None);
        assert_eq!(config.cmd(), None);
    }

    #[test]
    fn history_is_made_to_fit_the_layers() {
        let entry = |by: &str, empty_layer| History {
            created_by: by.to_owned(),
            empty_layer,
            ..History::default()
        };
        let mut config = Config::empty(&Platform::host());
        config.push_history(&entry("a", true));
        config.push_history(&entry("b", false));
        config.reconcile_history(3);
        let made: Vec<_> =
            config.history().into_iter().map(|h| (h.created_by, h.empty_layer)).collect();
        let expected = [("", false), ("", false), ("a", true), ("b", false)];
        assert_eq!(made, expected.map(|(by, empty)| (by.to_owned(), empty)));
        config.reconcile_history(1);
        assert_eq!(config.history().iter().filter(|h| !h.empty_layer).count(), 1);
    }
}
