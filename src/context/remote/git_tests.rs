use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A repository with two commits and a tag on the first; `None` where there is no git.
fn repository() -> Option<(tempfile::TempDir, Vec<String>)> {
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args([
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.org",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(arguments)
            .current_dir(dir.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .ok()?;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    if git(&["init", "-q"]).is_none() {
        cannot_run_here!("git is not installed");
        return None;
    }
    let mut commits = Vec::new();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/x"), "s").unwrap();
    fs::write(dir.path().join("a"), "1").unwrap();
    fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
    for (file, tag) in [("a", true), ("b", false)] {
        fs::write(dir.path().join(file), file).unwrap();
        git(&["add", "."])?;
        git(&["commit", "-q", "-m", file])?;
        commits.push(git(&["rev-parse", "HEAD"])?);
        if tag {
            git(&["tag", "-a", "v1", "-m", "one"])?;
        }
    }
    Some((dir, commits))
}

/// Checks out and lists the names in the root.
fn check_out(
    repository: &Path,
    change: impl FnOnce(&mut GitUrl),
) -> Result<(String, Vec<String>), RemoteError> {
    let mut url =
        GitUrl { remote: format!("file://{}", repository.display()), ..GitUrl::default() };
    change(&mut url);
    let into = tempfile::tempdir().unwrap();
    let access = Access::default();
    let options = GitOptions {
        keep_git_dir: false,
        sets_commit_time: false,
        into: into.path(),
        access: &access,
        allows_local: true,
    };
    let checkout = url.check_out(&options, &Cancel::new())?;
    let (_, names) = super::super::super::walk::read_names(checkout.root.as_fd(), b"").unwrap();
    let names = names.into_iter().map(|(name, _)| String::from_utf8_lossy(&name).into_owned());
    Ok((checkout.commit, names.collect()))
}

#[test]
fn references_of_every_kind_are_checked_out() {
    let Some((dir, commits)) = repository() else { return };
    let at = |reference: &str| {
        check_out(dir.path(), |url| {
            url.reference = (!reference.is_empty()).then(|| reference.into());
        })
    };
    assert_eq!(
        at("").unwrap(),
        (commits[1].clone(), ["a", "b", "out", "sub"].map(str::to_owned).to_vec())
    );
    for reference in ["v1", "refs/tags/v1", &commits[0], &commits[0][..8]] {
        let (commit, names) = at(reference).unwrap();
        assert_eq!((commit.as_str(), names.len()), (commits[0].as_str(), 3), "{reference}");
    }
    assert_eq!(at("main").unwrap().0, commits[1]);
    assert!(matches!(at("nowhere"), Err(RemoteError::Git { .. })));
}

#[test]
fn directories_metadata_and_checksums_are_as_asked() {
    let Some((dir, commits)) = repository() else { return };
    assert_eq!(check_out(dir.path(), |url| url.subdir = "sub".into()).unwrap().1, ["x"]);
    for subdir in ["none", "a", "out"] {
        let result = check_out(dir.path(), |url| url.subdir = subdir.into());
        assert!(matches!(result, Err(RemoteError::NoSubdir { .. })), "{subdir}: {result:?}");
    }
    let kept = check_out(dir.path(), |url| url.keep_git_dir = Some(true)).unwrap().1;
    assert!(kept.contains(&".git".to_owned()));
    assert!(check_out(dir.path(), |url| url.checksum = Some(commits[1][..12].into())).is_ok());
    let wrong = check_out(dir.path(), |url| url.checksum = Some(commits[0].clone()));
    assert!(matches!(wrong, Err(RemoteError::Commit { .. })));
}
