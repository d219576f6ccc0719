//! Classic BPF over the kernel's `seccomp_data`: number at 0, architecture at 4, arguments from 16.

use std::collections::BTreeMap;

use super::X32_BIT;
use super::profile::{Action, Argument, Comparison, Rule};

/// Instructions as `(code, jump if true, jump if false, constant)`.
pub(in super::super) type Program = Vec<(u16, u8, u8, u32)>;

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
const LENGTH_MAX: usize = 4096;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;

/// One architecture's decisions.
pub(super) struct Table<'a> {
    pub audit: u32,
    /// Bit that all its numbers have.
    pub mark: u32,
    pub is_64: bool,
    /// Rules by call number, in order.
    pub decisions: BTreeMap<u32, Vec<&'a Rule>>,
    /// Highest number known.
    pub newest: u32,
}

/// What a range of numbers leads to.
#[derive(Clone, PartialEq)]
enum Leaf {
    Plain(u32),
    /// A call whose arguments matter.
    Rules(u32),
}

/// Translates tables; `foreign` is what a call by an architecture without one gets.
///
/// # Errors
///
/// A message, when the program would be longer than the kernel takes.
pub(super) fn assemble(
    default: Action,
    foreign: Action,
    tables: &[Table<'_>],
) -> Result<Program, String> {
    let mut program = vec![(LOAD, 0, 0, 4)];
    for table in tables.iter().filter(|table| table.mark == 0) {
        let mut body = vec![(LOAD, 0, 0, 0)];
        if let Some(marked) = tables.iter().find(|t| t.audit == table.audit && t.mark != 0) {
            let marked_tree = tree(default, marked);
            // Numbers without the mark jump over its tree.
            body.push((JUMP_GREATER_OR_EQUAL, 1, 0, X32_BIT));
            body.push((JUMP, 0, 0, marked_tree.len() as u32));
            body.extend(marked_tree);
        }
        body.extend(tree(default, table));
        program.push((JUMP_EQUAL, 1, 0, table.audit));
        program.push((JUMP, 0, 0, body.len() as u32));
        program.extend(body);
    }
    program.push((RETURN, 0, 0, foreign.code()));
    if program.len() > LENGTH_MAX {
        return Err(format!(
            "seccomp profile: {} instructions, the kernel takes {LENGTH_MAX}",
            program.len()
        ));
    }
    Ok(program)
}

/// Begins a program for one architecture alone, in which no number is above `newest`.
pub(super) fn up_to(audit: u32, newest: u32, foreign: Action) -> Program {
    let unknown = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    vec![
        (LOAD, 0, 0, 4),
        (JUMP_EQUAL, 1, 0, audit),
        (RETURN, 0, 0, foreign.code()),
        (LOAD, 0, 0, 0),
        (JUMP_GREATER, 0, 1, newest),
        (RETURN, 0, 0, unknown),
    ]
}

fn tree(default: Action, table: &Table<'_>) -> Program {
    // Ranges of numbers with one outcome, by their first number.
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |start: u32, leaf: Leaf| {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((start, leaf));
        }
    };
    let unknown = match default {
        Action::Errno(_) => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        other => other.code(),
    };
    let gap =
        |number: u32| Leaf::Plain(if number > table.newest { unknown } else { default.code() });
    let mut next = 0;
    for (&number, rules) in &table.decisions {
        if number > next {
            push(next | table.mark, gap(next));
            if number > table.newest && next <= table.newest {
                push((table.newest + 1) | table.mark, gap(table.newest + 1));
            }
        }
        let leaf = match rules.first() {
            Some(rule) if rule.arguments.is_empty() => Leaf::Plain(rule.action.code()),
            _ => Leaf::Rules(number),
        };
        push(number | table.mark, leaf);
        next = number + 1;
    }
    if next <= table.newest {
        push(next | table.mark, gap(next));
    }
    push(next.max(table.newest + 1) | table.mark, Leaf::Plain(unknown));
    branch(&ranges, default, table)
}

