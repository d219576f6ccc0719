//! Words of actions become a tree.

use super::functions::{self, Function};
use super::lex::{Item, Token, TokenKind};
use super::{Mistake, NESTING_MAX};
use crate::dockerfile::ast::Span;
use std::rc::Rc;

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    /// Text.
    Text(String),
    /// A pipeline whose value is shown, unless it goes into a variable.
    Show(Pipeline),
    /// `if`.
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    /// `with`.
    With { subject: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    /// `range`; the variables are those of the key and of the value.
    Range {
        key: Option<Target>,
        value: Option<Target>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `break`.
    Break,
    /// `continue`.
    Continue,
}

/// A variable that gets a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// Its name, without the dollar sign.
    pub(super) name: String,
    /// Whether it is a new one.
    pub(super) is_new: bool,
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) target: Option<Target>,
    pub(super) commands: Vec<Command>,
    pub(super) span: Span,
}

/// A function with its arguments, or a value.
#[derive(Debug)]
pub(super) enum Command {
    Call { function: &'static Function, arguments: Vec<Operand>, span: Span },
    Value(Operand),
}

/// An argument.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) base: Base,
    /// Fields that are taken of it, one after the other.
    pub(super) fields: Vec<(String, Span)>,
    pub(super) span: Span,
}

/// What an argument begins with.
#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Root,
    Variable(String),
    Nil,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Rc<str>),
    Pipeline(Box<Pipeline>),
    /// A function without arguments.
    Call(&'static Function),
}

/// Parses the parts of a template.
pub(super) fn parse(items: Vec<Item>) -> Result<Vec<Node>, Mistake> {
    let mut parser = Parser { items: items.into_iter(), variables: Vec::new(), depth: 0, loops: 0 };
    let (nodes, end) = parser.list()?;
    match end {
        None => Ok(nodes),
        Some(End { word, span, .. }) => Err(Mistake::new(
            span,
            format!("`{word}` without an `if`, `with` or `range` before it"),
        )),
    }
}

struct Parser {
    items: std::vec::IntoIter<Item>,
    /// Names of the variables that can be used here.
    variables: Vec<String>,
    depth: usize,
    loops: usize,
}

/// An action that ends a list.
struct End {
    word: &'static str,
    span: Span,
    /// What follows `else`.
    rest: Vec<Token>,
}

type List = (Vec<Node>, Option<End>);

