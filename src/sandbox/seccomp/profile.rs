//! A profile: what to do by default, and rules; and its JSON form, which is Docker's.

use serde::Deserialize;

use super::super::caps;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    KillProcess,
    KillThread,
    Trap,
    Log,
    /// Another process answers.
    Notify,
}

impl Action {
    /// Returns the kernel's number.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Comparison {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// The argument and `value` as mask, compared with `second`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// A condition on one argument.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Argument {
    pub index: u8,
    #[serde(rename = "op")]
    pub comparison: Comparison,
    pub value: u64,
    #[serde(default, rename = "valueTwo")]
    pub second: u64,
}

/// Calls that get an action where all conditions hold.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub names: Vec<String>,
    pub action: Action,
    pub arguments: Vec<Argument>,
}

#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub default: Action,
    /// For one call the first rule that applies decides.
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonProfile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<JsonRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    #[serde(default)]
    names: Vec<String>,
    /// How very old profiles write it.
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Conditions {
    caps: Vec<String>,
    arches: Vec<String>,
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(libc::EPERM as u16)),
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(format!("seccomp profile: action {other} is not supported")),
    })
}

/// Maximum number of conditions of a rule: jumps over them reach 255 instructions, and one
/// condition has up to six. libseccomp takes one for each of the six arguments.
const CONDITIONS_MAX: usize = 32;

/// Docker's names of the architecture we run on.
const ARCHES: &[&str] =
    if cfg!(target_arch = "aarch64") { &["arm64", "arm"] } else { &["amd64", "x86", "x32"] };

/// Reads a profile in Docker's form, as it applies with these capabilities. Kernel versions that
/// rules ask for are taken as given.
///
/// # Errors
///
/// A message that names what is wrong.
pub(super) fn parse(json: &str, capabilities: u64) -> Result<Profile, String> {
    let json: JsonProfile =
        serde_json::from_str(json).map_err(|error| format!("seccomp profile: {error}"))?;
    let holds = |name: &String| caps::parse(name).is_some_and(|bit| capabilities & bit != 0);
    let is_native = |name: &String| ARCHES.contains(&name.as_str());
    let mut rules = Vec::new();
    for mut rule in json.syscalls {
        let (includes, excludes) =
            (rule.includes.unwrap_or_default(), rule.excludes.unwrap_or_default());
        if !includes.caps.iter().all(holds)
            || !includes.arches.is_empty() && !includes.arches.iter().any(is_native)
            || excludes.caps.iter().any(holds)
            || excludes.arches.iter().any(is_native)
        {
            continue;
        }
        rule.names.extend(rule.name);
        let arguments = rule.args.unwrap_or_default();
        if let Some(argument) = arguments.iter().find(|argument| argument.index > 5) {
            return Err(format!("seccomp profile: no call has an argument {}", argument.index));
        }
        if arguments.len() > CONDITIONS_MAX {
            return Err(format!(
                "seccomp profile: a rule has {} conditions, the limit is {CONDITIONS_MAX}",
                arguments.len()
            ));
        }
        rules.push(Rule {
            names: rule.names,
            action: action(&rule.action, rule.errno_ret)?,
            arguments,
        });
    }
    Ok(Profile { default: action(&json.default_action, json.default_errno_ret)?, rules })
}
