//! COPY again: what is copied over an earlier layer makes the very layer that copying all makes.

use crate::kit::{Archive, Kit};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Enough files for a copy to be remembered.
const FILES: usize = 250;

fn place(kit: &Kit, number: usize) -> PathBuf {
    kit.path(&format!("src/d{}/f{number}", number % 20))
}

/// A context with a tree of files, whose times are all set.
fn tree() -> Kit {
    let kit = Kit::new();
    for number in 0..FILES {
        let name = format!("src/d{}/f{number}", number % 20);
        kit.file(&name, format!("file {number}\n").repeat(number % 40));
        set_time(&place(&kit, number), number as u64);
    }
    kit
}

fn set_time(path: &Path, seconds: u64) {
    let file = fs::File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000 + seconds)).unwrap();
}

/// Builds in a store, and reads the image.
fn build(kit: &Kit, store: &Path) -> Archive {
    let run = kit.build().env("BUILDER_ROOT", store).env("SOURCE_DATE_EPOCH", "1700000000");
    run.arg("-tit").image()
}

/// What is known of each layer of the kit's store.
fn metas(kit: &Kit) -> Vec<serde_json::Value> {
    let layers = fs::read_dir(kit.store().join("layers")).unwrap();
    let read = |dir: fs::DirEntry| fs::read(dir.path().join("meta.json")).unwrap();
    layers.map(|dir| serde_json::from_slice(&read(dir.unwrap())).unwrap()).collect()
}

fn differences(kit: &Kit) -> usize {
    metas(kit).iter().filter(|meta| !meta["under"].is_null()).count()
}