impl Parser {
    /// Parses up to an `end` or `else`, or to the end of the template.
    fn list(&mut self) -> Result<List, Mistake> {
        let mut nodes = Vec::new();
        while let Some(item) = self.items.next() {
            let (tokens, span) = match item {
                Item::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Item::Action { tokens, span } => (tokens, span),
            };
            let keyword = match tokens.first().map(|token| &token.kind) {
                None => return Err(Mistake::new(span, "the action is empty")),
                Some(TokenKind::Word(word)) => word.as_str(),
                Some(_) => "",
            };
            match keyword {
                "end" | "else" => {
                    let word = if keyword == "end" { "end" } else { "else" };
                    let rest = tokens[1..].to_vec();
                    if let (Some(extra), "end") = (rest.first(), word) {
                        return Err(Mistake::new(extra.span, "nothing may follow `end`"));
                    }
                    return Ok((nodes, Some(End { word, span, rest })));
                }
                "if" | "with" | "range" => nodes.push(self.block(&tokens, span)?),
                "break" | "continue" => {
                    if let Some(extra) = tokens.get(1) {
                        let message = format!("nothing may follow `{keyword}`");
                        return Err(Mistake::new(extra.span, message));
                    }
                    if self.loops == 0 {
                        let message = format!("`{keyword}` outside of a `range`");
                        return Err(Mistake::new(span, message));
                    }
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                "define" | "template" | "block" => {
                    let message = format!(
                        "`{keyword}` is not supported: there are if, else, with, range, break, \
                         continue and end"
                    );
                    return Err(Mistake::new(tokens[0].span, message));
                }
                _ => nodes.push(Node::Show(self.pipeline(&mut Words::new(&tokens, span), true)?)),
            }
        }
        Ok((nodes, None))
    }

    /// Parses an `if`, `with` or `range`, whose words these are, up to its end.
    fn block(&mut self, tokens: &[Token], span: Span) -> Result<Node, Mistake> {
        let keyword = tokens.first().map(|token| token.kind.clone());
        let Some(TokenKind::Word(keyword)) = keyword else {
            return Err(Mistake::new(span, "expected if, with or range"));
        };
        self.deeper(span)?;
        let known = self.variables.len();
        let mut words = Words::new(&tokens[1..], span);
        let mut pair = (None, None);
        if keyword == "range" {
            pair = self.range_variables(&mut words)?;
        }
        let subject = self.pipeline(&mut words, keyword != "range")?;
        let declares = |target: &Option<Target>| {
            target.as_ref().filter(|target| target.is_new).map(|target| target.name.clone())
        };
        self.variables.extend(declares(&pair.0));
        self.variables.extend(declares(&pair.1));
        let of_condition = self.variables.len();
        self.loops += usize::from(keyword == "range");
        let (then, end) = self.list()?;
        self.variables.truncate(of_condition);
        self.loops -= usize::from(keyword == "range");
        let unclosed = || Mistake::new(span, format!("this `{keyword}` has no `end`"));
        let end = end.ok_or_else(unclosed)?;
        let mut otherwise = Vec::new();
        if end.word == "else" {
            match end.rest.first().map(|token| &token.kind) {
                None => {
                    let (nodes, end) = self.list()?;
                    otherwise = nodes;
                    match end {
                        Some(End { word: "end", .. }) => {}
                        Some(end) => return Err(Mistake::new(end.span, "a second `else`")),
                        None => return Err(unclosed()),
                    }
                }
                // One `end` closes both.
                Some(TokenKind::Word(word)) if *word == keyword && keyword != "range" => {
                    otherwise = vec![self.block(&end.rest, end.span)?];
                }
                Some(_) => {
                    let message = format!("`else` of `{keyword}` cannot be followed by this");
                    return Err(Mistake::new(end.rest[0].span, message));
                }
            }
        }
        self.variables.truncate(known);
        self.depth -= 1;
        Ok(match keyword.as_str() {
            "if" => Node::If { condition: subject, then, otherwise },
            "with" => Node::With { subject, then, otherwise },
            _ => Node::Range { key: pair.0, value: pair.1, over: subject, body: then, otherwise },
        })
    }

    fn deeper(&mut self, span: Span) -> Result<(), Mistake> {
        self.depth += 1;
        match self.depth > NESTING_MAX {
            true => Err(Mistake::new(span, format!("it nests deeper than {NESTING_MAX}"))),
            false => Ok(()),
        }
    }

    /// Parses `$value :=` and `$key, $value :=` of a `range`.
    fn range_variables(
        &self,
        words: &mut Words<'_>,
    ) -> Result<(Option<Target>, Option<Target>), Mistake> {
        let kinds: Vec<_> = words.rest().iter().take(4).map(|token| &token.kind).collect();
        let (names, operator) = match kinds.as_slice() {
            [TokenKind::Variable(value), op, ..] if is_assignment(op) => ([None, Some(value)], 1),
            [TokenKind::Variable(key), TokenKind::Comma, TokenKind::Variable(value), op]
                if is_assignment(op) =>
            {
                ([Some(key), Some(value)], 3)
            }
            _ => return Ok((None, None)),
        };
        let is_new = *kinds[operator] == TokenKind::Declare;
        let names = names.map(Option::<&String>::cloned);
        for (name, place) in names.iter().flatten().zip([0, operator - 1]) {
            if !is_new && !self.variables.contains(name) {
                return Err(self.undefined(name, words.rest()[place].span));
            }
        }
        words.skip(operator + 1);
        let [key, value] = names.map(|name| name.map(|name| Target { name, is_new }));
        Ok((key, value))
    }

    fn undefined(&self, name: &str, span: Span) -> Mistake {
        let mistake = Mistake::new(span, format!("variable `${name}` is not defined here"));
        let near = self.variables.iter().map(String::as_str);
        let near = crate::dockerfile::errors::did_you_mean(name, near);
        mistake.labelled(near.map(|near| format!("did you mean `${near}`?")))
    }

    /// Parses a pipeline up to the end of the words, or to a closing parenthesis.
    fn pipeline(&mut self, words: &mut Words<'_>, may_assign: bool) -> Result<Pipeline, Mistake> {
        let first = words.place();
        let mut target = None;
        if let [Token { kind: TokenKind::Variable(name), span, .. }, op, ..] = words.rest()
            && is_assignment(&op.kind)
        {
            let is_new = op.kind == TokenKind::Declare;
            if !may_assign {
                return Err(Mistake::new(op.span, "a variable cannot be set here"));
            }
            if name.is_empty() || (!is_new && !self.variables.contains(name)) {
                return Err(self.undefined(name, *span));
            }
            target = Some(Target { name: name.clone(), is_new });
            words.skip(2);
        }
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(words, !commands.is_empty())?);
            match words.rest().first().map(|token| &token.kind) {
                Some(TokenKind::Pipe) => words.skip(1),
                _ => break,
            }
        }
        // It can be used from the next action on.
        if let Some(Target { name, is_new: true }) = &target {
            self.variables.push(name.clone());
        }
        match words.rest().first() {
            Some(token) if token.kind == TokenKind::Close && words.is_inner => {}
            Some(token) => {
                return Err(Mistake::new(token.span, "this is not expected here"));
            }
            None => {}
        }
        let end = words.last().end;
        Ok(Pipeline {
            target,
            commands,
            span: Span { start: first.start, end: end.max(first.start) },
        })
    }

    fn command(&mut self, words: &mut Words<'_>, is_fed: bool) -> Result<Command, Mistake> {
        let place = words.place();
        let mut operands = Vec::new();
        while let Some(token) = words.rest().first() {
            if matches!(token.kind, TokenKind::Pipe | TokenKind::Close) {
                break;
            }
            if !operands.is_empty() && !token.is_apart {
                return Err(Mistake::new(token.span, "a blank is missing before this"));
            }
            operands.push(self.operand(words)?);
        }
        if operands.is_empty() {
            return Err(Mistake::new(place, "a value is missing here"));
        }
        let first = operands.remove(0);
        if let Base::Call(function) = first.base
            && first.fields.is_empty()
        {
            let end = operands.last().map_or(first.span.end, |last| last.span.end);
            let span = Span { start: first.span.start, end };
            return Ok(Command::Call { function, arguments: operands, span });
        }
        if is_fed {
            let message = "only a function can take what a `|` passes on";
            return Err(Mistake::new(first.span, message));
        }
        match operands.first() {
            None => Ok(Command::Value(first)),
            Some(_) => Err(Mistake::new(first.span, "this has arguments but is not a function")),
        }
    }

    fn operand(&mut self, words: &mut Words<'_>) -> Result<Operand, Mistake> {
        let Token { kind, mut span, .. } = words.next()?;
        let mut fields = Vec::new();
        let base = match kind {
            TokenKind::Dot => Base::Dot,
            TokenKind::Field(name) => {
                fields.push((name, span));
                Base::Dot
            }
            TokenKind::Variable(name) if name.is_empty() => Base::Root,
            TokenKind::Variable(name) if self.variables.contains(&name) => Base::Variable(name),
            TokenKind::Variable(name) => return Err(self.undefined(&name, span)),
            TokenKind::Text(text) => Base::Text(text.into()),
            TokenKind::Int(whole) => Base::Int(whole),
            TokenKind::Float(number) => Base::Float(number),
            TokenKind::Word(word) => match word.as_str() {
                "nil" => Base::Nil,
                "true" => Base::Bool(true),
                "false" => Base::Bool(false),
                name => Base::Call(
                    functions::named(name)
                        .map_err(|(message, near)| Mistake::new(span, message).labelled(near))?,
                ),
            },
            TokenKind::Open => {
                self.deeper(span)?;
                let was_inner = std::mem::replace(&mut words.is_inner, true);
                let pipeline = self.pipeline(words, false)?;
                words.is_inner = was_inner;
                match words.next() {
                    Ok(close) if close.kind == TokenKind::Close => span.end = close.span.end,
                    _ => return Err(Mistake::new(span, "this parenthesis is not closed")),
                }
                self.depth -= 1;
                Base::Pipeline(Box::new(pipeline))
            }
            TokenKind::Pipe
            | TokenKind::Close
            | TokenKind::Comma
            | TokenKind::Assign
            | TokenKind::Declare => return Err(Mistake::new(span, "this is not expected here")),
        };
        while let Some(Token { kind: TokenKind::Field(name), span: place, is_apart: false }) =
            words.rest().first()
        {
            fields.push((name.clone(), *place));
            span.end = place.end;
            words.skip(1);
        }
        Ok(Operand { base, fields, span })
    }
}

