//! Which policy moves the VMs, and what it is told: the operator's choice, or ours and a short measurement for it.

use crate::{
    cli::IntentArgs,
    exit::{Exit, Failure},
    measure::{self, Sought},
};
use droveway_fleet::{Fleet, TimeSpan};
use droveway_plan::{Chosen, policy};
use std::time::Duration;

pub(crate) fn found_policy(name: &str) -> Result<Chosen, Failure> {
    policy::find(name).map_err(|error| Failure::new(Exit::Usage, error))
}

/// Whether the policy is our own choice.
pub(crate) fn by_default(args: &IntentArgs) -> bool {
    args.policy.is_none() && args.order.is_empty()
}

/// Long enough for rates and for a first idea of dirtying; an operator who waits longer says so.
const MEASURED_BY_DEFAULT: Duration = Duration::from_secs(3);

/// Measures because the default policy decides from measurements. If that fails, there is nothing to decide from, which is
/// said: a host must be drained even if nobody may look at it.
pub(crate) fn measured_by_default(fleet: &Fleet) -> Result<Sought, Failure> {
    let window = TimeSpan::from(MEASURED_BY_DEFAULT);
    eprintln!(
        "nothing was measured lately: measuring for {window} (--policy {} does without)",
        policy::UNMEASURED_POLICY
    );
    let source = measure::Source { snapshot: None, measure: Some(window) };
    match measure::seek(fleet, &source) {
        Err(failure) if failure.exit != Exit::Interrupted => {
            eprintln!(
                "note: {:#}; the VMs go by policy {} instead",
                failure.error,
                policy::UNMEASURED_POLICY
            );
            Ok(Sought::Nothing)
        }
        sought => sought,
    }
}

pub(crate) fn chosen(args: &IntentArgs) -> Result<Chosen, Failure> {
    let policy = found_policy(policy_of(args))?;
    if !args.order.is_empty() && policy.plainly().is_none() {
        return Err(Failure::usage(format!(
            "--order: policy '{}' decides the order itself; choose a plain one, or leave --order out",
            policy.name
        )));
    }
    Ok(policy)
}

fn policy_of(args: &IntentArgs) -> &str {
    let own =
        if args.order.is_empty() { policy::DEFAULT_POLICY } else { policy::UNMEASURED_POLICY };
    args.policy.as_deref().unwrap_or(own)
}