/// A change of a file of the tree, which is there.
type Mutation = (&'static str, fn(&Kit, &Path));

const MUTATIONS: [Mutation; 15] = [
    ("content", |_, file| fs::write(file, "other").unwrap()),
    ("content of the same size and time", |_, file| {
        let facts = fs::metadata(file).unwrap();
        fs::write(file, vec![b'x'; facts.len() as usize]).unwrap();
        fs::File::open(file).unwrap().set_modified(facts.modified().unwrap()).unwrap();
    }),
    ("touch", |_, file| set_time(file, 5000)),
    ("mode", |_, file| {
        fs::set_permissions(file, fs::Permissions::from_mode(0o4751)).unwrap();
    }),
    ("owner", |_, file| chown(file, Some(7), Some(8)).unwrap()),
    ("nothing in it", |_, file| fs::write(file, "").unwrap()),
    ("saved by rename", |_, file| {
        fs::write(file.with_extension("new"), "saved").unwrap();
        fs::rename(file.with_extension("new"), file).unwrap();
    }),
    ("add", |_, file| fs::write(file.with_extension("added"), "added").unwrap()),
    ("add a directory", |_, file| {
        fs::create_dir(file.with_extension("dir")).unwrap();
        fs::write(file.with_extension("dir").join("in"), "in").unwrap();
    }),
    ("become a link", |_, file| {
        fs::remove_file(file).unwrap();
        symlink("elsewhere", file).unwrap();
    }),
    ("become a pipe", |_, file| {
        fs::remove_file(file).unwrap();
        mknodat(CWD, file, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }),
    ("delete", |_, file| fs::remove_file(file).unwrap()),
    ("rename", |_, file| fs::rename(file, file.with_extension("moved")).unwrap()),
    ("become a directory", |_, file| {
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
        fs::write(file.join("in"), "in").unwrap();
    }),
    ("hard link", |_, file| fs::hard_link(file, file.with_extension("link")).unwrap()),
];

/// The first mutations take nothing away, so with them the tree is copied as a difference.
const HARMLESS: usize = 11;

#[test]
fn a_copy_over_an_earlier_one_makes_the_layer_of_a_copy_in_full() {
    let kit = tree();
    kit.dockerfile(
        "FROM fixture/base AS plain\nCOPY src /srv/tree\n\
         FROM fixture/base AS owned\nCOPY --chown=5:6 --chmod=u=rwX,go=rX --exclude=**/*.moved src /own/ed\n\
         FROM scratch\n\
         COPY --link --from=plain /srv/tree /plain\n\
         COPY --link --from=owned /own /owned\n\
         COPY --link src /deep/down\n",
    );
    build(&kit, kit.store());
    assert_eq!(differences(&kit), 0);
    let (harmless, others) = MUTATIONS.split_at(HARMLESS);
    let rounds = [&harmless[..5], &harmless[5..]].into_iter().chain(others.chunks(1));
    let mut number = 7;
    for (round, mutations) in rounds.enumerate() {
        let before = differences(&kit);
        for (_, mutate) in mutations {
            mutate(&kit, &place(&kit, number));
            number += 11;
        }
        // What is not in a key shows with something that is.
        fs::write(place(&kit, 249), format!("round {round}")).unwrap();
        let fresh = kit.beside(&format!("fresh-{round}"));
        let (again, full) = (build(&kit, kit.store()), build(&kit, &fresh));
        let names = mutations.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(again.diff_ids(), full.diff_ids(), "{names:?}");
        if round < 2 {
            assert_eq!(differences(&kit) - before, 5, "{names:?}: each copy is a difference");
        }
        fs::remove_dir_all(fresh).unwrap();
    }
    kit.builder(["store", "verify"]).ok();
}

#[test]
fn only_what_changed_is_copied_and_a_command_sees_no_more_than_the_files() {
    let kit = tree();
    kit.dockerfile(
        "FROM fixture/base\nCOPY src /srv/tree\n\
         RUN stat -c '%n %h %s %Y' /srv/tree/*/* > /seen && rm -r /srv/tree/d3 && echo x > /srv/tree/d4/f4",
    );
    let first = kit.image();
    fs::write(place(&kit, 47), "changed").unwrap();
    set_time(&place(&kit, 47), 47);
    let second = kit.image();
    let seen = |image: &Archive| image.text("seen");
    let expected: String = seen(&first)
        .lines()
        .map(|line| match line.starts_with("/srv/tree/d7/f47 ") {
            true => "/srv/tree/d7/f47 1 7 1600000047\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    assert_eq!(seen(&second), expected);
    assert!(second.find("srv/tree/d3/f3").is_none());
    assert_eq!(second.text("srv/tree/d4/f4"), "x\n");

    let metas = metas(&kit);
    let delta = metas.iter().find(|meta| !meta["under"].is_null()).expect("a difference");
    assert_eq!(delta["under"]["own_bytes"], 7);
    let id = delta["id"].as_str().unwrap();
    let files = walkdir::WalkDir::new(kit.store().join("layers").join(id).join("fs"));
    let files = files.into_iter().map(|entry| entry.unwrap().metadata().unwrap());
    assert_eq!(files.filter(|facts| facts.is_file() && facts.nlink() == 1).count(), 1);
}

#[test]
fn what_equals_the_files_below_the_copy_hides_no_older_version() {
    let kit = tree();
    // The base of the copy has the same files, so most of what is copied is in no layer.
    kit.dockerfile("FROM fixture/base\nCOPY base /srv\nCOPY src /srv\n");
    for number in 0..FILES {
        let place = place(&kit, number);
        let base = kit.path("base").join(place.strip_prefix(kit.path("src")).unwrap());
        fs::create_dir_all(base.parent().unwrap()).unwrap();
        fs::copy(&place, &base).unwrap();
        set_time(&base, number as u64);
    }
    let number = 47;
    let original = fs::read(place(&kit, number)).unwrap();
    fs::write(place(&kit, number), "changed").unwrap();
    build(&kit, kit.store());
    fs::write(place(&kit, number), &original).unwrap();
    set_time(&place(&kit, number), number as u64);
    let again = build(&kit, kit.store());
    assert_eq!(again.text("srv/d7/f47").as_bytes(), original);
    assert_eq!(again.diff_ids(), build(&kit, &kit.beside("fresh")).diff_ids());
}

#[test]
fn a_difference_keeps_what_it_stands_on_and_goes_before_it() {
    let kit = tree();
    kit.dockerfile("FROM fixture/base\nCOPY src /srv/tree\n");
    kit.build().arg("-tfirst").ok();
    fs::write(place(&kit, 47), "changed").unwrap();
    kit.build().arg("-tsecond").ok();
    assert_eq!(differences(&kit), 1);
    kit.builder(["rmi", "first"]).ok();
    kit.builder(["prune"]).ok();
    assert_eq!(differences(&kit), 1);
    let image = kit.image();
    assert_eq!(image.text("srv/tree/d7/f47"), "changed");
    assert_eq!(image.text("srv/tree/d7/f27"), "file 27\n".repeat(27));
    kit.builder(["store", "verify"]).ok();

    // Without what it stands on it is not a layer any more.
    let under =
        metas(&kit).iter().find_map(|meta| meta["under"]["layer"].as_str().map(str::to_owned));
    fs::remove_dir_all(kit.store().join("layers").join(under.unwrap())).unwrap();
    assert_eq!(kit.build().ok().counts().ran, 1);
    kit.builder(["rmi", "second"]).ok();
    kit.builder(["prune"]).ok();
    kit.builder(["store", "verify"]).ok();
}

#[test]
fn a_damaged_memory_of_a_copy_is_none() {
    let kit = tree();
    kit.dockerfile("FROM fixture/base\nCOPY src /srv/tree\n");
    build(&kit, kit.store());
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let all = |directory: &str| {
        let files = walkdir::WalkDir::new(kit.store().join(directory)).into_iter();
        files.map(|entry| entry.unwrap().into_path()).filter(|path| path.is_file())
    };
    for part in ["listing", "note"] {
        match part {
            "listing" => {
                all("layers")
                    .filter(|path| path.ends_with("listing"))
                    .for_each(|path| damage(&path));
            }
            _ => all("copies").for_each(|path| damage(&path)),
        }
        kit.builder(["store", "verify"]).exits(5);
        fs::write(place(&kit, 47), part).unwrap();
        let (again, full) = (build(&kit, kit.store()), build(&kit, &kit.beside(part)));
        assert_eq!(again.diff_ids(), full.diff_ids(), "{part}");
        assert_eq!(differences(&kit), 0);
        kit.builder(["store", "verify", "--repair"]).ok();
        kit.builder(["store", "verify"]).ok();
    }
}