fn is_assignment(kind: &TokenKind) -> bool {
    matches!(kind, TokenKind::Declare | TokenKind::Assign)
}

/// The words of an action that are still to be read.
struct Words<'t> {
    all: &'t [Token],
    at: usize,
    action: Span,
    is_inner: bool,
}

impl<'t> Words<'t> {
    fn new(all: &'t [Token], action: Span) -> Self {
        Self { all, at: 0, action, is_inner: false }
    }

    fn rest(&self) -> &'t [Token] {
        &self.all[self.at..]
    }

    fn skip(&mut self, count: usize) {
        self.at += count;
    }

    fn next(&mut self) -> Result<Token, Mistake> {
        let token = self.rest().first().cloned();
        self.at += 1;
        token.ok_or_else(|| Mistake::new(self.action, "a value is missing here"))
    }

    /// The place of the next word, or of the whole action.
    fn place(&self) -> Span {
        self.rest().first().map_or(self.action, |token| token.span)
    }

    /// The place of the word before.
    fn last(&self) -> Span {
        let before = self.at.checked_sub(1).and_then(|at| self.all.get(at));
        before.map_or(self.action, |token| token.span)
    }
}

/// Lists the first fields that are taken of the data itself, with their places.
pub(super) fn fields_of_root(nodes: &[Node]) -> Vec<(&str, Span)> {
    let mut found = Vec::new();
    in_list(nodes, true, &mut found);
    found
}

