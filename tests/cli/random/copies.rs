//! What COPY makes of trees, over files that are there.

use super::model::{Choices, Dice, Model, image_shows, same};
use super::try_numbers;
use crate::kit::Kit;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e f"];

/// A random tree, which is the context beneath `src`.
fn source(kit: &Kit, dice: &mut Dice) -> Model {
    let mut tree = Model::default();
    tree.dir("src");
    std::fs::create_dir(kit.path("src")).expect("a directory");
    for _ in 0..12 {
        let dirs = tree.paths("d");
        let path = format!("{}/{}", dice.of(&dirs), dice.of(&NAMES));
        if tree.get(&path).is_some() {
            continue;
        }
        let mode = *dice.of(&[0o755, 0o700, 0o750]);
        match dice.roll(5) {
            0 | 1 => {
                std::fs::create_dir(kit.path(&path)).expect("a directory");
                kit.chmod(&path, mode);
                tree.put(&path, 'd', mode, (0, 0), "");
            }
            2 => {
                kit.symlink("nowhere", &path);
                tree.put(&path, 'l', 0o777, (0, 0), "nowhere");
            }
            _ => {
                kit.file(&path, &path).chmod(&path, mode);
                tree.put(&path, 'f', mode, (0, 0), &path);
            }
        }
    }
    tree
}

/// What `--chown` and `--chmod` say.
struct Given {
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
}

/// Copies one entry to a path, over what is there. `is_top` is a directory named as the source: of it, only the
/// content counts. `None` where directories and other files collide.
fn copy(
    tree: &Model,
    from: &str,
    image: &mut Model,
    to: &str,
    given: &Given,
    is_top: bool,
) -> Option<()> {
    let node = tree.get(from)?.clone();
    let owner = given.owner.unwrap_or(node.owner);
    let mode = given.mode.unwrap_or(node.mode);
    if let Some(there) = image.get(to)
        && (there.kind == 'd') != (node.kind == 'd')
    {
        return None;
    }
    let mut above = to.match_indices('/').map(|(at, _)| &to[..at]);
    if above.any(|dir| image.get(dir).is_some_and(|node| node.kind != 'd')) {
        return None;
    }
    image.parents(to, given.mode.unwrap_or(0o755), given.owner.unwrap_or((0, 0)));
    match node.kind {
        'd' => {
            match (image.is_dir(to), is_top) {
                (false, true) => image.put(
                    to,
                    'd',
                    given.mode.unwrap_or(0o755),
                    given.owner.unwrap_or((0, 0)),
                    "",
                ),
                (false, false) => image.put(to, 'd', mode, owner, ""),
                // A directory that is there takes mode and owner of a directory within the source.
                (true, false) => image.change(to, |node| (node.mode, node.owner) = (mode, owner)),
                (true, true) => {}
            }
            let prefix = format!("{from}/");
            for path in tree.beneath(from) {
                let rest = &path[prefix.len()..];
                if !rest.contains('/') {
                    copy(tree, &path, image, &format!("{to}/{rest}"), given, false)?;
                }
            }
        }
        'l' => image.put(to, 'l', 0o777, owner, &node.data),
        _ => image.put(to, 'f', mode, owner, &node.data),
    }
    Some(())
}

#[test]
fn random_copies_lay_trees_over_each_other_as_the_model_does() {
    try_numbers(4..16, |numbers| {
        let kit = Kit::new();
        let mut choices = Choices::new(numbers);
        let Some(mut dice) = choices.next() else { return };
        let tree = source(&kit, &mut dice);
        let mut image = Model::default();
        image.dir("w");
        let mut text = String::from("FROM fixture/base\nWORKDIR /w\n");
        while let Some(mut dice) = choices.next() {
            // A link that is named as a source is followed, which is another test's.
            let sources = tree.paths("df");
            let count = 1 + dice.roll(2);
            let chosen: Vec<String> = (0..count).map(|_| dice.of(&sources).clone()).collect();
            let mut dest = String::from("w");
            for _ in 0..dice.roll(3) {
                dest = format!("{dest}/{}", dice.of(&NAMES));
            }
            let given = Given {
                owner: *dice.of(&[None, None, Some((5, 6)), Some((7, 7))]),
                mode: *dice.of(&[None, None, None, Some(0o711)]),
            };
            let has_slash = count > 1 || dice.roll(2) == 0;
            let before = image.clone();
            let is_dir = has_slash || image.is_dir(&dest);
            let mut done = Some(());
            for from in &chosen {
                let name = from.rsplit('/').next().expect("a name");
                let to = match (tree.is_dir(from), is_dir) {
                    (false, true) => format!("{dest}/{name}"),
                    _ => dest.clone(),
                };
                done = done.and_then(|()| copy(&tree, from, &mut image, &to, &given, true));
            }
            if done.is_none() {
                image = before;
                continue;
            }
            let mut flags = String::new();
            if let Some((uid, gid)) = given.owner {
                flags += &format!("--chown={uid}:{gid} ");
            }
            if let Some(mode) = given.mode {
                flags += &format!("--chmod={mode:o} ");
            }
            let slash = if has_slash { "/" } else { "" };
            let words: Vec<String> = chosen
                .iter()
                .map(|from| format!("\"/{from}\""))
                .chain([format!("\"/{dest}{slash}\"")])
                .collect();
            text += &format!("COPY {flags}[{}]\n", words.join(", "));
        }
        kit.dockerfile(&text);
        same(&text, &image_shows(&kit.image(), "w"), &image.shown("w"));
    });
}
