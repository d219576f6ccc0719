//! What a build for several platforms did for each of them.

use super::report::{Step, Totals, first_broken, totals};
use crate::history::{BuildRecord, StepRecord};
use serde::Serialize;

/// What a build for several platforms did for one of them. A step that several need counts for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfPlatform {
    /// The platform.
    pub platform: String,
    /// How many steps its image needs.
    pub steps: usize,
    /// The number of the first of them that missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_broken: Option<usize>,
    /// What they cost and saved.
    pub totals: Totals,
}

/// Sums up a build for several platforms for each of them; nothing of a build for one.
pub(super) fn each(build: &BuildRecord, steps: &[Step]) -> Vec<OfPlatform> {
    let platforms = build.about.platforms();
    if platforms.len() < 2 {
        return Vec::new();
    }
    let of = |platform: &str| {
        let is_for = |step: &&Step| step.targets.iter().any(|target| target == platform);
        let needed = || steps.iter().filter(is_for);
        OfPlatform {
            platform: platform.to_owned(),
            steps: needed().count(),
            first_broken: first_broken(needed()),
            totals: totals(needed()),
        }
    };
    platforms.into_iter().map(of).collect()
}

/// Says whether a step is for platforms alone that no earlier build was for. Between builds for one
/// platform each that is a difference of the inputs instead.
pub(super) fn are_new<'a>(
    build: &BuildRecord,
    step: &StepRecord,
    mut before: impl Iterator<Item = &'a BuildRecord>,
) -> bool {
    let targets = build.targets_of(step);
    before.all(|earlier| {
        let platforms = earlier.about.platforms();
        let are_several = platforms.len() > 1 || build.about.platforms().len() > 1;
        are_several && targets.iter().all(|target| !platforms.contains(target))
    })
}

#[cfg(test)]
mod tests {
    use super::super::compare::{Cause, NoRecord};
    use super::super::report::{Report, Verdict, explain};
    use super::super::report_tests::{hit, kept, made, output, ran};
    use super::super::testing::build;
    use super::super::text::{Colour, render};
    use crate::history::{BuildRecord, Miss, Origin, StepRecord};

    const A: &str = "linux/amd64";
    const B: &str = "linux/arm64";

    /// A step of both platforms, or of one, behind another step.
    fn step(
        (number, behind): (usize, Option<usize>),
        targets: &[&str],
        line: &str,
        inputs: &[&str],
    ) -> StepRecord {
        let mut step = made(number, line, inputs, number as u8 * 2 + 1, ran(1));
        if number > 0 {
            step.from = behind.map_or(Origin::Scratch, |number| Origin::Step { number });
        }
        step.targets = targets.iter().map(|target| (*target).to_owned()).collect();
        // The stage that builds is native.
        let is_native = line.starts_with("build");
        step.platform = if is_native { A } else { targets[0] }.to_owned();
        let target = targets.last().unwrap();
        let prefix = match is_native && *target != step.platform && targets.len() == 1 {
            true => format!("{}->{}", step.platform, target.trim_start_matches("linux/")),
            false => step.platform.clone(),
        };
        step.name = step.name.replacen('[', &format!("[{prefix} "), 1);
        step
    }

    /// A stage that builds once and compiles for each, and one that is of each.
    fn both(id: i64) -> BuildRecord {
        let make = "build: RUN make $TARGETARCH";
        let copy = "app: COPY app-$TARGETARCH /app";
        let mut build = build(
            id,
            vec![
                step((0, None), &[A, B], "build: RUN fetch", &["argv=fetch"]),
                step((1, Some(0)), &[A], make, &["argv=make", "arg TARGETARCH=amd64"]),
                step((2, Some(0)), &[B], make, &["argv=make", "arg TARGETARCH=arm64"]),
                step((3, None), &[A], copy, &["files app-amd64=tree:1"]),
                step((4, None), &[B], copy, &["files app-arm64=tree:1"]),
                step(
                    (5, Some(3)),
                    &[A],
                    "app: RUN strip /app",
                    &["argv=strip", "platform=linux/amd64"],
                ),
                step(
                    (6, Some(4)),
                    &[B],
                    "app: RUN strip /app",
                    &["argv=strip", "platform=linux/arm64"],
                ),
            ],
        );
        build.about.platform = format!("{A},{B}");
        build
    }

