//! The source policies of a build, asked about all that it reads from elsewhere.
//!
//! Images are asked about where they are resolved ([`super::resolve`]); contexts before they are read,
//! sources of ADD before anything runs.

use super::failure::{Class, Failure};
use super::resolve::NamedContext;
use super::sources;
use crate::dockerfile::address::Address;
use crate::dockerfile::git_url::GitUrl;
use crate::plan::{CopySource, Op, Plan};
use crate::policy::{Policies, Source};

/// Asks about the main context, or a Dockerfile's address, as typed; returns what to read instead.
///
/// # Errors
///
/// A failure where it is denied.
pub(super) fn main_context(policies: &Policies, typed: &str) -> Result<String, Failure> {
    let as_typed = || typed.to_owned();
    if policies.is_empty() || typed == "-" {
        return Ok(as_typed());
    }
    match NamedContext::parse(&sources::github(typed)) {
        NamedContext::Remote(address) => {
            let next = context_instead(policies, &address)?;
            Ok(next.map_or_else(as_typed, |address| address.text))
        }
        _ => asked(policies, &Source::local("context")).map(|_| as_typed()),
    }
}

/// Asks about the Dockerfile, where it is an address; returns what to read instead.
///
/// # Errors
///
/// A failure where it is denied.
pub(super) fn dockerfile(policies: &Policies, typed: &str) -> Result<String, Failure> {
    match typed.contains("://") {
        true => main_context(policies, typed),
        false => Ok(typed.to_owned()),
    }
}

/// A failure for a policy in Rego beside the Dockerfile.
pub(super) fn not_evaluated(name: &str) -> Failure {
    let message =
        format!("{name} is a build policy in Rego, which is not evaluated: nothing is built");
    Failure::new(Class::Usage, message)
        .with_hint("use rules in JSON: builder build --source-policy-file FILE")
        .with_hint("or build without the policy: builder build --policy disabled=true")
}

/// Asks about a context that has a name; returns what to use instead.
///
/// # Errors
///
/// A failure where it is denied.
pub(super) fn named_context(
    policies: &Policies,
    name: &str,
    context: NamedContext,
) -> Result<NamedContext, Failure> {
    match context {
        NamedContext::Remote(address) => {
            let next = context_instead(policies, &address)?;
            Ok(NamedContext::Remote(next.unwrap_or(address)))
        }
        NamedContext::Dir(dir) => {
            asked(policies, &Source::local(name))?;
            Ok(NamedContext::Dir(dir))
        }
        // The resolver asks about images; a layout is a directory.
        NamedContext::Image(_) => Ok(context),
        NamedContext::Layout(_) => asked(policies, &Source::local(name)).map(|_| context),
    }
}

/// Asks about the addresses that ADD reads, and replaces them.
///
/// # Errors
///
/// A failure where one is denied.
pub(super) fn plan(policies: &Policies, plan: &mut Plan) -> Result<(), Failure> {
    if policies.is_empty() {
        return Ok(());
    }
    for step in &mut plan.steps {
        let lines = step.lines.0;
        let Op::Copy(copy) = &mut step.op else { continue };
        let is_one = copy.sources.len() == 1;
        for source in &mut copy.sources {
            let (CopySource::Url(address) | CopySource::Git(address)) = source else { continue };
            let next = address_instead(policies, address, copy.checksum.as_deref())
                .map_err(|failure| failure.about(&format!("line {lines}")))?;
            if let Some((next, checksum)) = next {
                if checksum.is_some() && checksum != copy.checksum {
                    if !is_one {
                        return Err(unfit(address, "http.checksum is for an ADD of one source"));
                    }
                    copy.checksum = checksum;
                }
                *address = next;
            }
        }
    }
    Ok(())
}

/// Asks about an address; returns another one, and the digest that what is there has to have.
fn address_instead(
    policies: &Policies,
    address: &Address,
    checksum: Option<&str>,
) -> Result<Option<(Address, Option<String>)>, Failure> {
    // An address that git cannot be given fails where it is fetched.
    let source = match GitUrl::parse(&address.text) {
        Ok(Some(url)) => Source::git(&url),
        _ => Source::download(address, checksum),
    };
    let Some(next) = asked(policies, &source)? else { return Ok(None) };
    let (next, checksum) = next.to_address();
    let is_git = |address: &Address| !matches!(GitUrl::parse(&address.text), Ok(None));
    if is_git(address) != is_git(&next) {
        return Err(unfit(address, "a repository and a download cannot stand for each other"));
    }
    // It may hold the commit that the repository must have.
    if is_git(address) && address.text.contains('?') {
        return Err(unfit(address, "its query would be lost"));
    }
    Ok(Some((next, checksum)))
}

/// As [`address_instead`], for a context, of which no digest is compared.
fn context_instead(policies: &Policies, address: &Address) -> Result<Option<Address>, Failure> {
    match address_instead(policies, address, None)? {
        Some((_, Some(_))) => Err(unfit(address, "http.checksum is for ADD, not for contexts")),
        next => Ok(next.map(|(address, _)| address)),
    }
}

fn unfit(address: &Address, what: &str) -> Failure {
    let message = format!("a policy cannot replace {}: {what}", address.text);
    Failure::new(Class::Dockerfile, message)
}

fn asked(policies: &Policies, source: &Source) -> Result<Option<Source>, Failure> {
    policies.apply(source).map_err(|error| Failure::of(Class::Dockerfile, &error))
}
