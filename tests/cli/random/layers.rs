//! What RUN makes of files, and how layers lie over each other.

use super::model::{Choices, Dice, Model, same, shown_by};
use super::try_numbers;
use crate::kit::base::{Layout, rootfs};
use crate::kit::{Archive, Kit};
use std::collections::BTreeSet;

/// A path that may or may not be there, beneath directories that are.
fn place(dice: &mut Dice, model: &Model) -> String {
    let mut dirs = model.paths("d");
    dirs.retain(|dir| dir.matches('/').count() < 4);
    let dir = dice.pick(&dirs).unwrap_or_else(|| "w".to_owned());
    format!("{dir}/{}", dice.of(&["a", "b", "c", "d e", "é", ".wx"]))
}

/// Makes a file as a command of root makes it: in a directory with the set-group-ID bit it gets the directory's
/// group, and a directory the bit as well.
fn made(model: &mut Model, path: &str, kind: char, mode: u32, data: &str) {
    let (dir, _) = path.rsplit_once('/').expect("it is in w");
    let above = model.get(dir).expect("its directory is there");
    let is_shared = above.mode & 0o2000 != 0;
    let group = if is_shared { above.owner.1 } else { 0 };
    let mode = if is_shared && kind == 'd' { mode | 0o2000 } else { mode };
    model.put(path, kind, mode, (0, group), data);
}

/// Does one operation in the model; returns what does it in a shell.
fn operation(dice: &mut Dice, model: &mut Model) -> Option<String> {
    let quoted = |path: &str| format!("'/{path}'");
    let target = place(dice, model);
    let to = quoted(&target);
    let files = model.paths("f");
    let inside = |model: &Model, kinds| {
        let mut all = model.paths(kinds);
        all.retain(|path| path != "w");
        all
    };
    Some(match dice.roll(13) {
        0 | 1 => {
            if model.get(&target).is_some() {
                return None;
            }
            made(model, &target, 'd', 0o755, "");
            format!("mkdir {to}")
        }
        2 | 3 => {
            let text = dice.of(&["", "x", "some text"]);
            match model.get(&target).map(|node| node.kind) {
                None => made(model, &target, 'f', 0o644, text),
                Some('f') => model.change(&target, |node| (*text).clone_into(&mut node.data)),
                Some(_) => return None,
            }
            format!("printf '{text}' > {to}")
        }
        4 => {
            let path = dice.pick(&files)?;
            model.change(&path, |node| node.data.push('+'));
            format!("printf + >> {}", quoted(&path))
        }
        5 => {
            let path = dice.pick(&inside(model, "dfl"))?;
            model.remove(&path);
            format!("rm -rf {}", quoted(&path))
        }
        6 | 7 => {
            let path = dice.pick(&inside(model, "dfl"))?;
            if model.get(&target).is_some() || target.starts_with(&format!("{path}/")) {
                return None;
            }
            model.rename(&path, &target);
            format!("mv {} {to}", quoted(&path))
        }
        8 => {
            let path = dice.pick(&files)?;
            if model.get(&target).is_some() {
                return None;
            }
            model.link(&path, &target);
            format!("ln {} {to}", quoted(&path))
        }
        9 => {
            if model.get(&target).is_some() {
                return None;
            }
            let link = dice.of(&["a", "/w/b", "../nowhere"]);
            made(model, &target, 'l', 0o777, link);
            format!("ln -s {link} {to}")
        }
        10 => {
            let path = dice.pick(&inside(model, "df"))?;
            let mode = *dice.of(&[0o700, 0o755, 0o1777, 0o644, 0o2755, 0o4711]);
            model.change(&path, |node| node.mode = mode);
            format!("chmod {mode:o} {}", quoted(&path))
        }
        11 => {
            let path = dice.pick(&inside(model, "dfl"))?;
            let owner = *dice.of(&[(0, 0), (1, 2), (1000, 1000), (100_000, 7)]);
            model.change(&path, |node| {
                node.owner = owner;
                // The kernel takes these bits off a file that changes its owner.
                if node.kind == 'f' {
                    node.mode &= 0o1777;
                }
            });
            format!("chown -h {}:{} {}", owner.0, owner.1, quoted(&path))
        }
        // Another kind of file, or a directory without what was in it, under a name that was there.
        _ => {
            let path = dice.pick(&inside(model, "dfl"))?;
            let quoted = quoted(&path);
            if dice.roll(2) == 0 {
                made(model, &path, 'd', 0o755, "");
                made(model, &format!("{path}/new"), 'f', 0o644, "new");
                format!("rm -rf {quoted}; mkdir {quoted}; printf new > {quoted}/new")
            } else {
                made(model, &path, 'f', 0o644, "file");
                format!("rm -rf {quoted}; printf file > {quoted}")
            }
        }
    })
}

