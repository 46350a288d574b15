//! A suite: scenarios x policies x intents x repeats, as people write it.
//!
//! A document like the others (`droveway_fleet::document`): versioned, unknown fields refused. [`resolve`] puts scenarios
//! from files and made-up gangs into it, so that a suite and what was run of it can be compared by value.

use crate::gang::GangOfMany;
use droveway_fleet::{
    RateLimit, Ratio, Reserve, TimeSpan, Urgency,
    document::{Document, Problem, Spec},
    ids::{DocumentName, nearest},
    intent::{DOWNTIME_DEFAULT, MAX_PASSES_DEFAULT},
    scenario::{Scenario, ScenarioSpec},
};
use droveway_plan::policy::{self, POLICIES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A suite document.
pub type Suite = Document<SuiteSpec>;

/// The content of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuiteSpec {
    /// What the suite is to find out, in a sentence: stands at the head of its report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Where its runs are made.
    pub stage: Stage,
    /// Chance: the order of the runs, and the simulator's own.
    #[serde(default = "one_u64")]
    pub seed: u64,
    /// How often each cell is run.
    pub repeats: u32,
    /// Runs that do not count, before the first of each scenario (lab).
    #[serde(default = "one")]
    pub warm_up: u32,
    /// How long applications run undisturbed before anything is measured (lab).
    #[serde(default = "settle")]
    pub settle: TimeSpan,
    /// How long is measured before each run (lab).
    #[serde(default = "measure")]
    pub measure: TimeSpan,
    /// How often an invalid run is made again.
    #[serde(default = "one")]
    pub retries: u32,
    /// What every policy gets alike.
    #[serde(default)]
    pub limits: Limits,
    /// What is moved.
    pub scenarios: Vec<SuiteScenario>,
    /// How it is moved.
    pub policies: Vec<SuitePolicy>,
    /// What is asked for; one of medium urgency if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intents: Vec<SuiteIntent>,
}

/// Where runs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Real QEMU VMs between network namespaces.
    Lab,
    /// The simulator.
    Simulator,
}

/// What every policy gets alike, so that none is compared by another's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// The longest downtime to aim at.
    pub max_downtime: TimeSpan,
    /// The ceiling of each VM's stream; set explicitly, since QEMU's own differs between pre-copy and post-copy.
    pub bandwidth: RateLimit,
    /// Pre-copy passes before a VM counts as not converging.
    pub max_passes: u32,
    /// Whether post-copy may be used, also when pre-copy does not converge.
    pub allow_postcopy: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_downtime: TimeSpan::from(DOWNTIME_DEFAULT),
            bandwidth: RateLimit::Unlimited,
            max_passes: MAX_PASSES_DEFAULT,
            allow_postcopy: true,
        }
    }
}

/// A scenario of a suite: from a file, written in place, or a gang that is made up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuiteScenario {
    /// Its name in this suite, and its laboratory's.
    pub name: DocumentName,
    /// What distinguishes it, for figures and tables: `traffic`, `end` and whatever else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The scenario's file, from the suite's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The scenario itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ScenarioSpec>,
    /// A gang of many alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang: Option<GangOfMany>,
}

/// A policy of a suite, with its parameters and what of ours is used beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuitePolicy {
    /// Its name in this suite; the policy's own by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DocumentName>,
    /// The policy of the registry, with parameters: `m-mixed:m=2`.
    pub policy: String,
    /// Whether migration sockets are tuned; auto: by ours.
    #[serde(default, skip_serializing_if = "Switch::is_auto")]
    pub tuning: Switch,
    /// Whether it is planned again while VMs move; auto: by ours (in the simulator where the scenario changes).
    #[serde(default, skip_serializing_if = "Switch::is_auto")]
    pub replan: Switch,
    /// False: the ports' queueing disciplines stay as they are (lab).
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub shaping: bool,
    /// What is held of the ports.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub reserve: Reserve,
    /// The intents that it is run with, by name; all if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intents: Vec<String>,
}

impl SuitePolicy {
    /// Its name in the suite.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or(&self.policy, |name| name.as_str())
    }

    /// Whether it is ours.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.policy.split(':').next() == Some(policy::DEFAULT_POLICY)
    }

    /// Where it comes from, as the registry says: `plain`, `habit`, `ours`, or a publication.
    #[must_use]
    pub fn source(&self) -> &'static str {
        let name = self.policy.split(':').next().unwrap_or_default();
        POLICIES.iter().find(|known| known.name == name).map_or("unknown", |known| known.source)
    }
}

/// What is done: by ours, by all, by none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// By ours.
    #[default]
    Auto,
    /// Yes.
    On,
    /// No.
    Off,
}

