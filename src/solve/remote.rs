//! ADD of what is elsewhere: web addresses and git repositories, brought here and then copied like
//! any other files. What came is identified by its content, so an address alone hits nothing.
//!
//! Steps that name the same source, as those of several platforms, share what was brought here.

use super::Cause;
use super::step_context::StepContext;
use crate::context::remote::{self, GitOptions, HttpOptions, RemoteError, file_name_of};
use crate::context::{SelectOptions, Source};
use crate::copy::Selection;
use crate::dockerfile::address::{Address, AddressError, Login};
use crate::dockerfile::git_url::GitUrl;
use crate::oci::Digest;
use crate::plan::Copy;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What makes two sources the same: the address with its credentials, and what the step says of it.
type SourceName = (String, Vec<String>, Option<String>, Option<bool>);

/// The sources that were brought here for the steps of one build.
#[derive(Debug, Default)]
pub(super) struct Fetched(Mutex<BTreeMap<SourceName, Arc<Mutex<Option<Source>>>>>);

impl Fetched {
    /// Returns a step's source; the first step that wants it brings it, others
    /// wait for that.
    fn once(
        &self,
        copy: &Copy,
        address: &Address,
        fetch: impl FnOnce() -> Result<Source, Cause>,
    ) -> Result<Source, Cause> {
        let login = address.login.as_ref().map(Login::secrets).unwrap_or_default();
        let name = (address.text.clone(), login, copy.checksum.clone(), copy.keep_git_dir);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Arc::clone(all.entry(name).or_default());
        drop(all);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*place {
            return Ok(known.clone());
        }
        let brought = fetch()?;
        *place = Some(brought.clone());
        Ok(brought)
    }
}

/// Fetches a file from a web address, unless the one that is here is still current.
pub(super) fn download(
    context: &StepContext<'_>,
    copy: &Copy,
    address: &Address,
    options: &SelectOptions,
) -> Result<(Source, Selection), Cause> {
    let job = context.job;
    let checksum = copy
        .checksum
        .as_deref()
        .map(|text| {
            text.parse::<Digest>().map_err(|error| {
                let (url, reason) = (address.text.clone(), error.to_string());
                RemoteError::from(AddressError { url, reason })
            })
        })
        .transpose()?;
    let name = file_name_of(&address.text);
    let source = context.shared.fetched.once(copy, address, || {
        let into = job.store.session()?.new_work()?;
        let options_http = HttpOptions {
            file_name: &name,
            access: &job.options.access,
            checksum,
            cache: &job.options.downloads,
            into: &into,
        };
        let file = remote::download(address, &options_http, &mut |_, _| {}, job.cancel)?;
        Ok(Source::dir(&file.dir, None, None)?)
    })?;
    let options = SelectOptions { exact: true, ..options.clone() };
    let selection = source.select(&[name.as_str()], &options, job.cancel)?;
    Ok((source, selection))
}

/// Checks a git repository out.
pub(super) fn clone(
    context: &StepContext<'_>,
    copy: &Copy,
    address: &Address,
    options: &SelectOptions,
) -> Result<(Source, Selection), Cause> {
    let job = context.job;
    let Some(mut url) = GitUrl::parse(&address.text).map_err(RemoteError::from)? else {
        unreachable!("the planner knows a repository by the same rules");
    };
    url.login.clone_from(&address.login);
    if let Some(checksum) = &copy.checksum {
        url.checksum = Some(checksum.clone());
    }
    let source = context.shared.fetched.once(copy, address, || {
        let into = job.store.session()?.new_work()?;
        let options_git = GitOptions {
            sets_commit_time: false,
            keep_git_dir: copy.keep_git_dir.unwrap_or(false),
            into: &into,
            access: &job.options.access,
            allows_local: false,
        };
        Ok(Source::checkout(url.check_out(&options_git, job.cancel)?.root))
    })?;
    let options = SelectOptions { exact: true, ..options.clone() };
    let selection = source.select(&[""], &options, job.cancel)?;
    Ok((source, selection))
}
