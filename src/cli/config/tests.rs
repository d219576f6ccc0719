use super::*;
use crate::cli::help;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn load(&self) -> Result<Config, Failure> {
        Config::of_files(&self.path("system"), Some(&self.path("own")), None)
    }
}

fn values<'c>(config: &'c Config, name: &str) -> Vec<&'c str> {
    let of_key = config.given.iter().filter(|given| given.key.full() == name);
    of_key.flat_map(|given| given.values.iter().map(String::as_str)).collect()
}

#[test]
fn the_users_file_goes_before_the_machines_and_policies_add_up() {
    let files = Files::new();
    assert!(files.load().unwrap().given.is_empty(), "no file is needed");
    files.write(
        "system",
        "[build]\nmemory = \"1g\"\ncpus = 2\n[policy]\nsource-policy-files = [\"/a\"]\n[store]\ngc = false\n",
    );
    files.write(
        "own",
        "[build]\nmemory = \"2g\"\ncache-from = [\"type=local,src=/a\", \"type=local,src=/b\"]\n\
         [policy]\nsource-policy-files = \"/b\"\n",
    );
    let config = files.load().unwrap();
    assert_eq!(values(&config, "build.memory"), ["2g"]);
    assert_eq!(values(&config, "build.cpus"), ["2"]);
    assert_eq!(values(&config, "build.cache-from").len(), 2);
    assert_eq!(config.policies(), [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.variable("BUILDER_GC").as_deref(), Some("off"));
    assert_eq!(config.variable("BUILDER_ROOT"), None);
    assert!(config.has_defaults_of("explain") && !config.has_defaults_of("run"));
    let given = config.given.iter().find(|given| given.key.full() == "build.memory").unwrap();
    assert_eq!(given.place(), format!("{}:2", files.path("own").display()));
}

#[test]
fn what_a_file_may_not_have_is_shown_with_its_place() {
    for (text, part, place) in [
        ("[biuld]\n", "no section is called \"biuld\": there are build, run", "biuld"),
        ("[build]\nplatfrom = \"x\"\n", "no key of [build] is called \"platfrom\"", "platfrom"),
        ("[build]\ntag = \"x\"\n", "no key of [build] is called \"tag\"", "tag"),
        ("memory = 1\n", "no section is called \"memory\"", "memory"),
        ("build = 1\n", "build is a section, not a key", "build"),
        ("[build]\nnormalize-modes = 1\n", "build.normalize-modes: expected true or false", "1"),
        ("[build]\nmemory = [1]\n", "build.memory: expected a string or a number", "[1]"),
        ("[build]\nulimit = [true]\n", "build.ulimit: expected an array", "[true]"),
        ("[store]\nroot = \"x\"\n", "store.root: \"x\" is not an absolute path", "\"x\""),
        ("[store]\nmin-free = \"x\"\n", "store.min-free: \"x\" is not a size", "\"x\""),
        ("[program]\nthreads = 0\n", "program.threads: \"0\" is not a number", "0"),
        ("[policy]\nsource-policy-files = [\"p\"]\n", "not an absolute path", "[\"p\"]"),
        ("[build\n", "", ""),
    ] {
        let files = Files::new();
        files.write("own", text);
        let failure = files.load().unwrap_err();
        assert!(failure.message.contains(part), "{text}: {}", failure.message);
        let excerpt = &failure.excerpts[0];
        assert!(excerpt.source[excerpt.span.clone()].contains(place), "{text}: {excerpt:?}");
    }
}

#[test]
fn files_of_others_are_refused() {
    let files = Files::new();
    let path = files.write("own", "[build]\ncpus = 1\n");
    for mode in [0o664, 0o646] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let failure = files.load().unwrap_err();
        assert!(failure.message.contains("other users may write"), "{}", failure.message);
        assert!(failure.hints[0].starts_with("take that right away: chmod go-w /"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    files.load().unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(files.load().unwrap_err().message.contains("user 12345 owns it"));
    }
    let named = |path: &Path| Config::of_files(&files.path("system"), None, Some(path));
    assert!(named(Path::new("/dev/null")).unwrap().given.is_empty());
    assert!(named(&files.path("gone")).is_err(), "one that is named must be there");
    assert!(named(files.dir.path()).is_err());
}

#[test]
fn every_value_is_one_that_its_flag_takes() {
    for key in KEYS.iter().filter(|key| matches!(key.target, Target::Flag { .. })) {
        let command = help::command();
        let sub = command.find_subcommand(key.section).expect(key.section);
        let arg = sub.get_arguments().find(|arg| arg.get_id() == key.id().as_str());
        let arg = arg.unwrap_or_else(|| panic!("{} is not a flag", key.full()));
        assert_eq!(arg.get_long(), Some(key.name));
        let is_flag = matches!(arg.get_action(), clap::ArgAction::SetTrue);
        assert_eq!(is_flag, key.form == Form::Truth, "{}", key.full());
        let takes_many = matches!(arg.get_action(), clap::ArgAction::Append);
        assert_eq!(takes_many, key.form == Form::List, "{}", key.full());
    }
    for (text, part) in [
        ("[build]\nprogress = \"loud\"\n", "build.progress: invalid value 'loud'"),
        ("[build]\nmemory = \"lots\"\n", "build.memory: invalid value 'lots'"),
        ("[build]\nulimit = [\"nofile=1\", \"x\"]\n", "build.ulimit: invalid value 'x'"),
        ("[build]\nmax-parallelism = -3\n", "build.max-parallelism: invalid value '-3'"),
    ] {
        let files = Files::new();
        files.write("own", text);
        let failure = files.load().unwrap().apply(help::command(), "build", &[]).unwrap_err();
        assert!(failure.message.contains(part), "{}", failure.message);
        assert_eq!(failure.excerpts.len(), 1);
    }
}

#[test]
fn the_page_has_a_row_for_every_key() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let rows: Vec<&str> = rows.map(|(key, _)| key).filter(|key| key.contains('.')).collect();
    let keys: Vec<String> = KEYS.iter().map(Key::full).collect();
    assert_eq!(rows, keys);
}