impl Switch {
    /// As the command line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Switch::Auto => "auto",
            Switch::On => "on",
            Switch::Off => "off",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    fn is_auto(&self) -> bool {
        *self == Switch::Auto
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SuiteIntent {
    /// Its name in this suite.
    pub name: DocumentName,
    /// How urgent it is.
    #[serde(default)]
    #[schemars(with = "String")]
    pub urgency: Urgency,
    /// When the last VM has to have arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<TimeSpan>,
    /// The share of its traffic that every application keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Ratio>,
}

fn one() -> u32 {
    1
}
fn one_u64() -> u64 {
    1
}
fn yes() -> bool {
    true
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_true(value: &bool) -> bool {
    *value
}
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn settle() -> TimeSpan {
    TimeSpan::from_secs(3)
}
fn measure() -> TimeSpan {
    TimeSpan::from_secs(4)
}

/// More runs than that are no suite but a mistake: a week of one machine.
pub const RUNS_MAX: u64 = 20_000;
/// More is no repetition but a loop.
const REPEATS_MAX: u32 = 1_000;
/// What goes wrong so often is no accident.
const RETRIES_MAX: u32 = 10;

impl Spec for SuiteSpec {
    const KIND: &'static str = "Suite";

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut say = |path: &str, text: String| problems.push(Problem::new(path, text));
        if self.repeats == 0 || self.repeats > REPEATS_MAX {
            say("spec.repeats", format!("write a number from 1 to {REPEATS_MAX}"));
        }
        if self.retries > RETRIES_MAX {
            say("spec.retries", format!("at most {RETRIES_MAX}"));
        }
        if self.limits.max_passes == 0 {
            say("spec.limits.maxPasses", "at least 1 is needed".to_owned());
        }
        if self.stage == Stage::Lab && self.measure < TimeSpan::from_secs(1) {
            say("spec.measure", "policies that decide from measurements need 1s".to_owned());
        }
        for (what, count) in
            [("spec.scenarios", self.scenarios.len()), ("spec.policies", self.policies.len())]
        {
            if count == 0 {
                say(what, "at least one is needed".to_owned());
            }
        }
        if self.runs() > RUNS_MAX {
            say("spec", format!("{} runs are more than {RUNS_MAX}", self.runs()));
        }
        self.check_scenarios(&mut problems);
        self.check_policies(&mut problems);
        self.check_intents(&mut problems);
        problems
    }
}

impl SuiteSpec {
    /// The intents; the default one if none is named.
    #[must_use]
    pub fn intents(&self) -> Vec<SuiteIntent> {
        if !self.intents.is_empty() {
            return self.intents.clone();
        }
        // A name of lower-case letters is one.
        let name = Urgency::Medium.name().parse();
        name.map(|name| SuiteIntent { name, urgency: Urgency::Medium, deadline: None, floor: None })
            .into_iter()
            .collect()
    }

    /// Which intents a policy is run with, by their place.
    pub(crate) fn intents_of(&self, policy: &SuitePolicy) -> Vec<usize> {
        let all = self.intents();
        let named =
            |name: &str| policy.intents.is_empty() || policy.intents.iter().any(|it| it == name);
        (0..all.len()).filter(|index| named(all[*index].name.as_str())).collect()
    }

    /// Runs that count, if all are valid.
    #[must_use]
    pub fn runs(&self) -> u64 {
        let arms: usize = self.policies.iter().map(|policy| self.intents_of(policy).len()).sum();
        (self.scenarios.len() * arms) as u64 * u64::from(self.repeats)
    }

    fn check_scenarios(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (index, scenario) in self.scenarios.iter().enumerate() {
            let path = format!("spec.scenarios[{index}]");
            if !seen.insert(&scenario.name) {
                let text = format!("the name '{}' is used twice", scenario.name);
                problems.push(Problem::new(format!("{path}.name"), text));
            }
            let ways = [scenario.file.is_some(), scenario.spec.is_some(), scenario.gang.is_some()];
            if ways.iter().filter(|given| **given).count() != 1 {
                problems.push(Problem::new(
                    path.as_str(),
                    "write one of: file (a scenario's file), spec (the scenario here), gang (many VMs alike)",
                ));
            }
            if let Some(gang) = &scenario.gang {
                gang.check(&format!("{path}.gang"), problems);
            }
            if let Some(spec) = &scenario.spec {
                check_moves(spec, &path, problems);
                let own = spec.problems();
                problems.extend(
                    own.into_iter()
                        .map(|of| Problem::new(format!("{path}.{}", of.path), of.message)),
                );
            }
        }
    }

    fn check_policies(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        let intents = self.intents();
        let known = || intents.iter().map(|intent| intent.name.as_str());
        for (index, of) in self.policies.iter().enumerate() {
            let path = format!("spec.policies[{index}]");
            if let Err(error) = policy::find(&of.policy) {
                problems.push(Problem::new(format!("{path}.policy"), error.to_string()));
            }
            if of.name.is_none() && of.policy.contains(':') {
                let text = "with parameters, give it a name of its own: name: m-mixed-2";
                problems.push(Problem::new(path.as_str(), text));
            }
            if !seen.insert(of.name()) {
                let text =
                    format!("the name '{}' is used twice: give it one of its own", of.name());
                problems.push(Problem::new(format!("{path}.name"), text));
            }
            for name in &of.intents {
                if !known().any(|known| known == name) {
                    let meant = nearest(name, known())
                        .map_or_else(String::new, |name| format!(", did you mean '{name}'?"));
                    let text = format!("there is no intent '{name}'{meant}");
                    problems.push(Problem::new(format!("{path}.intents"), text));
                }
            }
            if self.stage == Stage::Simulator && !of.shaping {
                let text = "has no effect in the simulator: leave it out, or use the lab";
                problems.push(Problem::new(format!("{path}.shaping"), text));
            }
        }
    }

    fn check_intents(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (index, intent) in self.intents.iter().enumerate() {
            let path = format!("spec.intents[{index}]");
            if !seen.insert(&intent.name) {
                let text = format!("the name '{}' is used twice", intent.name);
                problems.push(Problem::new(format!("{path}.name"), text));
            }
            if self.stage == Stage::Simulator && intent.floor.is_some() {
                let text = "has no effect in the simulator: leave it out, or use the lab";
                problems.push(Problem::new(format!("{path}.floor"), text));
            }
        }
    }
}

/// A run drains the first host that has VMs to the first other one.
fn check_moves(spec: &ScenarioSpec, path: &str, problems: &mut Vec<Problem>) {
    if spec.vms.is_empty() || spec.hosts.len() < 2 {
        let text =
            "a run drains a host that has VMs to another host: two hosts and a VM are needed";
        problems.push(Problem::new(format!("{path}.spec"), text));
    }
}

/// A suite in which every scenario stands in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// The suite; of each scenario only `spec` is set.
    pub suite: Suite,
}

/// Why a suite could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {path}: {message}")]
pub struct ResolveError {
    /// The suite's file.
    pub origin: String,
    /// The field.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Puts every scenario in full into the suite. `read` gives the scenario in a file that the suite names.
///
/// # Errors
/// When a file cannot be read, or what it has or what was made up is no scenario that can be drained.
pub fn resolve(
    mut suite: Suite,
    origin: &str,
    mut read: impl FnMut(&str) -> Result<Scenario, String>,
) -> Result<Resolved, ResolveError> {
    for (index, of) in suite.spec.scenarios.iter_mut().enumerate() {
        let path = format!("spec.scenarios[{index}]");
        let error = |path: String, message: String| ResolveError {
            origin: origin.to_owned(),
            path,
            message,
        };
        if let Some(file) = of.file.take() {
            let text = |message| error(format!("{path}.file"), message);
            of.spec = Some(read(&file).map_err(text)?.spec);
        } else if let Some(gang) = of.gang.take() {
            of.spec =
                Some(gang.scenario().map_err(|message| error(format!("{path}.gang"), message))?);
        }
        let Some(spec) = &of.spec else {
            return Err(error(path, "is no scenario".to_owned()));
        };
        let mut problems = spec.problems();
        check_moves(spec, &path, &mut problems);
        if let Some(problem) = problems.into_iter().next() {
            return Err(error(problem.path, problem.message));
        }
    }
    Ok(Resolved { suite })
}

impl Resolved {
    /// What differs from another suite, in words; `None` if they are the same.
    #[must_use]
    pub fn differs(&self, other: &Resolved) -> Option<String> {
        if self == other {
            return None;
        }
        let (own, others) = (&self.suite.spec, &other.suite.spec);
        let names = |spec: &SuiteSpec| -> Vec<String> {
            spec.scenarios.iter().map(|of| of.name.to_string()).collect()
        };
        let what = if self.suite.metadata != other.suite.metadata {
            "its name"
        } else if names(own) != names(others) {
            "which scenarios it has"
        } else if own.scenarios != others.scenarios {
            "a scenario"
        } else if own.policies != others.policies {
            "its policies"
        } else if own.intents != others.intents {
            "its intents"
        } else if own.repeats != others.repeats || own.seed != others.seed {
            "repeats or seed"
        } else {
            "its settings"
        };
        Some(what.to_owned())
    }
}

/// The JSON Schema of a suite.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(Suite);
    serde_json::to_string_pretty(&schema).map_or_else(|_| String::new(), |text| text + "\n")
}

#[cfg(test)]
pub(crate) mod tests;
