//! Seccomp profiles in JSON: Docker's files, containers' seccomp.json, and `linux.seccomp` of an OCI runtime config
//! (config-linux.md), which differ in how they name the ABIs: `archMap` by machine, or a flat list of `architectures`.
//!
//! As in runc and crun, names of calls, architectures and capabilities that are not known here are for other kernels and
//! machines, and ignored; an action, comparison or flag that is not known is an error, for a filter without it would be another
//! one.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use rustix::thread::CapabilitySet;
use serde::Deserialize;

use super::abi::{Abi, Machine};
use super::numbers;
use super::profile::{Action, Comparison, Condition, Profile, Rule, When};

/// The errno of SCMP_ACT_ERRNO when none is given.
const EPERM: u16 = 1;
/// The kernel takes no errno above (MAX_ERRNO).
const MAX_ERRNO: u16 = 4095;
/// One thread needs no synchronisation, and neither logging nor speculation changes what a call may do.
const HARMLESS_FLAGS: [&str; 3] =
    ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u16>,
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Architecture>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// When it is no JSON of this shape, names an action, comparison or flag that is not known or cannot be honoured here
    /// (SCMP_ACT_NOTIFY and SCMP_ACT_TRACE need another process), or on a machine whose system call numbers are not known.
    pub fn from_json(text: &str) -> Result<Self> {
        let machine = Machine::host().context("seccomp profiles can be used on x86_64 and aarch64 only")?;
        Self::from_json_for(machine, text)
    }

    pub(super) fn from_json_for(machine: &Machine, text: &str) -> Result<Self> {
        let file: File = serde_json::from_str(text)?;
        for flag in file.flags.iter().flatten() {
            if !HARMLESS_FLAGS.contains(&flag.as_str()) {
                bail!("flags: {flag} is not supported");
            }
        }
        let default = action(&file.default_action, file.default_errno_ret, file.default_errno.as_deref())
            .context("defaultAction")?;
        let abis = abis(machine, &file)?;
        let mut rules = Vec::new();
        for (index, entry) in file.syscalls.iter().flatten().enumerate() {
            entry.add_rules(machine, &mut rules).with_context(|| format!("syscalls[{index}]"))?;
        }
        Ok(Self { default, abis, rules })
    }
}

impl Entry {
    fn add_rules(&self, machine: &Machine, rules: &mut Vec<Rule>) -> Result<()> {
        let names = self.names.as_deref().unwrap_or_default();
        if !self.name.is_empty() && !names.is_empty() {
            bail!("both name and names are given");
        }
        let action = action(&self.action, self.errno_ret, self.errno.as_deref())?;
        let conditions =
            self.args.iter().flatten().map(Argument::condition).collect::<Result<Vec<_>>>().context("args")?;
        let Some(when) = when(machine, self.includes.as_ref(), self.excludes.as_ref())? else { return Ok(()) };
        let rows: Cow<'_, [usize]> = names.iter().chain([&self.name]).filter_map(|name| numbers::row(name)).collect();
        let mut push = |conditions: Vec<Condition>| {
            rules.push(Rule { rows: rows.clone(), action, conditions, when });
        };
        // Two conditions on one argument are alternatives, not both to hold: so runc and crun read what Docker once wrote.
        let repeated = |c: &Condition| conditions.iter().filter(|other| other.argument == c.argument).count() > 1;
        if conditions.iter().any(repeated) {
            conditions.iter().for_each(|condition| push(vec![*condition]));
        } else {
            push(conditions);
        }
        Ok(())
    }
}

impl Argument {
    fn condition(&self) -> Result<Condition> {
        if self.index > 5 {
            bail!("index {}: a call has arguments 0 to 5", self.index);
        }
        let (comparison, value) = match self.op.as_str() {
            "SCMP_CMP_NE" => (Comparison::NotEqual, self.value),
            "SCMP_CMP_LT" => (Comparison::Less, self.value),
            "SCMP_CMP_LE" => (Comparison::LessOrEqual, self.value),
            "SCMP_CMP_EQ" => (Comparison::Equal, self.value),
            "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, self.value),
            "SCMP_CMP_GT" => (Comparison::Greater, self.value),
            "SCMP_CMP_MASKED_EQ" => (Comparison::MaskedEqual(self.value), self.value_two),
            other => bail!("op {other:?} is not known"),
        };
        Ok(Condition { argument: self.index, comparison, value })
    }
}