/// Checks that a layer has nothing that its step left as it was.
#[track_caller]
fn is_minimal(image: &Archive, number: usize, before: &Model, after: &Model) {
    let (old, new) = (before.shown("w"), after.shown("w"));
    for entry in &image.layers[number] {
        let path = &entry.path;
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !path.starts_with("w/") || name == ".wh..wh..opq" {
            continue;
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            // The model's own names may begin like that; none begins like a whiteout.
            let hidden = format!("{dir}/{hidden}");
            assert!(
                old.contains_key(&hidden),
                "layer {number} hides {hidden}, which was not there"
            );
        } else if entry.kind != '5' && old.get(path) == new.get(path) {
            let is_touched = after.inode(path).is_some_and(|inode| after.touched.contains(&inode));
            assert!(is_touched, "layer {number} has {path}, which did not change");
        }
    }
}

#[test]
fn random_operations_make_the_layers_of_the_model() {
    try_numbers(20..60, |numbers| {
        let kit = Kit::new();
        let mut model = Model::default();
        let mut text = String::from("FROM fixture/base\nRUN mkdir /w\n");
        model.dir("w");
        let mut choices = Choices::new(numbers);
        let mut states = vec![model.clone()];
        for step in 0..4 {
            model.settle();
            let mut commands = vec!["set -e".to_owned()];
            for _ in 0..=numbers.len() / 4 {
                let Some(mut dice) = choices.next() else { break };
                commands.extend(operation(&mut dice, &mut model));
            }
            // So that no layer is empty.
            commands.push(format!("echo > /step{step}"));
            text += &format!("RUN <<END{step}\n{}\nEND{step}\n", commands.join("\n"));
            states.push(model.clone());
        }
        kit.dockerfile(&text);
        let image = kit.image();
        let count = image.layers.len() - states.len();
        for (number, state) in states.iter().enumerate() {
            let layers = &image.layers[..=count + number];
            same(
                &format!("after step {number} of\n{text}"),
                &shown_by(layers, "w"),
                &state.shown("w"),
            );
            if number > 0 {
                is_minimal(&image, count + number, &states[number - 1], state);
            }
        }
    });
}