/// Emits the search among `ranges`, with the call's number loaded.
fn branch(ranges: &[(u32, Leaf)], default: Action, table: &Table<'_>) -> Program {
    match ranges {
        [] => vec![(RETURN, 0, 0, default.code())],
        [(_, Leaf::Plain(code))] => vec![(RETURN, 0, 0, *code)],
        [(_, Leaf::Rules(number))] => {
            let rules = table.decisions.get(number).map_or(&[][..], Vec::as_slice);
            let mut out = Vec::new();
            for rule in rules {
                out.extend(conditional(rule, table.is_64));
                if rule.arguments.is_empty() {
                    return out;
                }
            }
            out.push((RETURN, 0, 0, default.code()));
            out
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (middle, low, high) =
                (high[0].0, branch(low, default, table), branch(high, default, table));
            let mut out = Vec::with_capacity(low.len() + high.len() + 2);
            if let Ok(distance) = u8::try_from(low.len()) {
                out.push((JUMP_GREATER_OR_EQUAL, distance, 0, middle));
            } else {
                out.push((JUMP_GREATER_OR_EQUAL, 0, 1, middle));
                out.push((JUMP, 0, 0, low.len() as u32));
            }
            out.extend(low);
            out.extend(high);
            out
        }
    }
}

/// Emits one rule: returns its action where all conditions hold, else falls through.
fn conditional(rule: &Rule, is_64: bool) -> Program {
    let mut out: Program = vec![(RETURN, 0, 0, rule.action.code())];
    for argument in rule.arguments.iter().rev() {
        // The distance to what follows the rule, from the end of this condition.
        let skip = out.len() as u8;
        let mut with = condition(argument, is_64, skip);
        with.append(&mut out);
        out = with;
    }
    out
}

/// Emits one condition: falls through where it holds, else jumps `skip` instructions past its end.
///
/// Registers have 32 bits, so on 64-bit architectures an argument is compared half by half.
fn condition(argument: &Argument, is_64: bool, skip: u8) -> Program {
    let low_at = 16 + 8 * u32::from(argument.index);
    let high_at = low_at + 4;
    let (low, high) = (argument.value as u32, (argument.value >> 32) as u32);
    if !is_64 {
        return match argument.comparison {
            Comparison::Equal => vec![(LOAD, 0, 0, low_at), (JUMP_EQUAL, 0, skip, low)],
            Comparison::NotEqual => vec![(LOAD, 0, 0, low_at), (JUMP_EQUAL, skip, 0, low)],
            Comparison::Less => vec![(LOAD, 0, 0, low_at), (JUMP_GREATER_OR_EQUAL, skip, 0, low)],
            Comparison::LessOrEqual => vec![(LOAD, 0, 0, low_at), (JUMP_GREATER, skip, 0, low)],
            Comparison::Greater => vec![(LOAD, 0, 0, low_at), (JUMP_GREATER, 0, skip, low)],
            Comparison::GreaterOrEqual => {
                vec![(LOAD, 0, 0, low_at), (JUMP_GREATER_OR_EQUAL, 0, skip, low)]
            }
            Comparison::MaskedEqual => vec![
                (LOAD, 0, 0, low_at),
                (AND, 0, 0, low),
                (JUMP_EQUAL, 0, skip, argument.second as u32),
            ],
        };
    }
    // High half first. `past` counts what is left of the condition after it.
    let ordered = |high_wins: u16, wins: bool, last: u16, holds_if: bool| {
        let (yes, no) = (0, skip);
        // Strictly above: decided. Equal: look at the low half. Below: decided the other way.
        let above = if wins { 3 + yes } else { 3 + no };
        let below = if wins { 2 + no } else { 2 + yes };
        vec![
            (LOAD, 0, 0, high_at),
            (high_wins, above, 0, high),
            (JUMP_EQUAL, 0, below, high),
            (LOAD, 0, 0, low_at),
            if holds_if { (last, 0, skip, low) } else { (last, skip, 0, low) },
        ]
    };
    match argument.comparison {
        Comparison::Equal => vec![
            (LOAD, 0, 0, high_at),
            (JUMP_EQUAL, 0, skip + 2, high),
            (LOAD, 0, 0, low_at),
            (JUMP_EQUAL, 0, skip, low),
        ],
        Comparison::NotEqual => vec![
            (LOAD, 0, 0, high_at),
            (JUMP_EQUAL, 0, 2, high),
            (LOAD, 0, 0, low_at),
            (JUMP_EQUAL, skip, 0, low),
        ],
        Comparison::MaskedEqual => vec![
            (LOAD, 0, 0, high_at),
            (AND, 0, 0, high),
            (JUMP_EQUAL, 0, skip + 3, (argument.second >> 32) as u32),
            (LOAD, 0, 0, low_at),
            (AND, 0, 0, low),
            (JUMP_EQUAL, 0, skip, argument.second as u32),
        ],
        Comparison::Greater => ordered(JUMP_GREATER, true, JUMP_GREATER, true),
        Comparison::GreaterOrEqual => ordered(JUMP_GREATER, true, JUMP_GREATER_OR_EQUAL, true),
        Comparison::Less => ordered(JUMP_GREATER, false, JUMP_GREATER_OR_EQUAL, false),
        Comparison::LessOrEqual => ordered(JUMP_GREATER, false, JUMP_GREATER, false),
    }
}

