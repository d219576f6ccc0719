//! COPY: names, directories, wildcards, owners, modes, links.

use crate::kit::{Archive, Kit, State};
use std::fs;

/// Builds `FROM fixture/base` and these lines over a small tree.
#[track_caller]
fn copied(lines: &str) -> Archive {
    let kit = Kit::new();
    tree(&kit);
    kit.dockerfile(&format!("FROM fixture/base\n{lines}\n"));
    kit.image()
}

fn tree(kit: &Kit) {
    kit.file("a.txt", "a").file("b.txt", "b").file("c.md", "c");
    kit.file("dir/one", "1").file("dir/sub/two", "2").chmod("dir/one", 0o755);
    kit.symlink("one", "dir/link");
}

#[test]
fn file_to_a_name_and_into_a_directory() {
    let image = copied("COPY a.txt /named\nCOPY a.txt b.txt /directory/\nCOPY a.txt /tmp");
    assert_eq!(image.text("/named"), "a");
    assert_eq!(image.list("directory"), ["a.txt", "b.txt"]);
    assert_eq!(image.text("/tmp/a.txt"), "a");
}

#[test]
fn directory_copies_its_contents() {
    let image = copied("COPY dir /d\nCOPY dir/ /e/");
    for directory in ["d", "e"] {
        assert_eq!(image.list(directory), ["link", "one", "sub", "sub/two"]);
    }
    assert_eq!(image.entry("/d/one").mode, 0o755);
    assert_eq!(image.entry("/d/link").link.as_deref(), Some("one"));
}

#[test]
fn wildcards_choose_files() {
    let image = copied("COPY *.txt /t/\nCOPY d*/o?e /u/\nCOPY [ac].* /v/");
    assert_eq!(image.list("t"), ["a.txt", "b.txt"]);
    assert_eq!(image.list("u"), ["one"]);
    assert_eq!(image.list("v"), ["a.txt", "c.md"]);
}

#[test]
fn names_may_hold_spaces_in_the_json_form() {
    let kit = Kit::new();
    kit.file("with space", "s").dockerfile("FROM scratch\nCOPY [\"with space\", \"/to here\"]\n");
    assert_eq!(kit.image().text("/to here"), "s");
}

#[test]
fn relative_destination_is_beneath_the_workdir() {
    let image = copied("WORKDIR /work\nCOPY a.txt .\nCOPY b.txt sub/\nCOPY c.md ../up");
    assert_eq!(image.list("work"), ["a.txt", "sub", "sub/b.txt"]);
    assert_eq!(image.text("/up"), "c");
}

#[test]
fn context_files_belong_to_root_unless_chown_says_otherwise() {
    let kit = Kit::new();
    tree(&kit);
    std::os::unix::fs::chown(kit.path("a.txt"), Some(77), Some(77)).unwrap();
    kit.dockerfile(
        "FROM fixture/base\nCOPY a.txt /r\nCOPY --chown=app a.txt /n\nCOPY --chown=5:6 a.txt /i\n\
         COPY --chown=7 a.txt /u\nCOPY --chown=app:users dir /new/deep/\n",
    );
    let image = kit.image();
    let owner = |path: &str| (image.entry(path).uid, image.entry(path).gid);
    assert_eq!(owner("/r"), (0, 0));
    assert_eq!(owner("/n"), (1000, 1001));
    assert_eq!(owner("/i"), (5, 6));
    assert_eq!(owner("/u"), (7, 7));
    assert_eq!(owner("/new"), (1000, 100), "directories the copy creates");
    assert_eq!(owner("/new/deep/sub/two"), (1000, 100));
}

#[test]
fn chmod_sets_the_mode() {
    let image = copied("COPY --chmod=0400 a.txt /o\nCOPY --chmod=711 dir /d");
    assert_eq!(image.entry("/o").mode, 0o400);
    assert_eq!(image.entry("/d/sub/two").mode, 0o711);
}

#[test]
fn copy_from_a_stage_keeps_owners_modes_and_times() {
    let image = copied(
        "RUN mkdir /s && echo x > /s/f && chown 12:34 /s/f && chmod 4711 /s/f && touch -d @1000000000 /s/f \
         && ln /s/f /s/hard\nFROM scratch\nCOPY --from=0 /s /s",
    );
    let file = image.entry("/s/f");
    assert_eq!((file.uid, file.gid, file.mode, file.mtime), (12, 34, 0o4711, 1_000_000_000));
    assert!([file.kind, image.entry("/s/hard").kind].contains(&'1'), "still one file of two names");
}