/// Puts a random layer over the model and returns its tar.
fn layer(dice: &mut Dice, model: &mut Model) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let below = model.clone();
    let mut seen = BTreeSet::new();
    // Whiteouts count for what lies below, and stand before other members. None is within another.
    let mut hidden = Vec::new();
    let mut marked = BTreeSet::new();
    for _ in 0..dice.roll(4) {
        let Some(path) = dice.pick(&below.paths("dfl")) else { continue };
        let holds_marked = marked.iter().any(|other: &String| other.starts_with(&path));
        if path == "w" || model.get(&path).is_none() || holds_marked {
            continue;
        }
        marked.insert(path.clone());
        let (dir, name) = path.rsplit_once('/').expect("it is in w");
        if below.is_dir(&path) && dice.roll(3) == 0 {
            hidden.push(format!("{path}/.wh..wh..opq"));
            below.beneath(&path).iter().for_each(|path| model.remove(path));
        } else {
            hidden.push(format!("{dir}/.wh.{name}"));
            model.remove(&path);
        }
    }
    if dice.roll(4) == 0 {
        hidden.push("w/.wh.never".to_owned());
    }
    let mut members = Vec::new();
    for _ in 0..dice.roll(8) {
        let path = place(dice, model);
        if !seen.insert(path.clone()) {
            continue;
        }
        let owner = *dice.of(&[(0, 0), (5, 6), (70_000, 1)]);
        match dice.roll(4) {
            0 => {
                let mode = *dice.of(&[0o755, 0o700, 0o1777]);
                match model.is_dir(&path) {
                    true => model.change(&path, |node| (node.mode, node.owner) = (mode, owner)),
                    false => model.put(&path, 'd', mode, owner, ""),
                }
                members.push((path, tar::EntryType::Directory, mode, owner, String::new()));
            }
            1 => {
                model.put(&path, 'l', 0o777, owner, "a");
                members.push((path, tar::EntryType::Symlink, 0o777, owner, "a".to_owned()));
            }
            _ => {
                let text = format!("content {}", dice.roll(100));
                model.put(&path, 'f', 0o640, owner, &text);
                members.push((path, tar::EntryType::Regular, 0o640, owner, text));
            }
        }
    }
    for path in hidden {
        append(&mut tar, tar::EntryType::Regular, &path, 0o644, (0, 0), "");
    }
    // A member whose parents or whose own path a later one replaced is not written.
    for (path, kind, mode, owner, data) in members {
        let is_there = model.get(&path).is_some_and(|node| match kind {
            tar::EntryType::Directory => node.kind == 'd',
            tar::EntryType::Symlink => node.kind == 'l',
            _ => node.kind == 'f' && node.data == data,
        });
        if is_there {
            append(&mut tar, kind, &path, mode, owner, &data);
        }
    }
    tar.into_inner().expect("a tar in memory")
}

/// Adds a member.
pub(super) fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    path: &str,
    mode: u32,
    owner: (u32, u32),
    data: &str,
) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    // As it is: the library refuses names with `..`.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_mode(mode);
    header.set_uid(owner.0.into());
    header.set_gid(owner.1.into());
    header.set_mtime(1_700_000_000);
    let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
    if is_link {
        header.set_link_name(data).expect("a short target");
    }
    let content: &[u8] = if kind == tar::EntryType::Regular { data.as_bytes() } else { b"" };
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.append(&header, content).expect("a tar in memory");
}

/// Lists `/w` in the form of [`super::model::show`], one path a line.
const LIST: &str = "find /w -mindepth 1 | while IFS= read -r p; do \
                    if [ -L \"$p\" ]; then echo \"${p#/}|l 777 $(stat -c %u:%g \"$p\") $(readlink \"$p\")\"; \
                    elif [ -d \"$p\" ]; then echo \"${p#/}|d $(stat -c '%a %u:%g' \"$p\") \"; \
                    else echo \"${p#/}|f $(stat -c '%a %u:%g' \"$p\") $(cat \"$p\")\"; fi; done > /list";

#[test]
fn random_bases_look_inside_of_a_step_as_their_layers_lie_over_each_other() {
    try_numbers(2..7, |numbers| {
        let kit = Kit::new();
        let mut model = Model::default();
        let mut first = tar::Builder::new(Vec::new());
        append(&mut first, tar::EntryType::Directory, "w", 0o755, (0, 0), "");
        model.dir("w");
        let mut base = Layout::of(&rootfs());
        base.push(&first.into_inner().expect("a tar in memory"));
        let mut choices = Choices::new(numbers);
        while let Some(mut dice) = choices.next() {
            base.push(&layer(&mut dice, &mut model));
        }
        base.write(&kit.beside("random"));
        kit.dockerfile(&format!("FROM random\nRUN {LIST}\nCOPY --from=random /w /copied/\n"));
        let named =
            format!("--build-context=random=oci-layout://{}", kit.beside("random").display());
        let image = kit.build().arg(named).image();
        let list = image.text("/list");
        let found = list.lines().map(|line| line.split_once('|').expect("two parts"));
        let found = found.map(|(path, text)| (path.to_owned(), text.to_owned())).collect();
        same("the command", &found, &model.shown("w"));
        same("the image", &shown_by(&image.layers, "w"), &model.shown("w"));
        let copied = shown_by(&image.layers, "copied");
        let copied = copied.into_iter().map(|(path, text)| (path.replacen("copied", "w", 1), text));
        same("the copy", &copied.collect(), &model.shown("w"));
    });
}
