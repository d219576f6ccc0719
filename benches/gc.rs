//! A store of 10,000 step results: `cargo bench --bench gc`. One lookup of a record, and the plan of
//! a collection. Nothing here fails for being slow.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark's results go to the terminal"
)]

use builder::cache::{Cache, Cost, Inputs, Output};
use builder::gc::{Includes, Inventory, Only, Policy, select};
use builder::store::{ChainId, ContentId, LayerId, LayerMeta, Store};
use std::fs;
use std::time::{Duration, Instant, SystemTime};

/// How many results.
const RESULTS: u32 = 10_000;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let keys = fill(&Store::open(&root).unwrap());
    let store = Store::open(&root).unwrap();

    let cache = Cache::new(store.clone());
    let begun = Instant::now();
    let looked_up = keys.iter().step_by(100);
    let count = looked_up.len() as u32;
    for (key, parent) in looked_up {
        assert!(cache.lookup(key, parent).unwrap().is_ok());
    }
    println!("one lookup of {RESULTS} records      {:>10.1?}", begun.elapsed() / count);

    let begun = Instant::now();
    let inventory = Inventory::of(&store).unwrap();
    println!("inventory of {} things        {:>10.1?}", inventory.items.len(), begun.elapsed());
    let begun = Instant::now();
    let policy = Policy {
        includes: Includes::Everything,
        only: Only::ALL,
        unused_since: None,
        keep_bytes: Some(inventory.cache_bytes() / 2),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33),
    };
    let victims = select(&inventory, &policy).victims.len();
    println!("plan that removes {victims} of them   {:>10.1?}", begun.elapsed());
}

/// Makes results of one chain each, as builds would.
fn fill(store: &Store) -> Vec<(builder::store::Key, ChainId)> {
    let cache = Cache::new(store.clone());
    let mut keys = Vec::new();
    for number in 0..RESULTS {
        let hash = |kind: &str| *blake3::hash(format!("{kind} {number}").as_bytes()).as_bytes();
        let (layer, content) = (LayerId::from_bytes(hash("l")), ContentId::from_bytes(hash("c")));
        let work = store.root().join("layers").join(layer.to_hex());
        fs::create_dir_all(work.join("fs")).unwrap();
        let meta = LayerMeta::new(layer, content, 1, 4096);
        fs::write(work.join("meta.json"), serde_json::to_vec(&meta).unwrap()).unwrap();
        let mut inputs = Inputs::new();
        inputs.text("platform", "linux/amd64");
        inputs.list(
            "argv",
            ["/bin/sh", "-c", &format!("make target-{number}")].map(Into::into).into(),
        );
        for variable in 0..8 {
            inputs.text(format!("env VARIABLE_{variable}"), "some value or other".repeat(2));
        }
        let parent = ChainId::scratch().with(&content);
        let output = Output { layer, content, set_times: None };
        let record = Cache::new_record(inputs, parent, output, "bench".into(), 1, Cost::default());
        cache.file(&record).unwrap();
        cache.intern(&output.on(&parent), &layer, 1, &parent).unwrap();
        keys.push((record.key, parent));
    }
    keys
}
