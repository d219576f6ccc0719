//! The source policies of a build, asked about all that it reads from elsewhere.
//!
//! Images are asked about where they are resolved ([`super::resolve`]); contexts before they are read,
//! sources of ADD before anything runs.

use super::failure::{Class, Failure};
use super::resolve::NamedContext;
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
    match NamedContext::parse(typed) {
        NamedContext::Remote(address) => {
            let next = address_instead(policies, &address, None)?;
            Ok(next.map_or_else(as_typed, |(address, _)| address.text))
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
            let next = address_instead(policies, &address, None)?;
            Ok(NamedContext::Remote(next.map_or(address, |(address, _)| address)))
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
        for source in &mut copy.sources {
            let (CopySource::Url(address) | CopySource::Git(address)) = source else { continue };
            let next = address_instead(policies, address, copy.checksum.as_deref())
                .map_err(|failure| failure.about(&format!("line {lines}")))?;
            if let Some((next, checksum)) = next {
                *address = next;
                if checksum.is_some() {
                    copy.checksum = checksum;
                }
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
    Ok(asked(policies, &source)?.map(|next| next.to_address()))
}

fn asked(policies: &Policies, source: &Source) -> Result<Option<Source>, Failure> {
    policies.apply(source).map_err(|error| Failure::of(Class::Dockerfile, &error))
}
