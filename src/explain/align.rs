//! Which step of an earlier build is which step of this one.
//!
//! Numbers do not say: an instruction put in or taken out moves all that follow. So stages are
//! matched by name and their steps aligned like two texts, where equal instructions count most and
//! edited ones by what they have in common. In builds for several platforms that is done for each
//! platform by itself: a step has its counterpart among those that the same platform's image needs.

use crate::history::{BuildRecord, StepRecord};
use std::collections::BTreeMap;

/// Two equal instructions; more than any number of edited ones can make up for.
const EQUAL: u32 = 100_000;

/// Two instructions of the same kind with all words in common.
const ALIKE: u32 = 100;

/// Beyond this many pairs in one stage only equal heads and tails are matched.
const PAIRS_MAX: usize = 1 << 18;

/// Returns for each step of `now` the place of its counterpart in `earlier`.
pub(super) fn counterparts(now: &BuildRecord, earlier: &BuildRecord) -> Vec<Option<usize>> {
    let (here, there) = (now.about.platforms(), earlier.about.platforms());
    let all = |build: &BuildRecord| (0..build.steps.len()).collect::<Vec<_>>();
    // The platform may be another one: that is a difference of the inputs.
    if here.len() <= 1 && there.len() <= 1 {
        return counterparts_of(&now.steps, &all(now), &earlier.steps, &all(earlier));
    }
    let of = |build: &BuildRecord, platform: &str| {
        let is_for = |place: &usize| build.targets_of(&build.steps[*place]).contains(&platform);
        all(build).into_iter().filter(is_for).collect::<Vec<_>>()
    };
    let mut found = vec![None; now.steps.len()];
    for platform in here.iter().filter(|platform| there.contains(platform)) {
        let (left, right) = (of(now, platform), of(earlier, platform));
        let pairs = counterparts_of(&now.steps, &left, &earlier.steps, &right);
        for (found, pair) in found.iter_mut().zip(pairs) {
            *found = found.or(pair);
        }
    }
    // Of a platform that is new, what all platforms had in common has been there before.
    let is_new = |place: &usize| {
        found[*place].is_none()
            && now.targets_of(&now.steps[*place]).iter().all(|target| !there.contains(target))
    };
    let new: Vec<usize> = all(now).into_iter().filter(is_new).collect();
    let is_common = |place: &usize| {
        earlier.targets_of(&earlier.steps[*place]).len() == there.len() && there.len() > 1
    };
    let common: Vec<usize> = all(earlier).into_iter().filter(is_common).collect();
    let pairs = counterparts_of(&now.steps, &new, &earlier.steps, &common);
    for (place, pair) in pairs.into_iter().enumerate() {
        let is_same = |other: &usize| {
            let (here, there) = (&now.steps[place], &earlier.steps[*other]);
            (&here.platform, &here.instruction) == (&there.platform, &there.instruction)
        };
        found[place] = found[place].or(pair.filter(is_same));
    }
    found
}

/// As [`counterparts`], of some steps of each build; those left out have none.
fn counterparts_of(
    now: &[StepRecord],
    now_places: &[usize],
    earlier: &[StepRecord],
    earlier_places: &[usize],
) -> Vec<Option<usize>> {
    let now_stages = by_stage(now, now_places);
    let earlier_stages = by_stage(earlier, earlier_places);
    let mut found = vec![None; now.len()];
    let mut open: Vec<(&str, &[usize])> = Vec::new();
    let mut left: Vec<(&str, &[usize])> = Vec::new();
    for (name, steps) in &now_stages {
        match earlier_stages.get(name) {
            Some(other) if !is_number(name) => align(now, steps, earlier, other, &mut found),
            _ => open.push((name, steps)),
        }
    }
    for (name, steps) in &earlier_stages {
        if is_number(name) || !now_stages.contains_key(name) {
            left.push((name, steps));
        }
    }
    // Stages that got another name, and unnamed ones that may have got another number.
    open.retain(|(_, steps)| match most_alike(now, steps, earlier, &left) {
        Some(place) => {
            align(now, steps, earlier, left.remove(place).1, &mut found);
            false
        }
        None => true,
    });
    for (name, steps) in open {
        if let Some(place) = left.iter().position(|(other, _)| *other == name) {
            align(now, steps, earlier, left.remove(place).1, &mut found);
        }
    }
    found
}

/// Says whether a stage has no name but its number.
fn is_number(stage: &str) -> bool {
    stage.bytes().all(|b| b.is_ascii_digit())
}

fn by_stage<'a>(steps: &'a [StepRecord], places: &[usize]) -> BTreeMap<&'a str, Vec<usize>> {
    let mut stages: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &place in places {
        stages.entry(&steps[place].stage).or_default().push(place);
    }
    stages
}

