//! A profile as `linux.seccomp` of an OCI runtime config (config-linux.md), for runtimes such as crun and runc. That form has
//! no conditions on capabilities and kernels, so only the rules that hold for this command are in it.

use serde_json::{Value, json};

use super::numbers::SYSCALLS;
use super::profile::{Action, Comparison, Condition, Profile, Rule};

impl Profile {
    /// What a runtime is to be told so that it makes the filter that [`Profile::compile`] makes.
    pub fn to_oci(&self, kept: u64, kernel: (u32, u32)) -> Value {
        let mut profile = json!({
            "defaultAction": action(self.default),
            "architectures": self.abis.iter().map(|abi| abi.profile_name()).collect::<Vec<_>>(),
            "syscalls": self.rules_for(kept, kernel).map(syscalls).collect::<Vec<_>>(),
        });
        if let Action::Errno(errno) = self.default {
            profile["defaultErrnoRet"] = errno.into();
        }
        profile
    }
}

fn syscalls(rule: &Rule) -> Value {
    let names: Vec<&str> = rule.rows.iter().filter_map(|row| SYSCALLS.get(*row)).map(|(name, _)| *name).collect();
    let args: Vec<Value> = rule.conditions.iter().map(argument).collect();
    let mut entry = json!({ "names": names, "action": action(rule.action), "args": args });
    // Runtimes know no null here.
    if let Action::Errno(errno) = rule.action {
        entry["errnoRet"] = errno.into();
    }
    entry
}

fn argument(condition: &Condition) -> Value {
    let (op, value, second) = match condition.comparison {
        Comparison::NotEqual => ("SCMP_CMP_NE", condition.value, 0),
        Comparison::Less => ("SCMP_CMP_LT", condition.value, 0),
        Comparison::LessOrEqual => ("SCMP_CMP_LE", condition.value, 0),
        Comparison::Equal => ("SCMP_CMP_EQ", condition.value, 0),
        Comparison::GreaterOrEqual => ("SCMP_CMP_GE", condition.value, 0),
        Comparison::Greater => ("SCMP_CMP_GT", condition.value, 0),
        Comparison::MaskedEqual(mask) => ("SCMP_CMP_MASKED_EQ", mask, condition.value),
    };
    json!({ "index": condition.argument, "value": value, "valueTwo": second, "op": op })
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "SCMP_ACT_ALLOW",
        Action::Log => "SCMP_ACT_LOG",
        Action::Errno(_) => "SCMP_ACT_ERRNO",
        Action::Trap => "SCMP_ACT_TRAP",
        Action::KillThread => "SCMP_ACT_KILL_THREAD",
        Action::KillProcess => "SCMP_ACT_KILL_PROCESS",
    }
}
