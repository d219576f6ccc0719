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

/// Serves one body to requests with an `Authorization` header, 401 to others; compressed where asked.
fn serve_guarded(authorization: &'static str, body: Vec<u8>, headers: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let is_known = authorization.is_empty()
                || head.iter().any(|line| {
                    line.split_once(": ").is_some_and(|(name, value)| {
                        name.eq_ignore_ascii_case("authorization") && value == authorization
                    })
                });
            let (status, body) =
                if is_known { ("200 OK", body.as_slice()) } else { ("401 Unauthorized", &b""[..]) };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    format!("http://{address}")
}

#[test]
fn credentials_of_an_address_reach_the_server_and_nothing_else() {
    let kit = Kit::new();
    // user:pass%40word, in base64.
    let web = serve_guarded("Basic dXNlcjpwYXNzQHdvcmQ=", b"plain".to_vec(), "");
    let address = web.replace("//", "//user:pass%40word@");
    kit.dockerfile(&format!("FROM fixture/base\nADD {address}/f /f\n"));
    let archive = kit.out("i.tar");
    let output = format!("--output=type=oci,dest={},compression=uncompressed", archive.display());
    let outcome = kit.build_showing("plain").args([output]).ok();
    let bytes = std::fs::read(&archive).unwrap();
    let list = kit.builder(["history", "builds", "--format", "json"]).ok().stdout();
    let id = list.split("\"build\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let record = kit.builder(["history", "inspect", id, "--format", "json"]).ok().stdout();
    for text in [outcome.text(), &String::from_utf8_lossy(&bytes), &list, &record] {
        assert!(!text.contains("pass%40word") && !text.contains("pass@word"), "{text}");
    }
    let wrong = web.replace("//", "//user:other-word@");
    kit.dockerfile(&format!("FROM scratch\nADD {wrong}/g /f\nADD {wrong}/g\n"));
    let failed = kit.build().fails(3);
    assert!(!failed.text().contains("other-word"), "{}", failed.text());
    let failed = kit.build_of(format!("{wrong}/Dockerfile").as_ref()).fails(6);
    assert!(!failed.text().contains("other-word"), "{}", failed.text());
}

#[test]
fn secrets_authenticate_downloads_by_host() {
    let kit = Kit::new();
    let web = serve_guarded("Bearer a-token-of-mine", b"plain".to_vec(), "");
    kit.dockerfile(&format!("FROM scratch\nADD {web}/f /f\n"));
    kit.build().fails(6).says(&["401"]);
    let build = kit.build().env("T", "a-token-of-mine");
    let image = build.args(["--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=T"]).image();
    assert_eq!(image.text("f"), "plain");
}

#[test]
fn an_encoded_download_is_decoded_before_it_is_checked() {
    let kit = Kit::new();
    let gzip = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    let web = serve_guarded("", gzip(b"plain"), "Content-Encoding: gzip\r\n");
    let digest = "a116c9a4d33a4bcfa3ab7a5d8cb5d8e5c4d0b27bb94ee8a7b7ad9fdfc8d30b01";
    kit.dockerfile(&format!("FROM scratch\nADD --checksum=sha256:{digest} {web}/f /f\n"));
    let wrong = kit.build().fails(6);
    let said = wrong.text().split("has the digest ").nth(1).unwrap();
    let digest = said.split([',', ' ']).next().unwrap();
    kit.dockerfile(&format!("FROM scratch\nADD --checksum={digest} {web}/f /f\n"));
    assert_eq!(kit.build().image().text("f"), "plain");
    let bomb = serve_guarded("", gzip(&vec![0; 400 << 20]), "Content-Encoding: gzip\r\n");
    kit.dockerfile(&format!("FROM scratch\nADD {bomb}/f /f\n"));
    kit.build().fails(6).says(&["decodes to more than"]);
}

#[test]
fn proxies_of_dockers_configuration_are_build_arguments() {
    let kit = Kit::new();
    let config = kit.beside("docker");
    std::fs::create_dir(&config).unwrap();
    let json = r#"{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"h"}}}"#;
    std::fs::write(config.join("config.json"), json).unwrap();
    kit.dockerfile("FROM fixture/base\nRUN echo $http_proxy $HTTP_PROXY $NO_PROXY > /p\n");
    let build = || kit.build().env("DOCKER_CONFIG", config.as_os_str());
    assert_eq!(build().image().text("p"), "http://p:1 http://p:1 h\n");
    let given = build().args(["--no-cache", "--build-arg", "HTTP_PROXY=http://o:2"]).image();
    assert_eq!(given.text("p"), "http://o:2 http://o:2 h\n");
}