/// Returns the place in `left` of the stage that shares most instructions with `steps`.
fn most_alike(
    now: &[StepRecord],
    steps: &[usize],
    earlier: &[StepRecord],
    left: &[(&str, &[usize])],
) -> Option<usize> {
    let shared = |other: &[usize]| {
        let texts: Vec<&str> = other.iter().map(|&i| earlier[i].instruction.as_str()).collect();
        steps.iter().filter(|&&i| texts.contains(&now[i].instruction.as_str())).count()
    };
    left.iter()
        .enumerate()
        .map(|(place, (_, other))| (shared(other), place))
        .filter(|(shared, _)| *shared > 0)
        .max_by_key(|&(shared, place)| (shared, std::cmp::Reverse(place)))
        .map(|(_, place)| place)
}

/// Pairs the steps of two stages: in order as far as that goes, then equal ones that were moved.
fn align(
    now: &[StepRecord],
    left: &[usize],
    earlier: &[StepRecord],
    right: &[usize],
    found: &mut [Option<usize>],
) {
    align_in_order(now, left, earlier, right, found);
    let mut unpaired: Vec<usize> = right.to_vec();
    unpaired.retain(|j| left.iter().all(|&i| found[i] != Some(*j)));
    for &i in left {
        if found[i].is_none() {
            let is_equal = |&j: &usize| now[i].instruction == earlier[j].instruction;
            if let Some(place) = unpaired.iter().position(is_equal) {
                found[i] = Some(unpaired.remove(place));
            }
        }
    }
}

fn align_in_order(
    now: &[StepRecord],
    mut left: &[usize],
    earlier: &[StepRecord],
    mut right: &[usize],
    found: &mut [Option<usize>],
) {
    let is_equal = |i: usize, j: usize| now[i].instruction == earlier[j].instruction;
    while let ([i, rest_left @ ..], [j, rest_right @ ..]) = (left, right) {
        if !is_equal(*i, *j) {
            break;
        }
        found[*i] = Some(*j);
        (left, right) = (rest_left, rest_right);
    }
    while let ([rest_left @ .., i], [rest_right @ .., j]) = (left, right) {
        if !is_equal(*i, *j) {
            break;
        }
        found[*i] = Some(*j);
        (left, right) = (rest_left, rest_right);
    }
    if left.len().saturating_mul(right.len()) > PAIRS_MAX {
        return;
    }
    let width = right.len() + 1;
    let score: Vec<u32> = left
        .iter()
        .flat_map(|&i| right.iter().map(move |&j| (i, j)))
        .map(|(i, j)| likeness(&now[i].instruction, &earlier[j].instruction))
        .collect();
    // The best total of all tails.
    let mut best = vec![0u32; (left.len() + 1) * width];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            let here = score[i * right.len() + j];
            let pair = if here == 0 { 0 } else { best[(i + 1) * width + j + 1] + here };
            best[i * width + j] = pair.max(best[(i + 1) * width + j]).max(best[i * width + j + 1]);
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        let here = score[i * right.len() + j];
        if here > 0 && best[i * width + j] == best[(i + 1) * width + j + 1] + here {
            found[left[i]] = Some(right[j]);
            (i, j) = (i + 1, j + 1);
        } else if best[i * width + j] == best[(i + 1) * width + j] {
            i += 1;
        } else {
            j += 1;
        }
    }
}

