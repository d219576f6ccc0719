//! Where a build's files come from: standard input, tars, web addresses.

use crate::kit::Kit;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Command;

/// What every context here holds besides its Dockerfile.
const FILE: &str = "of the context\n";

/// A Dockerfile that copies it.
const DOCKERFILE: &str = "FROM scratch\nCOPY f /copied\n";

/// A tar of a context with `DOCKERFILE` under `name`, made with `flags` of tar.
fn tar(kit: &Kit, name: &str, flags: &str) -> Vec<u8> {
    kit.file("f", FILE).file(name, DOCKERFILE);
    let output = Command::new("tar").arg("-C").arg(kit.path("")).args([flags, "-", "."]).output();
    let output = output.unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Serves some files over HTTP on the loopback interface until the test ends; returns the address.
fn serve(files: BTreeMap<&'static str, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let path = first.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match files.get(path) {
                Some(body) => ("200 OK", body.as_slice()),
                None => ("404 Not Found", &b""[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // A client that has what it wants may go.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    format!("http://{address}")
}

#[test]
fn standard_input_is_a_dockerfile_or_a_tar() {
    let kit = Kit::new();
    let from = |input: Vec<u8>| kit.build_of("-".as_ref()).input(input);
    let image = from(b"FROM scratch\nCOPY <<EOF /made\nhere\nEOF\n".to_vec()).image();
    assert_eq!(image.text("made"), "here\n");
    for flags in ["-cf", "-czf", "-cJf"] {
        let image = from(tar(&kit, "Dockerfile", flags)).image();
        assert_eq!(image.text("copied"), FILE, "tar {flags}");
    }
    let image = from(tar(&kit, "sub/Other", "-cf")).args(["-f", "sub/Other"]).image();
    assert_eq!(image.text("copied"), FILE);
    from(DOCKERFILE.as_bytes().to_vec()).args(["-f", "-"]).fails(2);
}

#[test]
fn an_address_is_a_tar_or_a_dockerfile() {
    let kit = Kit::new();
    let web = serve(BTreeMap::from([
        ("/context.tgz", tar(&kit, "Dockerfile", "-czf")),
        ("/Dockerfile", b"FROM scratch\nCOPY <<EOF /made\nhere\nEOF\n".to_vec()),
    ]));
    let from = |path: &str| kit.build_of(format!("{web}/{path}").as_ref());
    assert_eq!(from("context.tgz").image().text("copied"), FILE);
    assert_eq!(from("Dockerfile").image().text("made"), "here\n");
    from("nothing").fails(6).says(&["404"]);
}

#[test]
fn a_named_address_is_one_file_whatever_it_is() {
    let kit = Kit::new();
    let web = serve(BTreeMap::from([("/context.tgz", tar(&kit, "Dockerfile", "-czf"))]));
    kit.dockerfile("FROM scratch\nCOPY --from=it . /it/\n");
    let image = kit.build().arg(format!("--build-context=it={web}/context.tgz")).image();
    assert_eq!(image.list("it"), ["context"]);
    let entry = image.entry("it/context");
    assert_eq!((entry.mode, &entry.content[..2]), (0o600, &b"\x1f\x8b"[..]));
}

#[test]
fn a_fetched_context_without_a_dockerfile_is_named() {
    let kit = Kit::new();
    let web = serve(BTreeMap::from([("/c.tgz", tar(&kit, "Other", "-czf"))]));
    let address = format!("{web}/c.tgz");
    kit.build_of(address.as_ref()).fails(3).says(&["Dockerfile", &address]);
}

#[test]
fn what_add_downloads_is_checked_and_unpacked_where_asked() {
    let kit = Kit::new();
    let web = serve(BTreeMap::from([
        ("/context.tgz", tar(&kit, "Dockerfile", "-czf")),
        ("/plain", b"plain".to_vec()),
    ]));
    let dockerfile = |line: &str| {
        kit.dockerfile(&format!("FROM scratch\n{}\n", line.replace("WEB", &web)));
        kit.build()
    };
    let image = dockerfile("ADD --unpack WEB/context.tgz /u/").image();
    assert_eq!(image.text("u/f"), FILE);
    assert!(dockerfile("ADD WEB/context.tgz /u/").image().find("u/context.tgz").is_some());
    let other = "0".repeat(64);
    let wrong = dockerfile(&format!("ADD --checksum=sha256:{other} WEB/plain /p")).fails(6);
    wrong.says(&["has the digest sha256:"]);
    let said = wrong.text().split("has the digest ").nth(1).unwrap();
    let digest = said.split([',', ' ']).next().unwrap();
    let image = dockerfile(&format!("ADD --checksum={digest} WEB/plain /p")).image();
    let entry = image.entry("p");
    assert_eq!(
        (image.text("p").as_str(), entry.mode, entry.mtime),
        ("plain", 0o600, 1_577_836_800)
    );
}
