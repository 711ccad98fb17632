//! `linux.resources` (runtime-spec config-linux.md, "Control groups") as options of d-enter, and back.
//!
//! Rules for devices say nothing here: in a user namespace no device can be made, and only those that are bound in are there.

use anyhow::Result;
use serde_json::{Value, json};

use super::json::{get, wrong};
use crate::args::Args;
use crate::limits::{Limits, UNLIMITED};

/// The period of processor time, in microseconds: the kernel's default.
const PERIOD: i64 = 100_000;

/// Reads the limits into options; the keys that no option has are refused elsewhere.
///
/// # Errors
/// [`d_common::exit::Exit::Enter`], naming the key.
pub(super) fn read(json: &Value, options: &mut Args) -> Result<()> {
    // 0 and -1 are "unlimited" in the spec's words.
    let limit =
        |key: &str| Ok::<_, anyhow::Error>(get::<i64>(json, &format!("/linux/resources/{key}"))?.filter(|n| *n > 0));
    options.memory = limit("memory/limit")?.map(|n| n.to_string());
    // As docker's --memory-swap: memory and swap together; but no limit where there is none.
    let swap = limit("memory/swap")?.map(|n| n.to_string());
    if swap.is_some() && options.memory.is_none() {
        return Err(wrong("/linux/resources/memory/swap", "is nothing without memory.limit"));
    }
    options.memory_swap = options.memory.as_ref().map(|_| swap.unwrap_or_else(|| "-1".to_owned()));
    options.pids_limit = limit("pids/limit")?.map(|n| n.to_string());
    options.cpus = match (limit("cpu/quota")?, limit("cpu/period")?.unwrap_or(PERIOD)) {
        (None, _) => None,
        #[allow(clippy::cast_precision_loss)]
        (Some(quota), period) => Some((quota as f64 / period as f64).to_string()),
    };
    Ok(())
}

/// Writes limits; `None` for none.
pub(super) fn write(limits: &Limits) -> Option<Value> {
    let mut resources = json!({});
    if let Some(memory) = limits.memory {
        let swap = limits.swap.filter(|swap| *swap != UNLIMITED).and_then(|swap| memory.checked_add(swap));
        resources["memory"] = json!({ "limit": memory, "swap": swap.map_or(json!(-1), Value::from) });
    }
    if let Some(micros) = limits.cpu {
        resources["cpu"] = json!({ "quota": micros / 10, "period": PERIOD });
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({ "limit": pids });
    }
    (!limits.is_empty()).then_some(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_options() {
        let resources =
            json!({"memory": {"limit": 1 << 29, "swap": 1 << 30}, "pids": {"limit": 64}, "cpu": {"quota": 150_000}});
        let mut options = Args::default();
        read(&json!({"linux": {"resources": resources}}), &mut options).unwrap();
        assert_eq!(
            (options.memory.as_deref(), options.memory_swap.as_deref()),
            (Some("536870912"), Some("1073741824"))
        );
        assert_eq!((options.pids_limit.as_deref(), options.cpus.as_deref()), (Some("64"), Some("1.5")));
        let limits = Limits::decide(&options).unwrap();
        assert_eq!(write(&limits).unwrap()["cpu"]["quota"], 150_000);
        let mut again = Args::default();
        read(&json!({"linux": {"resources": write(&limits)}}), &mut again).unwrap();
        assert_eq!(Limits::decide(&again).unwrap(), limits);
        let mut options = Args::default();
        read(&json!({"linux": {"resources": {"memory": {"limit": 64}}}}), &mut options).unwrap();
        assert_eq!(write(&Limits::decide(&options).unwrap()).unwrap()["memory"]["swap"], -1);
        let mut options = Args::default();
        read(&json!({"linux": {"resources": {"memory": {"limit": -1}, "pids": {"limit": 0}}}}), &mut options).unwrap();
        assert_eq!(write(&Limits::decide(&options).unwrap()), None);
        let lonely = json!({"linux": {"resources": {"memory": {"swap": 5}}}});
        assert!(read(&lonely, &mut Args::default()).unwrap_err().to_string().contains("memory.swap"));
    }
}
