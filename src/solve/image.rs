//! The image of a target: its plan's configuration, its layers, and times for its history.

use super::{Job, Solved};
use crate::image::{Image, ImageLayer};
use crate::oci::Digest;
use crate::plan::{Files, Target};
use jiff::Timestamp;

/// The time of an image in which nothing has a time: no step of it ever ran.
const NO_TIME: i64 = 0;

/// Puts the images of the targets together, in the order of [`Plan::targets`].
///
/// [`Plan::targets`]: crate::plan::Plan::targets
pub fn images_of(job: &Job<'_>, solved: &Solved) -> Vec<Image> {
    job.plan.targets.iter().map(|target| image_of(job, solved, target)).collect()
}

/// Puts the image of one target together.
///
/// Times are those of the records, not of this moment, so a build that ran nothing gives the same
/// image again. `SOURCE_DATE_EPOCH` replaces those of this build's instructions.
///
/// Source for the times of entries without a layer: BuildKit, `normalizeLayersAndHistory`.
fn image_of(job: &Job<'_>, solved: &Solved, target: &Target) -> Image {
    let mut layers: Vec<ImageLayer> = match job.plan.bottom(target.files) {
        Files::Base(base) => job.images[job.plan.bases[base.0].image].layers.clone(),
        _ => Vec::new(),
    };
    layers.extend(solved.layers_of(job.plan, target).into_iter().map(|layer| ImageLayer {
        diff_id: layer.meta.tar.map(|tar| tar.diff_id),
        layer: layer.clone(),
        descriptor: None,
    }));

    let epoch = job.options.epoch;
    let mut config = target.config.clone();
    let history = config.history();
    let inherited = history.len() - target.made_by.len();
    let known: Vec<Option<String>> = history
        .into_iter()
        .enumerate()
        .map(|(index, entry)| match (index.checked_sub(inherited), epoch) {
            (None, _) => entry.created,
            (Some(_), Some(epoch)) => Some(rfc3339(epoch)),
            (Some(new), None) => {
                target.made_by[new].and_then(|step| solved.steps[step.0].created).map(rfc3339)
            }
        })
        .collect();
    let (times, last) = fill(&known);
    let created = match (epoch, last) {
        (Some(epoch), _) => rfc3339(epoch),
        (None, Some(last)) => last,
        (None, None) => rfc3339(NO_TIME),
    };
    let times: Vec<String> =
        times.into_iter().map(|time| time.unwrap_or_else(|| created.clone())).collect();
    config.set_history_times(&times);
    config.set_created(&created);
    let diff_ids: Vec<Digest> = layers.iter().filter_map(|layer| layer.diff_id).collect();
    config.set_diff_ids(&diff_ids);
    config.reconcile_history(layers.len());
    Image { config, layers, manifest: None }
}

/// Gives entries without a time that of the first new one, or of the one before; returns the last.
fn fill(known: &[Option<String>]) -> (Vec<Option<String>>, Option<String>) {
    let first_gap = known.iter().position(Option::is_none).unwrap_or(known.len());
    let after = known[first_gap..].iter().flatten().next();
    let before = known[..first_gap].iter().flatten().next_back();
    let mut current = after.or(before).cloned();
    let mut filled = Vec::with_capacity(known.len());
    for (index, time) in known.iter().enumerate() {
        if let Some(time) = time {
            if index > first_gap {
                current = Some(time.clone());
            }
            filled.push(Some(time.clone()));
        } else {
            filled.push(current.clone());
        }
    }
    let last = filled.iter().flatten().next_back().cloned();
    (filled, last)
}

/// Prints seconds since 1970 as `2026-01-01T00:00:00Z`.
fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_a_layer_take_the_time_of_one_near_them() {
        let some = |text: &str| Some(text.to_owned());
        for (known, want) in [
            (vec![some("base"), None, some("a"), None], ["base", "a", "a", "a"].to_vec()),
            (vec![some("base"), None], ["base", "base"].to_vec()),
            (vec![some("a"), None, some("b"), None], ["a", "b", "b", "b"].to_vec()),
            (vec![some("b1"), some("b2"), None], ["b1", "b2", "b2"].to_vec()),
        ] {
            let (filled, last) = fill(&known);
            let filled: Vec<_> = filled.into_iter().flatten().collect();
            assert_eq!(filled, want);
            assert_eq!(last.as_deref(), want.last().copied());
        }
    }

    #[test]
    fn times_are_printed_as_docker_prints_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_600), "2026-01-01T00:00:00Z");
    }
}
