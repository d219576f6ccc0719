//! `builder login`, `builder logout`: credentials for registries, kept where docker keeps them.

use super::Environment;
use super::failure::{Class, Failure};
use super::registry;
use crate::job::transfers::failure_of_registry;
use crate::progress::{Mode, Output, Progress};
use crate::registry::{Credentials, Saved};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

/// The longest password read, in bytes.
const PASSWORD_MAX: u64 = 1 << 20;

/// Log in to a registry.
#[derive(Debug, Clone, clap::Args)]
pub struct LoginArgs {
    /// Registry, as host or host:port
    #[arg(default_value = "docker.io", value_name = "REGISTRY")]
    pub registry: String,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or token; seen by all on this machine, so better --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Whom to trust.
    #[command(flatten)]
    pub tls: registry::TlsArgs,
}

/// Log out of a registry.
#[derive(Debug, Clone, clap::Args)]
pub struct LogoutArgs {
    /// Registry, as host or host:port
    #[arg(default_value = "docker.io", value_name = "REGISTRY")]
    pub registry: String,
}

/// Checks credentials with the registry and keeps them.
///
/// # Errors
///
/// The failure to show; nothing is kept then.
pub fn login(args: &LoginArgs, environment: &Environment) -> Result<(), Failure> {
    let host = host(&args.registry)?;
    let user = match &args.username {
        Some(user) if user.contains(':') => {
            return Err(Failure::new(Class::Usage, "a user name has no colon"));
        }
        Some(user) if !user.is_empty() => user.clone(),
        _ if args.password_stdin => {
            return Err(Failure::new(Class::Usage, "--password-stdin needs --username"));
        }
        _ => ask("Username: ")?,
    };
    let password = match &args.password {
        Some(password) => {
            environment.warn("--password is seen by all on this machine; use --password-stdin");
            password.clone()
        }
        None if args.password_stdin => read_password()?,
        None => ask_quietly("Password: ")?,
    };
    if password.is_empty() {
        return Err(Failure::new(Class::Usage, "the password is empty"));
    }
    let progress =
        Progress::new(Mode::Plain, Output::stderr(environment.is_coloured), environment.started);
    let credentials = Credentials::new(&user, &password);
    let client =
        registry::client_with(environment, &host, credentials, args.tls.verifies, &progress)?;
    let result = client.log_in(&host).map_err(failure_of_registry);
    progress.finish();
    result.map_err(|mut failure| {
        failure.hints.clear();
        failure
    })?;
    let saved = registry::keychain(environment)
        .save(&host, &user, &password)
        .map_err(failure_of_registry)?;
    if let Saved::File(path) = saved {
        environment.warn(&format!("the password is kept unencrypted in {}", path.display()));
    }
    environment.print("Login Succeeded\n");
    Ok(())
}

/// Forgets the credentials for a registry.
///
/// # Errors
///
/// The failure to show.
pub fn logout(args: &LogoutArgs, environment: &Environment) -> Result<(), Failure> {
    let host = host(&args.registry)?;
    let had = registry::keychain(environment).erase(&host);
    if had.map_err(failure_of_registry)? {
        environment.print(&format!("Removed the login to {host}\n"));
    } else {
        environment.print(&format!("Not logged in to {host}\n"));
    }
    Ok(())
}

/// Takes the host out of what people write: an address, or what is in docker's files.
fn host(text: &str) -> Result<String, Failure> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let bare = bare.unwrap_or(text).trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    let is_host = !bare.is_empty()
        && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b));
    match bare {
        _ if !is_host => Err(Failure::new(
            Class::Usage,
            format!("{text:?} is not a registry: expected HOST[:PORT]"),
        )),
        "index.docker.io" | "registry-1.docker.io" => Ok("docker.io".to_owned()),
        host => Ok(host.to_owned()),
    }
}

fn unread(error: &io::Error) -> Failure {
    Failure::new(Class::Environment, format!("cannot read the login: {error}"))
}

fn read_password() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text).map_err(|e| unread(&e))?;
    // One newline at the end is the shell's.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn ask(question: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Class::Usage, "there is no terminal to ask for the login")
            .with_hint("give it: builder login -u NAME --password-stdin REGISTRY < FILE"));
    }
    let mut stderr = io::stderr();
    write!(stderr, "{question}").and_then(|()| stderr.flush()).map_err(|e| unread(&e))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|e| unread(&e))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks without showing what is typed.
fn ask_quietly(question: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).ok();
    if let Some(before) = &before {
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(|e| unread(&e.into()))?;
    }
    let answer = ask(question);
    if let Some(before) = &before {
        // The terminal's own state; a failure to restore it has nowhere to go.
        let _ = tcsetattr(&stdin, OptionalActions::Now, before);
        let _ = writeln!(io::stderr());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_hosts_however_they_are_written() {
        for (text, want) in [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("http://127.0.0.1:5000/", Some("127.0.0.1:5000")),
            ("registry.example", Some("registry.example")),
            ("", None),
            ("a b", None),
            ("registry.example/team", None),
        ] {
            assert_eq!(host(text).ok().as_deref(), want, "{text}");
        }
    }
}
