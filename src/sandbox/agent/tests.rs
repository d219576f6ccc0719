use super::*;
use std::os::fd::AsFd as _;
use std::process::Command;

fn complaints_of(complaints: &Complaints) -> Vec<String> {
    complaints.lock().unwrap().clone()
}

#[test]
fn listing_and_signing_pass_and_all_else_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (agent_path, our_path) = (dir.path().join("agent"), dir.path().join("ours"));
    let agent = UnixListener::bind(&agent_path).unwrap();
    let ours = UnixListener::bind(&our_path).unwrap();
    let (stop, other_end) = super::super::protocol::pair().unwrap();
    let forwarded = Agent::Socket(agent_path);
    let complaints = Complaints::default();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(ours.into(), &forwarded, &stop, &complaints));
        scope.spawn(|| {
            let (mut stream, _) = agent.accept().unwrap();
            while let Some(mut request) = read_message(&mut stream).unwrap() {
                request.push(b'!');
                write_message(&mut stream, &request).unwrap();
            }
        });
        let mut client = UnixStream::connect(&our_path).unwrap();
        for (request, answer) in [
            (vec![REQUEST_IDENTITIES], vec![REQUEST_IDENTITIES, b'!']),
            (vec![17, 1, 2], vec![FAILURE]),
            (vec![SIGN_REQUEST, 7], vec![SIGN_REQUEST, 7, b'!']),
            (Vec::new(), vec![FAILURE]),
        ] {
            write_message(&mut client, &request).unwrap();
            assert_eq!(read_message(&mut client).unwrap(), Some(answer));
        }
        drop(client);
        assert!(other_end.as_fd().try_clone_to_owned().is_ok());
        drop(other_end);
    });
    assert!(complaints_of(&complaints).is_empty());
}

#[test]
fn a_request_to_an_agent_that_never_answers_fails() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    // It accepts connections, as the kernel does for any listener, and reads nothing.
    let _silent = UnixListener::bind(&path).unwrap();
    let complaints = Complaints::default();
    let limits = [Duration::from_millis(20); 2];
    let mut upstream = Upstream { path: &path, limits, stream: None, complaints: &complaints };
    assert_eq!(upstream.ask(&[REQUEST_IDENTITIES]), None);
    assert!(upstream.stream.is_none(), "a late answer is not taken for the next one");
    assert!(complaints_of(&complaints)[0].contains("did not answer within"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(upstream.ask(&[SIGN_REQUEST]), None);
    assert!(complaints_of(&complaints)[1].contains("does not answer"));
}

/// Makes a key with a tool; `None` if the tool is not here.
fn made(program: &str, args: &[&str], file: &Path) -> Option<Vec<u8>> {
    let output = Command::new(program).args(args).output().ok()?;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(file).unwrap())
}