#[test]
fn context_files_keep_their_times() {
    let kit = Kit::new();
    kit.file("f", "x").dockerfile("FROM scratch\nCOPY f /f\n");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(kit.path("f")).unwrap().set_modified(time).unwrap();
    assert_eq!(kit.image().entry("/f").mtime, 1_000_000_000);
}

#[test]
fn copy_from_an_image() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nCOPY --from=fixture/base /etc/passwd /p\n");
    assert!(kit.image().text("/p").starts_with("root:"));
}

#[test]
fn missing_source_is_an_error_with_its_place() {
    let kit = Kit::new();
    tree(&kit);
    kit.dockerfile("FROM fixture/base\nCOPY a.txt  a.text /x/\n");
    kit.build().fails(3).says(&["a.text", "Dockerfile:2:13"]);
}

#[test]
fn link_in_the_destination_is_followed_inside_the_image() {
    let image = copied(
        "RUN mkdir /real && ln -s /real /via && ln -s ../../../../real /up\nCOPY a.txt /via/\nCOPY b.txt /up/b",
    );
    assert_eq!(image.list("real"), ["a.txt", "b"]);
}

#[test]
fn link_in_the_context_cannot_leave_it() {
    let kit = Kit::new();
    crate::kit::write_file(&kit.beside("secret"), b"outside");
    kit.symlink("../secret", "escape").symlink("..", "up");
    for source in ["escape", "up/secret"] {
        kit.dockerfile(&format!("FROM scratch\nCOPY {source} /x\n"));
        let outcome = kit.build().run();
        if outcome.status == Some(0) {
            let image = kit.image();
            assert_ne!(image.find("/x").map(|entry| &entry.content[..]), Some(&b"outside"[..]));
        }
    }
}

#[test]
fn special_files_of_the_context_are_taken_or_refused_but_never_read() {
    let kit = Kit::new();
    kit.file("plain", "p");
    crate::kit::host::tool(&["mkfifo", kit.path("pipe").to_str().unwrap()]);
    kit.dockerfile("FROM scratch\nCOPY . /c\n");
    // Opening the fifo for reading would wait for ever.
    assert_eq!(kit.image().entry("/c/pipe").kind, '6');
}

#[test]
fn parsed_but_unknown_flag_is_refused_by_name() {
    let kit = Kit::new();
    tree(&kit);
    kit.dockerfile("FROM fixture/base\n\n\n\n\n\nCOPY --form=x /a.txt /\n");
    kit.build().fails(3).says(&["--form", "COPY", "Dockerfile:7:6", "--from"]);
}

#[test]
fn unchanged_files_are_one_cached_step() {
    let kit = Kit::new();
    tree(&kit);
    kit.dockerfile("FROM fixture/base\nCOPY dir /dir\n");
    kit.build().ok();
    assert_eq!(kit.build().ok().steps()[0].state, State::Cached);
}

#[test]
fn what_a_copy_takes_that_is_likely_not_meant_is_noticed_once() {
    let kit = Kit::new();
    kit.file("d/file", "x").file("d/empty", "");
    let _socket = std::os::unix::net::UnixListener::bind(kit.path("d/run.sock")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, kit.path("d/pipe"), fifo, mode, 0).unwrap();
    kit.dockerfile("FROM fixture/base\nCOPY --chown=stranger:strangers d /d\n");
    let shown = kit.build_showing("plain").ok();
    let notices = [
        "d/run.sock is a socket: an empty file is copied in place of it",
        "d/pipe is a FIFO: the image gets a FIFO in place of it",
        "the image has no user \"stranger\": the files belong to root",
        "the image has no group \"strangers\": the files belong to root",
    ];
    for notice in notices {
        assert_eq!(shown.text().matches(notice).count(), 1, "{notice}:\n{}", shown.text());
    }
    assert!(!shown.text().contains("d/empty"), "{}", shown.text());
    let again = kit.build_showing("plain").ok();
    assert!(!again.text().contains("is a socket"), "a cached step copies nothing");
}
