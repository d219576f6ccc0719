//! A build as a trace: one span for the build, one below it for each step.
//!
//! Two forms: Jaeger's, which its UI loads from a file and which `docker buildx history trace`
//! prints, and OTLP's, which collectors read. The ids are hashes of the build's id and time, so one
//! build has the same trace whenever it is asked for.
//!
//! Source: Jaeger, `model/json`; OpenTelemetry, `opentelemetry/proto/trace/v1` in JSON;
//! docker/buildx, `commands/history/trace.go`.

use crate::history::{BuildRecord, Origin, Outcome, StepOutcome, StepRecord};
use serde_json::{Value, json};

/// The service that spans are of.
const SERVICE: &str = "builder";

/// A span, before it has a form.
struct Span {
    id: String,
    parent: Option<String>,
    /// Spans whose files it reads.
    after: Vec<String>,
    name: String,
    start_us: u64,
    length_us: u64,
    facts: Vec<(&'static str, Fact)>,
    error: Option<String>,
}

enum Fact {
    Text(String),
    Number(u64),
    Truth(bool),
}

fn hash(build: &BuildRecord, what: &str, bytes: usize) -> String {
    let text = format!("{} {} {what}", build.id, build.about.started_ms);
    blake3::hash(text.as_bytes()).to_hex()[..2 * bytes].to_owned()
}

fn trace_id(build: &BuildRecord) -> String {
    hash(build, "trace", 16)
}

fn span_id(build: &BuildRecord, step: usize) -> String {
    hash(build, &step.to_string(), 8)
}

fn spans(build: &BuildRecord) -> Vec<Span> {
    let start_us = u64::try_from(build.about.started_ms).unwrap_or(0).saturating_mul(1000);
    let last = build
        .steps
        .iter()
        .map(|step| step.began_us.saturating_add(step.wall_us))
        .max()
        .unwrap_or(0);
    let finished = build.finished_ms.and_then(|ms| u64::try_from(ms).ok());
    let finished = finished.map(|ms| ms.saturating_mul(1000).saturating_sub(start_us));
    let about = &build.about;
    let mut facts: Vec<(&str, Fact)> = vec![
        ("builder.build", Fact::Text(build.id.to_string())),
        ("builder.context", Fact::Text(about.context.clone())),
        ("builder.dockerfile", Fact::Text(about.dockerfile.clone())),
        ("builder.target", Fact::Text(about.target.clone())),
        ("builder.platform", Fact::Text(about.platform.clone())),
    ];
    let known = [
        ("vcs.repository.url.full", &about.repository),
        ("vcs.ref.head.revision", &about.revision),
    ];
    for (name, value) in known {
        if !value.is_empty() {
            facts.push((name, Fact::Text(value.clone())));
        }
    }
    if let Some(image) = &build.image {
        facts.push(("builder.image", Fact::Text(image.to_string())));
    }
    let root = hash(build, "build", 8);
    let mut spans = vec![Span {
        id: root.clone(),
        parent: None,
        after: Vec::new(),
        name: format!("build {}", about.name()),
        start_us,
        length_us: finished.unwrap_or(last),
        facts,
        error: match &build.outcome {
            Outcome::Ok | Outcome::Predicted | Outcome::Running => None,
            Outcome::Failed { message } => Some(message.clone()),
            Outcome::Cancelled => Some("canceled".to_owned()),
            Outcome::Interrupted => Some("killed".to_owned()),
        },
    }];
    let reached =
        build.steps.iter().filter(|step| !matches!(step.outcome, StepOutcome::NotReached));
    spans.extend(reached.map(|step| of_step(build, step, &root, start_us)));
    spans
}

fn of_step(build: &BuildRecord, step: &StepRecord, root: &str, start_us: u64) -> Span {
    let mut facts: Vec<(&str, Fact)> = vec![
        ("builder.step", Fact::Number(step.number as u64 + 1)),
        ("builder.stage", Fact::Text(step.stage.clone())),
        ("builder.instruction", Fact::Text(step.instruction.clone())),
        ("builder.line", Fact::Number(u64::from(step.lines.0))),
        ("builder.cached", Fact::Truth(matches!(step.outcome, StepOutcome::Hit { .. }))),
    ];
    let (cost, exit, error) = match &step.outcome {
        StepOutcome::Ran { cost } => (Some(cost), None, None),
        StepOutcome::Failed { exit, cost } => {
            let error = exit.map_or("failed".to_owned(), |exit| format!("exit status {exit}"));
            (Some(cost), *exit, Some(error))
        }
        StepOutcome::Hit { build, .. } => {
            facts.push(("builder.from_build", Fact::Text(build.clone())));
            (None, None, None)
        }
        _ => (None, None, None),
    };
    if let Some(exit) = exit {
        facts.push(("process.exit.code", Fact::Number(u64::try_from(exit).unwrap_or(0))));
    }
    if let Some(cost) = cost {
        let costs = [
            ("builder.cpu_us", cost.cpu_us),
            ("builder.peak_memory", cost.peak_memory),
            ("builder.io_read", cost.io_read),
            ("builder.io_written", cost.io_written),
            ("builder.layer_bytes", cost.layer_bytes),
        ];
        facts.extend(costs.map(|(name, value)| (name, Fact::Number(value))));
    }
    let origins = std::iter::once(&step.from).chain(&step.reads);
    let mut after: Vec<String> = origins
        .filter_map(|origin| match origin {
            Origin::Step { number } => Some(span_id(build, *number)),
            _ => None,
        })
        .collect();
    after.sort();
    after.dedup();
    Span {
        id: span_id(build, step.number),
        parent: Some(root.to_owned()),
        after,
        name: step.name.clone(),
        start_us: start_us + step.began_us,
        length_us: step.wall_us,
        facts,
        error,
    }
}

/// Returns builds in the form of Jaeger, a trace each.
pub fn jaeger(builds: &[BuildRecord]) -> Value {
    let traces: Vec<Value> = builds
        .iter()
        .map(|build| {
            let trace = trace_id(build);
            let reference = |kind: &str, span: &String| {
                json!({"refType": kind, "traceID": trace, "spanID": span})
            };
            let shown = spans(build).into_iter().map(|span| {
                let mut tags: Vec<Value> = span
                    .facts
                    .iter()
                    .map(|(key, fact)| match fact {
                        Fact::Text(text) => json!({"key": key, "type": "string", "value": text}),
                        Fact::Number(n) => json!({"key": key, "type": "int64", "value": n}),
                        Fact::Truth(is) => json!({"key": key, "type": "bool", "value": is}),
                    })
                    .collect();
                if let Some(error) = &span.error {
                    tags.push(json!({"key": "error", "type": "bool", "value": true}));
                    tags.push(json!({
                        "key": "otel.status_description", "type": "string", "value": error,
                    }));
                }
                let parents = span.parent.iter().map(|parent| reference("CHILD_OF", parent));
                let after = span.after.iter().map(|other| reference("FOLLOWS_FROM", other));
                json!({
                    "traceID": trace,
                    "spanID": span.id,
                    "operationName": span.name,
                    "references": parents.chain(after).collect::<Vec<_>>(),
                    "startTime": span.start_us,
                    "duration": span.length_us,
                    "tags": tags,
                    "logs": [],
                    "processID": "p1",
                    "warnings": null,
                })
            });
            json!({
                "traceID": trace,
                "spans": shown.collect::<Vec<_>>(),
                "processes": {"p1": {"serviceName": SERVICE, "tags": []}},
                "warnings": null,
            })
        })
        .collect();
    json!({ "data": traces })
}

/// Returns builds in the form of OTLP.
pub fn otlp(builds: &[BuildRecord]) -> Value {
    let attribute = |key: &str, fact: &Fact| {
        let value = match fact {
            Fact::Text(text) => json!({ "stringValue": text }),
            // 64-bit numbers are strings in JSON.
            Fact::Number(n) => json!({ "intValue": n.to_string() }),
            Fact::Truth(is) => json!({ "boolValue": is }),
        };
        json!({"key": key, "value": value})
    };
    let all = builds.iter().flat_map(|build| {
        let trace = trace_id(build);
        spans(build).into_iter().map(move |span| {
            let facts = span.facts.iter().map(|(key, fact)| attribute(key, fact));
            let link = |other: &String| json!({"traceId": trace, "spanId": other});
            json!({
                "traceId": trace,
                "spanId": span.id,
                "parentSpanId": span.parent.clone().unwrap_or_default(),
                "name": span.name,
                // SPAN_KIND_INTERNAL.
                "kind": 1,
                "startTimeUnixNano": nanoseconds(span.start_us),
                "endTimeUnixNano": nanoseconds(span.start_us + span.length_us),
                "attributes": facts.collect::<Vec<_>>(),
                "links": span.after.iter().map(link).collect::<Vec<_>>(),
                "status": match &span.error {
                    None => json!({"code": 1}),
                    Some(error) => json!({"code": 2, "message": error}),
                },
            })
        })
    });
    let service = attribute("service.name", &Fact::Text(SERVICE.to_owned()));
    json!({"resourceSpans": [{
        "resource": {"attributes": [service]},
        "scopeSpans": [{
            "scope": {"name": SERVICE, "version": env!("CARGO_PKG_VERSION")},
            "spans": all.collect::<Vec<_>>(),
        }],
    }]})
}

fn nanoseconds(us: u64) -> String {
    us.saturating_mul(1000).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::cache::Cost;

    fn sample() -> BuildRecord {
        let mut first = testing::step(0, "build", "RUN a");
        first.outcome = StepOutcome::Ran { cost: Cost { wall_us: 7, ..Cost::default() } };
        (first.began_us, first.wall_us) = (5, 7);
        let mut second = testing::step(1, "build", "RUN b");
        second.from = Origin::Step { number: 0 };
        second.outcome = StepOutcome::Failed { exit: Some(3), cost: Cost::default() };
        let mut third = testing::step(2, "build", "RUN c");
        third.outcome = StepOutcome::NotReached;
        testing::build(1000, vec![first, second, third])
    }

    #[test]
    fn a_trace_has_a_span_for_the_build_and_for_each_step_that_was_reached() {
        let trace = &jaeger(&[sample()])["data"][0];
        let spans = trace["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 3);
        assert_eq!(
            (&spans[0]["startTime"], &spans[0]["duration"]),
            (&json!(1_000_000), &json!(1000))
        );
        assert_eq!((&spans[1]["startTime"], &spans[1]["duration"]), (&json!(1_000_005), &json!(7)));
        let of = |kind: &str| {
            let all = spans[2]["references"].as_array().unwrap().iter();
            all.filter(|r| r["refType"] == kind).map(|r| r["spanID"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(of("CHILD_OF"), [spans[0]["spanID"].clone()]);
        assert_eq!(of("FOLLOWS_FROM"), [spans[1]["spanID"].clone()]);
        let failed = json!({"key": "error", "type": "bool", "value": true});
        assert!(spans[2]["tags"].as_array().unwrap().contains(&failed));
        assert_eq!(trace["traceID"].as_str().unwrap().len(), 32);
        assert_eq!(jaeger(&[sample()]), jaeger(&[sample()]));
    }

    #[test]
    fn otlp_has_the_same_spans() {
        let document = otlp(&[sample()]);
        let spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        let jaeger = &jaeger(&[sample()])["data"][0]["spans"];
        assert_eq!(spans.len(), 3);
        assert_eq!(spans[1]["spanId"], jaeger[1]["spanID"]);
        assert_eq!(spans[1]["parentSpanId"], spans[0]["spanId"]);
        assert_eq!(spans[1]["startTimeUnixNano"], "1000005000");
        assert_eq!(
            (&spans[2]["status"]["code"], &spans[0]["parentSpanId"]),
            (&json!(2), &json!(""))
        );
    }
}