/// 0 for instructions of two kinds.
fn likeness(now: &str, earlier: &str) -> u32 {
    if now == earlier {
        return EQUAL;
    }
    let (mut now_words, mut earlier_words) = (now.split_whitespace(), earlier.split_whitespace());
    match (now_words.next(), earlier_words.next()) {
        (Some(a), Some(b)) if a.eq_ignore_ascii_case(b) => {}
        _ => return 0,
    }
    let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
    let (mut total, mut common) = (0u32, 0u32);
    for word in now_words {
        *counts.entry(word).or_default() += 1;
        total += 1;
    }
    let mut others = 0u32;
    for word in earlier_words {
        others += 1;
        if let Some(count) = counts.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    1 + common * ALIKE / total.max(others).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{build, step};
    use super::*;

    /// Builds as `stage: INSTRUCTION` lines.
    fn steps(lines: &[&str]) -> Vec<StepRecord> {
        lines
            .iter()
            .enumerate()
            .map(|(number, line)| {
                let (stage, instruction) = line.split_once(": ").unwrap();
                step(number, stage, instruction)
            })
            .collect()
    }

    #[test]
    fn steps_find_their_earlier_selves() {
        type Case = (&'static [&'static str], &'static [&'static str], &'static [Option<usize>]);
        const CASES: &[Case] = &[
            (&["a: RUN x", "a: RUN y"], &["a: RUN x", "a: RUN y"], &[Some(0), Some(1)]),
            // Put in.
            (
                &["a: RUN x", "a: COPY n /", "a: RUN y"],
                &["a: RUN x", "a: RUN y"],
                &[Some(0), None, Some(1)],
            ),
            // Taken out.
            (&["a: RUN y"], &["a: RUN x", "a: RUN y"], &[Some(1)]),
            // Edited.
            (
                &["a: COPY . /", "a: RUN make test"],
                &["a: COPY . /", "a: RUN make"],
                &[Some(0), Some(1)],
            ),
            // Edited with another one put in before: the one that is more alike is it.
            (
                &["a: RUN echo hello", "a: RUN apt-get install gcc make"],
                &["a: RUN apt-get install gcc"],
                &[None, Some(0)],
            ),
            // Another kind of instruction is another step.
            (&["a: COPY x /x"], &["a: RUN x"], &[None]),
            // The same instruction in two stages.
            (&["a: RUN x", "b: RUN x"], &["b: RUN x", "a: RUN x"], &[Some(1), Some(0)]),
            // A stage renamed; an unnamed stage pushed back.
            (&["new: RUN x", "b: RUN z"], &["old: RUN x", "b: RUN z"], &[Some(0), Some(1)]),
            (
                &["0: RUN first", "1: RUN x", "1: RUN y"],
                &["0: RUN x", "0: RUN y"],
                &[None, Some(0), Some(1)],
            ),
            // An unnamed stage whose only step was edited.
            (&["0: RUN x 1"], &["0: RUN x 2"], &[Some(0)]),
            // Swapped.
            (&["a: RUN x", "a: COPY y /"], &["a: COPY y /", "a: RUN x"], &[Some(1), Some(0)]),
        ];
        for (now, earlier, expected) in CASES {
            let (now_build, earlier) = (build(2, steps(now)), build(1, steps(earlier)));
            assert_eq!(counterparts(&now_build, &earlier), *expected, "{now:?}");
        }
    }

    /// A build for platforms, of `stage: INSTRUCTION @TARGET,TARGET` lines.
    fn multi(platforms: &str, lines: &[&str]) -> BuildRecord {
        let targets = lines.iter().map(|line| line.split_once(" @").unwrap().1);
        let lines: Vec<&str> = lines.iter().map(|line| line.split_once(" @").unwrap().0).collect();
        let mut build = build(1, steps(&lines));
        build.about.platform = platforms.to_owned();
        for (step, targets) in build.steps.iter_mut().zip(targets) {
            step.targets = targets.split(',').map(str::to_owned).collect();
            step.platform = "a".to_owned();
        }
        build
    }

    #[test]
    fn steps_find_their_earlier_selves_of_the_same_platform() {
        let both = multi(
            "a,b",
            &["x: COPY . / @a,b", "x: RUN x @a", "x: RUN x @b", "y: COPY f / @a", "y: COPY f / @b"],
        );
        let turned = multi(
            "b,a",
            &["x: COPY . / @b,a", "x: RUN x @b", "x: RUN x @a", "y: COPY f / @b", "y: COPY f / @a"],
        );
        let places = |places: &[usize]| places.iter().map(|place| Some(*place)).collect::<Vec<_>>();
        assert_eq!(counterparts(&both, &both), places(&[0, 1, 2, 3, 4]));
        assert_eq!(counterparts(&both, &turned), places(&[0, 2, 1, 4, 3]));
        // An edited step, and one that is put in for one platform.
        let edited =
            multi("a,b", &["x: COPY . / @a,b", "x: RUN x y @a", "x: RUN x @b", "x: RUN z @b"]);
        assert_eq!(counterparts(&edited, &both), [Some(0), Some(1), Some(2), None]);
        // Before, one platform was built, whose record may not say so of its steps.
        let mut one = multi("b", &["x: COPY . / @b", "x: RUN x @b", "y: COPY f / @b"]);
        assert_eq!(counterparts(&both, &one), [Some(0), None, Some(1), None, Some(2)]);
        for step in &mut one.steps {
            step.targets.clear();
            step.platform.clear();
        }
        assert_eq!(counterparts(&both, &one), [Some(0), None, Some(1), None, Some(2)]);
        assert_eq!(counterparts(&one, &both), places(&[0, 2, 4]));
        // A platform that is new has what all had in common.
        let new = multi("c", &["x: COPY . / @c", "x: RUN x @c", "y: COPY f / @c"]);
        assert_eq!(counterparts(&new, &both), [Some(0), None, None]);
        let new_beside = multi("a,c", &["x: COPY . / @a,c", "x: RUN x @a", "x: COPY . /y @c"]);
        assert_eq!(counterparts(&new_beside, &both), [Some(0), Some(1), None]);
        // One instead of another.
        assert_eq!(counterparts(&new, &one), places(&[0, 1, 2]));
    }
}