    fn all_hit(mut build: BuildRecord) -> BuildRecord {
        for step in &mut build.steps {
            step.outcome = hit(1);
        }
        build
    }

    fn explained(now: &BuildRecord, before: &[BuildRecord]) -> Report {
        explain(now, before, &kept())
    }

    /// A change in the file of one platform, whose steps have run again.
    fn changed() -> BuildRecord {
        let mut now = all_hit(both(2));
        let copy =
            step((4, None), &[B], "app: COPY app-$TARGETARCH /app", &["files app-arm64=tree:5"]);
        now.steps[4] = StepRecord { output: Some(output(60)), miss: Some(Miss::Key), ..copy };
        now.steps[6].outcome = ran(1);
        now.steps[6].miss = Some(Miss::Parent);
        now.steps[6].parent = Some(super::super::report_tests::chain(61));
        now.steps[6].output = Some(output(62));
        now
    }

    #[test]
    fn a_change_in_the_file_of_one_platform_is_explained_for_that_one_only() {
        let report = explained(&changed(), &[both(1)]);
        for step in &report.steps {
            let is_other = matches!(step.number, 4 | 6);
            assert_eq!(step.result == Verdict::Miss, is_other, "{step:?}");
            assert_eq!(step.causes.is_empty(), !is_other, "{step:?}");
        }
        assert!(matches!(&report.steps[4].causes[..], [Cause::Files { changes: Some(_), .. }]));
        assert!(matches!(report.steps[6].causes[..], [Cause::EarlierStep { number: 4, .. }]));
        let [a, b] = &report.platforms[..] else { panic!("two platforms") };
        assert_eq!((a.platform.as_str(), a.steps, a.first_broken, a.totals.hits), (A, 4, None, 4));
        assert_eq!(
            (b.platform.as_str(), b.steps, b.first_broken, b.totals.hits),
            (B, 4, Some(4), 2)
        );
        let text = render(&report, Colour::Plain);
        for line in [
            "/src/app, Dockerfile, target build, linux/amd64, linux/arm64\n",
            "\n  linux/amd64: all 4 steps cached; the cache saved 4.0 s\n",
            "\n  linux/arm64: 2 of 4 steps ran: 2.0 s; the cache saved 2.0 s\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.contains("[linux/arm64 app 5/9] made other files"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["platforms"][1]["first_broken"], 4);
        assert_eq!(json["steps"][2]["platform"], A);
        assert_eq!(json["steps"][2]["targets"][0], B);
    }

    #[test]
    fn a_platform_that_is_new_is_said_to_be_so() {
        let mut before = both(1).only_for(A).unwrap();
        let mut now = all_hit(both(2));
        for place in [2, 4, 6] {
            now.steps[place].outcome = ran(1);
            now.steps[place].miss = Some(Miss::Key);
        }
        let new = [Cause::NoRecord { reason: NoRecord::NewPlatform }];
        let report = explained(&now, std::slice::from_ref(&before));
        for place in [2, 4, 6] {
            assert_eq!(report.steps[place].causes, new, "{:?}", report.steps[place]);
        }
        assert!(report.steps[0].causes.is_empty());
        // A new step of a platform that was there.
        before.steps.remove(0);
        now.steps[0].outcome = ran(1);
        now.steps[0].miss = Some(Miss::Key);
        let report = explained(&now, &[before]);
        assert_eq!(report.steps[0].causes, [Cause::NoRecord { reason: NoRecord::NewStep }]);
    }

    #[test]
    fn one_platform_of_a_build_is_explained_by_itself() {
        let now = changed();
        assert_eq!(now.clone().only_for("linux/riscv64"), None);
        let report = explained(&now.only_for(B).unwrap(), &[both(1)]);
        let numbers: Vec<usize> = report.steps.iter().map(|step| step.number).collect();
        assert_eq!((numbers, report.platform.as_str()), (vec![0, 2, 4, 6], B));
        assert!(report.platforms.is_empty() && report.first_broken == Some(4));
        assert!(matches!(report.steps[3].causes[..], [Cause::EarlierStep { number: 4, .. }]));
    }
}
