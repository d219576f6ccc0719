//! What ADD makes of a tar.

use super::layers::append;
use super::model::{Choices, Model, image_shows, same};
use super::try_numbers;
use crate::kit::Kit;

#[test]
fn random_archives_are_unpacked_as_the_model_unpacks_them() {
    try_numbers(5..40, |numbers| {
        let kit = Kit::new();
        let mut model = Model::default();
        let mut tar = tar::Builder::new(Vec::new());
        let mut choices = Choices::new(numbers);
        while let Some(mut dice) = choices.next() {
            // Names as archives have them: from the root, from here, with steps up, which lead nowhere.
            let mut parts = Vec::new();
            for _ in 0..=dice.roll(3) {
                parts.push(*dice.of(&["a", "b", "c", "d"]));
            }
            let plain = parts.join("/");
            let path = format!("w/{plain}");
            let name = match dice.roll(5) {
                0 => format!("./{plain}"),
                1 => format!("a/../{plain}"),
                2 => format!("{}//{}", parts[0], parts[1..].join("/"))
                    .trim_end_matches('/')
                    .to_owned(),
                _ => plain.clone(),
            };
            // What leads through a link or a file is another test's.
            let mut above = path.match_indices('/').map(|(at, _)| &path[..at]);
            let is_blocked = above.any(|dir| model.get(dir).is_some_and(|node| node.kind != 'd'));
            let is_dir = model.get(&path).map(|node| node.kind == 'd');
            let owner = *dice.of(&[(0, 0), (3, 4), (123_456, 7)]);
            let kind = dice.roll(6);
            // Neither is a directory in the place of something else, or the other way round.
            if is_blocked || is_dir.is_some_and(|is_dir| is_dir != (kind < 2)) {
                continue;
            }
            let old = dice.pick(&model.paths("f")).filter(|old| *old != path);
            if kind == 3 && old.is_none() {
                continue;
            }
            model.parents(&path, 0o755, (0, 0));
            match kind {
                0 | 1 => {
                    let mode = *dice.of(&[0o755, 0o700, 0o1777]);
                    match is_dir {
                        Some(_) => {
                            model.change(&path, |node| (node.mode, node.owner) = (mode, owner));
                        }
                        None => model.put(&path, 'd', mode, owner, ""),
                    }
                    append(&mut tar, tar::EntryType::Directory, &name, mode, owner, "");
                }
                2 => {
                    model.put(&path, 'l', 0o777, owner, "b");
                    append(&mut tar, tar::EntryType::Symlink, &name, 0o777, owner, "b");
                }
                3 => {
                    let old = old.expect("there is one");
                    // A link sets mode and owner, as for any member.
                    let (mode, old_owner) =
                        model.get(&old).map(|n| (n.mode, n.owner)).expect("a file");
                    model.link(&old, &path);
                    append(&mut tar, tar::EntryType::Link, &name, mode, old_owner, &old[2..]);
                }
                _ => {
                    let text = format!("text {}", dice.roll(1000));
                    let mode = *dice.of(&[0o644, 0o600, 0o4755]);
                    model.put(&path, 'f', mode, owner, &text);
                    append(&mut tar, tar::EntryType::Regular, &name, mode, owner, &text);
                }
            }
        }
        if model.paths("dfl").is_empty() {
            return;
        }
        kit.file("x.tar", tar.into_inner().expect("a tar in memory"));
        kit.dockerfile("FROM scratch\nADD x.tar /w/\n");
        same("the image", &image_shows(&kit.image(), "w"), &model.shown("w"));
    });
}