/// Returns the result and the number of steps; `None` for a program that leaves itself.
fn execute(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> Option<(u32, usize)> {
    let (mut at, mut accumulator, mut steps) = (0, 0_u32, 0);
    loop {
        let (code, yes, no, k) = *program.get(at)?;
        at += 1;
        steps += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { yes } else { no });
        match code {
            LOAD => {
                accumulator = match k {
                    0 => number,
                    4 => arch,
                    k => {
                        let argument = arguments[(k as usize - 16) / 8];
                        (if k % 8 == 0 { argument } else { argument >> 32 }) as u32
                    }
                }
            }
            AND => accumulator &= k,
            JUMP => at += k as usize,
            JUMP_EQUAL => jump(accumulator == k),
            JUMP_GREATER => jump(accumulator > k),
            JUMP_GREATER_OR_EQUAL => jump(accumulator >= k),
            RETURN => return Some((k, steps)),
            _ => return None,
        }
    }
}

/// Runs a program as the kernel would.
#[cfg(test)]
pub(super) fn interpret(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    execute(program, arch, number, arguments).expect("a program ends with a result").0
}

/// Says whether a program ends with a result for a call, as the kernel's check of programs asks.
pub(super) fn ends(program: &Program, arch: u32, number: u32, arguments: [u64; 6]) -> bool {
    execute(program, arch, number, arguments).is_some()
}

/// Counts the steps to a decision.
#[cfg(test)]
pub(super) fn steps(program: &Program, arch: u32, number: u32) -> usize {
    execute(program, arch, number, [u64::MAX; 6]).expect("a program ends with a result").1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_see_all_64_bits() {
        let values = [0, 1, 5, 0xffff_ffff, 1 << 32, (1 << 32) + 5, (2 << 32) + 4, u64::MAX];
        type Holds = fn(u64, u64) -> bool;
        let cases: [(Comparison, Holds); 6] = [
            (Comparison::Equal, |a, v| a == v),
            (Comparison::NotEqual, |a, v| a != v),
            (Comparison::Less, |a, v| a < v),
            (Comparison::LessOrEqual, |a, v| a <= v),
            (Comparison::Greater, |a, v| a > v),
            (Comparison::GreaterOrEqual, |a, v| a >= v),
        ];
        for (comparison, holds) in cases {
            for value in values {
                let argument = Argument { index: 2, comparison, value, second: 0 };
                let rule = Rule {
                    names: Vec::new(),
                    action: Action::Allow,
                    // Twice, so that skipping has something to skip.
                    arguments: vec![argument.clone(), argument],
                };
                let mut program = conditional(&rule, true);
                program.push((RETURN, 0, 0, 0));
                for actual in values {
                    let answer = interpret(&program, 0, 0, [0, 0, actual, 0, 0, 0]);
                    let expected = if holds(actual, value) { Action::Allow.code() } else { 0 };
                    assert_eq!(answer, expected, "{actual:#x} {comparison:?} {value:#x}");
                }
            }
        }
    }
}
