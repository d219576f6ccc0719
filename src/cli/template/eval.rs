//! A tree and data become text.

use super::functions::{self, Mode};
use super::parse::{Base, Command, Node, Operand, Pipeline, Target};
use super::value::{Kind, Value};
use super::{Mistake, NODE_COST, TEXT_MAX, WORK_MAX, print};
use crate::dockerfile::ast::Span;

/// Returns the text that `nodes` make of `data`.
pub(super) fn render(nodes: &[Node], data: &Value, mode: Mode) -> Result<String, Mistake> {
    let mut run = Run { out: String::new(), work: 0, root: data, variables: Vec::new(), mode };
    run.list(nodes, data)?;
    Ok(run.out)
}

/// Whether a list was left before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'d> {
    out: String,
    work: u64,
    root: &'d Value,
    /// The variables there are, the innermost last.
    variables: Vec<(String, Value)>,
    mode: Mode,
}

impl Run<'_> {
    fn charge(&mut self, work: u64, span: Span) -> Result<(), Mistake> {
        self.work = self.work.saturating_add(work);
        match self.work > WORK_MAX {
            true => {
                Err(Mistake::new(span, "it takes too much work: loops in loops, or long texts"))
            }
            false => Ok(()),
        }
    }

    fn write(&mut self, text: &str, span: Span) -> Result<(), Mistake> {
        if self.out.len() + text.len() > TEXT_MAX {
            let message = format!("its output is longer than {} MiB", TEXT_MAX >> 20);
            return Err(Mistake::new(span, message));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Mistake> {
        let known = self.variables.len();
        let mut flow = Flow::Next;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::Next {
                break;
            }
        }
        self.variables.truncate(known);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Mistake> {
        match node {
            Node::Text(text) => {
                self.charge(NODE_COST + text.len() as u64, Span::default())?;
                self.write(text, Span::default())?;
                Ok(Flow::Next)
            }
            Node::Break => Ok(Flow::Break),
            Node::Continue => Ok(Flow::Continue),
            Node::Show(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.target.is_none() {
                    let text = match &value {
                        Value::Nil => "<no value>".to_owned(),
                        value => print::plain(value, TEXT_MAX)
                            .map_err(|message| Mistake::new(pipeline.span, message))?,
                    };
                    self.charge(text.len() as u64, pipeline.span)?;
                    self.write(&text, pipeline.span)?;
                }
                Ok(Flow::Next)
            }
            Node::If { condition, then, otherwise } => {
                let known = self.variables.len();
                let is_true = self.pipeline(condition, dot)?.is_true();
                let flow = self.list(if is_true { then } else { otherwise }, dot);
                self.variables.truncate(known);
                flow
            }
            Node::With { subject, then, otherwise } => {
                let known = self.variables.len();
                let value = self.pipeline(subject, dot)?;
                let flow = match value.is_true() {
                    true => self.list(then, &value),
                    false => self.list(otherwise, dot),
                };
                self.variables.truncate(known);
                flow
            }
            Node::Range { key, value, over, body, otherwise } => {
                let known = self.variables.len();
                let items = self.pipeline(over, dot)?;
                let flow = self.range((key.as_ref(), value.as_ref()), &items, over.span, body);
                let flow = match flow? {
                    0 => self.list(otherwise, dot),
                    _ => Ok(Flow::Next),
                };
                self.variables.truncate(known);
                flow
            }
        }
    }

    /// Runs the body for each item; returns how often.
    fn range(
        &mut self,
        targets: (Option<&Target>, Option<&Target>),
        items: &Value,
        span: Span,
        body: &[Node],
    ) -> Result<u64, Mistake> {
        let mut count = 0;
        let mut each = |run: &mut Self, key: Value, value: Value| -> Result<bool, Mistake> {
            count += 1;
            run.charge(NODE_COST, span)?;
            let known = run.variables.len();
            for (target, value) in [(targets.0, key), (targets.1, value.clone())] {
                if let Some(target) = target {
                    run.set(target, value);
                }
            }
            let flow = run.list(body, &value)?;
            run.variables.truncate(known);
            Ok(flow != Flow::Break)
        };
        match items {
            Value::Nil | Value::Unset(Kind::List | Kind::Map) => {}
            Value::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    if !each(self, Value::Int(index as i128), item.clone())? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, item) in map.iter() {
                    if !each(self, Value::text(key.as_str()), item.clone())? {
                        break;
                    }
                }
            }
            Value::Int(end) => {
                for number in 0..*end {
                    if !each(self, Value::Int(number), Value::Int(number))? {
                        break;
                    }
                }
            }
            other => {
                let message = format!("cannot range over {}", other.kind());
                return Err(Mistake::new(span, message));
            }
        }
        Ok(count)
    }

    fn set(&mut self, target: &Target, value: Value) {
        let place = self.variables.iter_mut().rev().find(|(name, _)| *name == target.name);
        match place {
            Some((_, old)) if !target.is_new => *old = value,
            _ => self.variables.push((target.name.clone(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Mistake> {
        let mut passed: Option<Value> = None;
        for command in &pipeline.commands {
            passed = Some(match command {
                Command::Value(operand) => self.operand(operand, dot)?,
                Command::Call { function, arguments, span } => {
                    self.call(function, arguments, passed.take(), dot, *span)?
                }
            });
        }
        let value = passed.unwrap_or(Value::Nil);
        if let Some(target) = &pipeline.target {
            self.set(target, value.clone());
        }
        Ok(value)
    }

    fn call(
        &mut self,
        function: &functions::Function,
        arguments: &[Operand],
        passed: Option<Value>,
        dot: &Value,
        span: Span,
    ) -> Result<Value, Mistake> {
        self.charge(NODE_COST, span)?;
        let given = arguments.len() + usize::from(passed.is_some());
        function.check_count(given).map_err(|message| Mistake::new(span, message))?;
        let mut values = Vec::with_capacity(given);
        let mut pending = arguments.iter();
        // The rest is not looked at once the result is known.
        for operand in pending.by_ref() {
            let value = self.operand(operand, dot)?;
            if function.is_decided_by(&value) {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(passed);
        let size = values.iter().map(weight).sum();
        self.charge(size, span)?;
        let made = function
            .run(&values, self.mode)
            .map_err(|message| Mistake::new(span, format!("{}: {message}", function.name)))?;
        self.charge(weight(&made), span)?;
        Ok(made)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Mistake> {
        self.charge(NODE_COST, operand.span)?;
        let mut path;
        let mut value = match &operand.base {
            Base::Dot => {
                path = String::new();
                dot.clone()
            }
            Base::Root => {
                path = "$".to_owned();
                self.root.clone()
            }
            Base::Variable(name) => {
                path = format!("${name}");
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                found.map_or(Value::Nil, |(_, value)| value.clone())
            }
            Base::Nil => return Ok(Value::Nil),
            Base::Bool(value) => return Ok(Value::Bool(*value)),
            Base::Int(whole) => return Ok(Value::Int(*whole)),
            Base::Float(number) => return Ok(Value::Float(*number)),
            Base::Text(text) => {
                path = format!("{text:?}");
                Value::Text(text.clone())
            }
            Base::Pipeline(inner) => {
                path = "(…)".to_owned();
                self.pipeline(inner, dot)?
            }
            Base::Call(function) => {
                path = function.name.to_owned();
                self.call(function, &[], None, dot, operand.span)?
            }
        };
        for (name, span) in &operand.fields {
            let shown = if path.is_empty() { "." } else { &path };
            value = value.field(name, shown, *span)?;
            path = format!("{path}.{name}");
        }
        Ok(value)
    }
}

/// How much work it is to read a value once: of lists and maps, what is directly in them.
fn weight(value: &Value) -> u64 {
    match value {
        Value::Text(text) => text.len() as u64,
        Value::List(items) => {
            let of = |item: &Value| match item {
                Value::Text(text) => 16 + text.len() as u64,
                _ => NODE_COST,
            };
            items.iter().map(of).sum()
        }
        Value::Map(map) => NODE_COST * map.len() as u64,
        _ => 16,
    }
}