fn action(name: &str, errno: Option<u16>, errno_name: Option<&str>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(errno_number(errno, errno_name)?),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" | "SCMP_ACT_TRACE" => bail!("{name} needs a supervising process, which d-enter is not"),
        _ => bail!("action {name:?} is not known"),
    })
}

/// The number wins over the name, which only containers' profiles have, beside it.
fn errno_number(number: Option<u16>, name: Option<&str>) -> Result<u16> {
    match (number, name) {
        (Some(number @ 0..=MAX_ERRNO), _) => Ok(number),
        (Some(number), _) => bail!("errnoRet {number} is above {MAX_ERRNO}"),
        (None, None | Some("" | "EPERM")) => Ok(EPERM),
        (None, Some("EACCES")) => Ok(13),
        (None, Some("EINVAL")) => Ok(22),
        (None, Some("ENOSYS")) => Ok(38),
        (None, Some(name)) => bail!("errno {name:?}: give its number as errnoRet"),
    }
}

/// The ABIs of the machine that the profile is for; its own one is always among them.
fn abis(machine: &Machine, file: &File) -> Result<Vec<Abi>> {
    let flat = file.architectures.as_deref().unwrap_or_default();
    let by_machine = file.arch_map.as_deref().unwrap_or_default();
    if !flat.is_empty() && !by_machine.is_empty() {
        bail!("both architectures and archMap are given");
    }
    let known = |name: &String| Abi::ALL.into_iter().find(|abi| abi.profile_name() == name);
    let own = machine.abis.first().copied();
    let of_machine = by_machine.iter().filter(|entry| known(&entry.architecture) == own);
    let beside_own = of_machine.flat_map(|entry| entry.sub_architectures.iter().flatten());
    let listed: Vec<Abi> = flat.iter().chain(beside_own).filter_map(known).collect();
    Ok(machine.abis.iter().copied().filter(|abi| Some(*abi) == own || listed.contains(abi)).collect())
}

/// When a rule applies; `None`: never on this machine.
fn when(machine: &Machine, includes: Option<&Filter>, excludes: Option<&Filter>) -> Result<Option<When>> {
    let none = Filter::default();
    let (includes, excludes) = (includes.unwrap_or(&none), excludes.unwrap_or(&none));
    let lists_machine = |filter: &Filter| filter.arches.iter().flatten().any(|arch| arch == machine.go_name);
    let only_others = includes.arches.as_ref().is_some_and(|arches| !arches.is_empty()) && !lists_machine(includes);
    if only_others || lists_machine(excludes) {
        return Ok(None);
    }
    let kernel = |filter: &Filter| filter.min_kernel.as_deref().filter(|v| !v.is_empty()).map(version).transpose();
    Ok(Some(When {
        kept: capabilities(includes),
        dropped: capabilities(excludes),
        since: kernel(includes)?,
        until: kernel(excludes)?,
    }))
}

/// A capability that is unknown here is one that nobody has: a bit beyond all others stands for it.
fn capabilities(filter: &Filter) -> u64 {
    const UNKNOWN: u64 = 1 << 63;
    let bit = |name: &String| {
        name.strip_prefix("CAP_").and_then(CapabilitySet::from_name).map_or(UNKNOWN, |capability| capability.bits())
    };
    filter.caps.iter().flatten().map(bit).fold(0, |set, bit| set | bit)
}

/// `4.8`, as in `minKernel`.
fn version(text: &str) -> Result<(u32, u32)> {
    let parsed = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.with_context(|| format!("minKernel {text:?} is not a version such as 4.8"))
}