fn in_list<'n>(nodes: &'n [Node], is_root: bool, found: &mut Vec<(&'n str, Span)>) {
    for node in nodes {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Show(pipeline) => in_pipeline(pipeline, is_root, found),
            Node::If { condition, then, otherwise } => {
                in_pipeline(condition, is_root, found);
                in_list(then, is_root, found);
                in_list(otherwise, is_root, found);
            }
            Node::With { subject, then, otherwise }
            | Node::Range { over: subject, body: then, otherwise, .. } => {
                in_pipeline(subject, is_root, found);
                in_list(then, false, found);
                in_list(otherwise, is_root, found);
            }
        }
    }
}

fn in_pipeline<'n>(pipeline: &'n Pipeline, is_root: bool, found: &mut Vec<(&'n str, Span)>) {
    for command in &pipeline.commands {
        let operands = match command {
            Command::Call { arguments, .. } => arguments.as_slice(),
            Command::Value(operand) => std::slice::from_ref(operand),
        };
        for operand in operands {
            match (&operand.base, operand.fields.first()) {
                (Base::Pipeline(inner), _) => in_pipeline(inner, is_root, found),
                (Base::Dot, Some((name, span))) if is_root => found.push((name, *span)),
                (Base::Root, Some((name, span))) => found.push((name, *span)),
                _ => {}
            }
        }
    }
}