#[test]
fn keys_of_every_kind_and_format_list_and_sign_as_openssh_expects() {
    let dir = tempfile::tempdir().unwrap();
    let kinds: [(&str, &[&str]); 11] = [
        ("ssh-keygen", &["-t", "ed25519"]),
        ("ssh-keygen", &["-t", "rsa", "-b", "2048"]),
        ("ssh-keygen", &["-t", "ecdsa", "-b", "256"]),
        ("ssh-keygen", &["-t", "ecdsa", "-b", "384"]),
        ("ssh-keygen", &["-t", "ecdsa", "-b", "521"]),
        ("ssh-keygen", &["-t", "rsa", "-b", "3072", "-m", "PEM"]),
        ("ssh-keygen", &["-t", "ecdsa", "-b", "384", "-m", "PEM"]),
        ("ssh-keygen", &["-t", "ecdsa", "-b", "521", "-m", "PKCS8"]),
        ("ssh-keygen", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
        ("openssl", &["genpkey", "-algorithm", "ed25519"]),
        ("openssl", &["ecparam", "-genkey", "-name", "prime256v1"]),
    ];
    for (number, (program, args)) in kinds.into_iter().enumerate() {
        let path = dir.path().join(format!("key{number}"));
        let name = path.to_str().unwrap();
        let rest: &[&str] = match program {
            "ssh-keygen" => &["-q", "-N", "", "-C", "me@host", "-f", name],
            _ => &["-out", name],
        };
        let Some(file) = made(program, &[args, rest].concat(), &path) else { continue };
        let mut keyring = Keyring::default();
        keyring.add(&file).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        let listed = keyring.answer(&[REQUEST_IDENTITIES]).unwrap();
        assert_eq!(listed[..5], [IDENTITIES_ANSWER, 0, 0, 0, 1]);
        let public = Wire(&listed[5..]).string().unwrap();
        for flags in [2, 4_u32] {
            let mut request = vec![SIGN_REQUEST];
            request.extend(joined(&[public, b"what is signed"]));
            request.extend(flags.to_be_bytes());
            let answer = keyring.answer(&request).unwrap();
            let signature = Wire(&answer[1..]).string().unwrap();
            check(dir.path(), public, signature, b"what is signed");
        }
        if public.starts_with(b"\0\0\0\x07ssh-rsa") {
            let mut request = vec![SIGN_REQUEST];
            request.extend([joined(&[public, b"x"]), vec![0; 4]].concat());
            assert_eq!(keyring.answer(&request), None, "SHA-1 is not offered");
        }
    }
}

/// Verifies a signature with the public half alone.
fn check(_dir: &Path, public: &[u8], signature: &[u8], data: &[u8]) {
    use ring::signature as verify;
    let (mut key, mut signature) = (Wire(public), Wire(signature));
    let _kind = key.string().unwrap();
    let name = signature.string().unwrap();
    let body = signature.string().unwrap();
    let halves = |width: usize| {
        let mut wire = Wire(body);
        let mut half = || {
            let digits = wire.string().unwrap();
            let digits = digits.strip_prefix(&[0]).unwrap_or(digits);
            [&vec![0; width - digits.len()], digits].concat()
        };
        [half(), half()].concat()
    };
    let verified = match name {
        b"ssh-ed25519" => verify::UnparsedPublicKey::new(&verify::ED25519, key.string().unwrap())
            .verify(data, body),
        b"rsa-sha2-256" | b"rsa-sha2-512" => {
            let (e, n) = (key.string().unwrap(), key.string().unwrap());
            let parts = ring::rsa::PublicKeyComponents { n: &n[1..], e };
            let algorithm = match name {
                b"rsa-sha2-256" => &verify::RSA_PKCS1_2048_8192_SHA256,
                _ => &verify::RSA_PKCS1_2048_8192_SHA512,
            };
            parts.verify(algorithm, data, body)
        }
        name => {
            let (_curve, point) = (key.string().unwrap(), key.string().unwrap());
            match name {
                b"ecdsa-sha2-nistp256" => {
                    verify::UnparsedPublicKey::new(&verify::ECDSA_P256_SHA256_FIXED, point)
                        .verify(data, &halves(32))
                }
                b"ecdsa-sha2-nistp384" => {
                    verify::UnparsedPublicKey::new(&verify::ECDSA_P384_SHA384_FIXED, point)
                        .verify(data, &halves(48))
                }
                _ => {
                    use p521::ecdsa::signature::Verifier as _;
                    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point).unwrap();
                    let signature = p521::ecdsa::Signature::from_slice(&halves(66)).unwrap();
                    key.verify(data, &signature).map_err(|_| ring::error::Unspecified)
                }
            }
        }
    };
    assert!(verified.is_ok(), "{}", String::from_utf8_lossy(name));
}

#[test]
fn files_that_hold_no_usable_key_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let reason = |file: &[u8]| Keyring::default().add(file).unwrap_err();
    assert_eq!(reason(b"key"), KeyError::NotAKey);
    assert_eq!(reason(b""), KeyError::NotAKey);
    assert_eq!(reason(b"ssh-ed25519 AAAA me"), KeyError::Public);
    assert_eq!(
        reason(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
        KeyError::Public
    );
    let block = |label: &str, body: &str| {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
    };
    for label in ["OPENSSH PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"] {
        for body in ["", "AAAA", "MIIB", "****", "MAMCAQA=", "MIQAAAAAAgEA"] {
            assert_eq!(reason(&block(label, body)), KeyError::Malformed, "{label} {body}");
        }
    }
    let old = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA";
    assert_eq!(reason(&block("RSA PRIVATE KEY", old)), KeyError::Encrypted);
    assert_eq!(reason(&block("ENCRYPTED PRIVATE KEY", "AAAA")), KeyError::Encrypted);
    assert!(matches!(reason(&block("DSA PRIVATE KEY", "AAAA")), KeyError::Unsupported(_)));
    let mut number = 0;
    let mut keygen = |args: &[&str]| {
        number += 1;
        let path = dir.path().join(number.to_string());
        let rest = ["-q", "-f", path.to_str().unwrap()];
        made("ssh-keygen", &[args, &rest].concat(), &path)
    };
    if let Some(file) = keygen(&["-t", "ed25519", "-N", "secret"]) {
        assert_eq!(reason(&file), KeyError::Encrypted);
    }
    if let Some(file) = keygen(&["-t", "rsa", "-b", "1024", "-N", ""]) {
        assert_eq!(reason(&file), KeyError::RsaSize(1024));
    }
}
