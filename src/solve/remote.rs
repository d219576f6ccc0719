//! ADD of what is elsewhere: web addresses and git repositories, brought here and then copied like
//! any other files. What came is identified by its content, so an address alone hits nothing.

use super::{Cause, Job};
use crate::context::remote::{self, GitOptions, HttpOptions, RemoteError, file_name_of};
use crate::context::{SelectOptions, Source};
use crate::copy::Selection;
use crate::dockerfile::address::{Address, AddressError};
use crate::dockerfile::git_url::GitUrl;
use crate::oci::Digest;
use crate::plan::Copy;

/// Fetches a file from a web address, unless the one that is here is still current.
pub(super) fn download(
    job: &Job<'_>,
    copy: &Copy,
    address: &Address,
    options: &SelectOptions,
) -> Result<(Source, Selection), Cause> {
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
    let into = job.store.session()?.new_work()?;
    let name = file_name_of(&address.text);
    let options_http = HttpOptions {
        file_name: &name,
        access: &job.options.access,
        checksum,
        cache: &job.options.downloads,
        into: &into,
    };
    let file = remote::download(address, &options_http, &mut |_, _| {}, job.cancel)?;
    let source = Source::dir(&file.dir, None, None)?;
    let options = SelectOptions { exact: true, ..options.clone() };
    let selection = source.select(&[file.name.as_str()], &options, job.cancel)?;
    Ok((source, selection))
}

/// Checks a git repository out.
pub(super) fn clone(
    job: &Job<'_>,
    copy: &Copy,
    address: &Address,
    options: &SelectOptions,
) -> Result<(Source, Selection), Cause> {
    let Some(mut url) = GitUrl::parse(&address.text).map_err(RemoteError::from)? else {
        unreachable!("the planner knows a repository by the same rules");
    };
    url.login.clone_from(&address.login);
    if let Some(checksum) = &copy.checksum {
        url.checksum = Some(checksum.clone());
    }
    let into = job.store.session()?.new_work()?;
    let options_git = GitOptions {
        sets_commit_time: false,
        keep_git_dir: copy.keep_git_dir.unwrap_or(false),
        into: &into,
        access: &job.options.access,
        allows_local: false,
    };
    let checkout = url.check_out(&options_git, job.cancel)?;
    let source = Source::checkout(checkout.root);
    let options = SelectOptions { exact: true, ..options.clone() };
    let selection = source.select(&[""], &options, job.cancel)?;
    Ok((source, selection))
}
