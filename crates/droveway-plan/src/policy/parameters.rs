//! What can be set of a policy, and how that is read: `direction-greedy:window=30s`, `slamig:time=1,impact=0`.
//!
//! Parsed here alone; a policy asks [`Settings`] for what was said and has its own default otherwise.

use super::{GangFacts, Kind, Policy, PolicyError};
use crate::{
    habits::{Habit, LastResort, OvirtPolicy, ProductSettings},
    rules::Rule,
};
use droveway_fleet::{Ratio, TimeSpan, VmId, ids::nearest};
use droveway_model::world::World;
use std::collections::BTreeMap;

/// Something of a policy that can be set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it is measured in, and its range.
    pub unit: Unit,
    /// What it is unless set: a value, or in words where it depends.
    pub default: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// What a parameter is measured in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// A whole number, from the first to the second.
    Count(u32, u32),
    /// A number, from the first to the second.
    Number(f64, f64),
    /// A share: from 0 to 1, or in percent.
    Share,
    /// A length of time above zero, like `30s`.
    Span,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// VMs, each with a number where it is not 1: `db-1:5+web-2`.
    ByVm,
}

impl Unit {
    /// How it is written.
    #[must_use]
    pub fn form(self) -> String {
        match self {
            Unit::Count(least, most) => format!("a whole number from {least} to {most}"),
            Unit::Number(least, most) => format!("a number from {least} to {most}"),
            Unit::Share => "a share from 0 to 1, or in percent".to_owned(),
            Unit::Span => "a length of time, like 30s".to_owned(),
            Unit::Choice(words) => words.join(" or "),
            Unit::ByVm => "VMs, with a number where it is not 1, like db-1:5+web-2".to_owned(),
        }
    }

    /// The value; seconds for times, the place of a word; of VMs how many.
    fn parse(self, text: &str) -> Option<f64> {
        match self {
            Unit::Count(least, most) => {
                let value = text.parse::<u32>().ok()?;
                (least..=most).contains(&value).then_some(f64::from(value))
            }
            Unit::Number(least, most) => {
                let value = text.parse::<f64>().ok()?;
                (least..=most).contains(&value).then_some(value)
            }
            Unit::Share => text.parse::<Ratio>().ok().map(Ratio::get),
            Unit::Span => {
                let span = text.parse::<TimeSpan>().ok()?.duration();
                (!span.is_zero()).then_some(span.as_secs_f64())
            }
            Unit::Choice(words) => {
                let place = words.iter().position(|word| *word == text)?;
                u32::try_from(place).ok().map(f64::from)
            }
            Unit::ByVm => u32::try_from(by_vm(text)?.len()).ok().map(f64::from),
        }
    }
}

/// `db-1:5+web-2`: VMs, each with its number.
fn by_vm(text: &str) -> Option<BTreeMap<VmId, f64>> {
    let mut numbers = BTreeMap::new();
    for one in text.split('+') {
        let (name, number) = one.split_once(':').unwrap_or((one, "1"));
        let number = number.parse().ok().filter(|number| (0.0..=1e9).contains(number))?;
        if numbers.insert(name.parse().ok()?, number).is_some() {
            return None;
        }
    }
    Some(numbers)
}

const WINDOW: Parameter = Parameter {
    name: "window",
    unit: Unit::Span,
    default: "that of the snapshot",
    what: "the time over which rates are averaged; a snapshot has one such time",
};

const DEADLINE: Parameter = Parameter {
    name: "deadline",
    unit: Unit::Span,
    default: "the VM's own, and --deadline",
    what: "when each VM has to have arrived, from the start of the run",
};

const fn number(
    name: &'static str,
    unit: Unit,
    default: &'static str,
    what: &'static str,
) -> Parameter {
    Parameter { name, unit, default, what }
}

/// A weight, or a threshold, that nothing bounds from above.
const ANY: Unit = Unit::Number(0.0, 1_000.0);

impl Policy {
    /// What can be set of it.
    #[must_use]
    pub const fn parameters(&self) -> &'static [Parameter] {
        match self.kind {
            Kind::Published(rule) => of_rule(rule),
            Kind::Adaptive => {
                const {
                    &[
                        number(
                            "plays",
                            Unit::Count(100, 1_000_000),
                            "8000 over the number of VMs, at least 600",
                            "schedules that a search may play",
                        ),
                        number(
                            "seed",
                            Unit::Count(0, u32::MAX),
                            "1",
                            "chance, for gangs of which not every schedule is played",
                        ),
                        number(
                            "finish",
                            Unit::Number(1.0, 1_000.0),
                            "4",
                            "at low urgency without a deadline, within so many times what the fastest takes",
                        ),
                        number(
                            "technique",
                            Unit::Choice(&["any", "pre-copy", "post-copy", "hybrid"]),
                            "any",
                            "one way for every VM that permits it: an ablation",
                        ),
                        number(
                            "order",
                            Unit::Choice(&["free", "given"]),
                            "free",
                            "given: VMs start in the order in which they were named: an ablation",
                        ),
                        number(
                            "never-worse",
                            Unit::Choice(&["on", "off"]),
                            "on",
                            "off: what the search finds is taken also where it gains less than its own error: an ablation",
                        ),
                    ]
                }
            }
            Kind::Habit(habit) => of_habit(habit),
            Kind::Plain(..) => &[],
        }
    }

    /// Its parameters in a sentence.
    fn known(&self) -> String {
        let one =
            |of: &Parameter| format!("{} ({}; default {})", of.name, of.unit.form(), of.default);
        let known: Vec<String> = self.parameters().iter().map(one).collect();
        if known.is_empty() {
            "it has no parameters".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        }
    }
}

/// What a product does when its patience ends.
const THEN: Parameter = Parameter {
    name: "then",
    unit: Unit::Choice(&["abort", "post-copy", "pause"]),
    default: "abort",
    what: "when time is up: give up, post-copy where it is permitted (else pause), or pause until the rest is copied",
};

const fn of_habit(habit: Habit) -> &'static [Parameter] {
    match habit {
        Habit::Nova => &[THEN],
        Habit::Kubevirt | Habit::KubevirtStall | Habit::KubevirtRamp => {
            const {
                &[
                    THEN,
                    number(
                        "defaults",
                        Unit::Choice(&["old", "new"]),
                        "old",
                        "new: one at a time, and on time-outs as newer releases have them",
                    ),
                ]
            }
        }
        Habit::Ovirt => {
            const {
                &[number(
                    "policy",
                    Unit::Choice(OvirtPolicy::NAMES),
                    "minimal-downtime",
                    "oVirt's own migration policy; post-copy only where a VM permits it",
                )]
            }
        }
        Habit::Proxmox => {
            const {
                &[number(
                    "ha",
                    Unit::Count(1, 16),
                    "1",
                    "workers: so many at once; its HA manager has 4",
                )]
            }
        }
        Habit::Vsphere => &[],
    }
}

const fn of_rule(rule: Rule) -> &'static [Parameter] {
    match rule {
        Rule::DirectionGreedy | Rule::DirectionJoint => &[WINDOW],
        Rule::FuzzyCluster => {
            const {
                &[
                    number(
                        "fuzzifier",
                        Unit::Number(1.1, 100.0),
                        "2",
                        "how soft the clusters are: the larger, the softer",
                    ),
                    number(
                        "membership",
                        Unit::Share,
                        "0.6",
                        "what belongs less to either cluster is ambiguous, and pre-copied",
                    ),
                ]
            }
        }
        Rule::DynamicHybrid => {
            const {
                &[number(
                    "ratio",
                    Unit::Share,
                    "0.5",
                    "a pass that leaves at least this share of what the one before left has stalled",
                )]
            }
        }
        Rule::WsHybrid => {
            const { &[number("passes", Unit::Count(1, 1_000), "1", "pre-copy passes before the switch")] }
        }
        Rule::SerialOrParallel => {
            const {
                &[number(
                    "dirty-ratio",
                    ANY,
                    "0.8",
                    "a group that dirties less than this share of the channel moves in parallel",
                )]
            }
        }
        Rule::MMixed => {
            const {
                &[number(
                    "m",
                    Unit::Count(1, 1_000),
                    "that of the least downtime",
                    "so many VMs by pre-copy, at once; the others follow by post-copy",
                )]
            }
        }
        Rule::Solive => {
            const {
                &[number(
                    "idle",
                    Unit::Share,
                    "0.05",
                    "a VM that strains network, memory and CPU by less is idle",
                )]
            }
        }
        Rule::Slamig => {
            const {
                &[
                    number("time", ANY, "0.5", "weight of a VM's own time"),
                    number("impact", ANY, "0.1", "weight of its impact on the others"),
                ]
            }
        }
        Rule::Pacer => {
            const {
                &[
                    DEADLINE,
                    number(
                        "headroom",
                        ANY,
                        "0.05",
                        "what a stream goes faster than it must, as a share",
                    ),
                ]
            }
        }
        Rule::Pava => {
            const {
                &[
                    number("floor", Unit::Share, "0.05", "what a class gets of the port at least"),
                    number(
                        "critical",
                        Unit::ByVm,
                        "no VM",
                        "VMs whose applications come before any migration",
                    ),
                ]
            }
        }
        Rule::TimeWindowBroker => {
            const {
                &[
                    DEADLINE,
                    number(
                        "priority",
                        Unit::ByVm,
                        "1 for every VM",
                        "who comes first: the highest",
                    ),
                    number(
                        "penalty",
                        Unit::ByVm,
                        "none",
                        "what a second beyond each VM's deadline costs; the dearest come first, whatever their priority",
                    ),
                ]
            }
        }
        Rule::Fpta => {
            const {
                &[number(
                    "cap",
                    Unit::Share,
                    "100%",
                    "what one VM may be granted of the link at most",
                )]
            }
        }
        Rule::ImprovedSerial
        | Rule::SyncFinish
        | Rule::Cqncr
        | Rule::Mvm
        | Rule::MinutilO
        | Rule::Alma
        | Rule::ClarkRate
        | Rule::RoundRobin => &[],
    }
}

/// What was set, by name; seconds for times.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Settings {
    numbers: BTreeMap<&'static str, f64>,
    by_vm: BTreeMap<&'static str, BTreeMap<VmId, f64>>,
}

impl Settings {
    /// What stands behind a policy's name.
    pub(super) fn parse(policy: &Policy, given: Option<&str>) -> Result<Self, PolicyError> {
        let mut settings = Settings::default();
        let wrong = |problem: String| PolicyError::Parameter {
            policy: policy.name,
            problem,
            known: policy.known(),
        };
        for one in given.into_iter().flat_map(|given| given.split(',')) {
            let Some((name, text)) = one.split_once('=') else {
                let example = format!("{}:name=value,name=value", policy.name);
                return Err(wrong(format!("'{one}' is no parameter: write {example}")));
            };
            let all = policy.parameters();
            let Some(parameter) = all.iter().find(|parameter| parameter.name == name) else {
                let meant = nearest(name, all.iter().map(|parameter| parameter.name))
                    .map_or_else(String::new, |meant| format!(", did you mean '{meant}'?"));
                return Err(wrong(format!("unknown parameter '{name}'{meant}")));
            };
            let Some(value) = parameter.unit.parse(text) else {
                return Err(wrong(format!("{name}={text}: write {}", parameter.unit.form())));
            };
            if settings.numbers.insert(parameter.name, value).is_some() {
                return Err(wrong(format!("'{name}' is set twice")));
            }
            if let (Unit::ByVm, Some(numbers)) = (parameter.unit, by_vm(text)) {
                settings.by_vm.insert(parameter.name, numbers);
            }
        }
        Ok(settings)
    }

    /// Refuses what the measurement cannot give: its rates are means over one window, and none for another can be made
    /// from them.
    /// Nor does it name VMs that do not move.
    pub(super) fn fit(
        &self,
        policy: &str,
        world: &World,
        facts: &GangFacts,
    ) -> Result<(), PolicyError> {
        let moves = |vm: &VmId| facts.vms.iter().any(|fact| fact.vm == *vm);
        for (name, numbers) in &self.by_vm {
            if let Some(vm) = numbers.keys().find(|vm| !moves(vm)) {
                return Err(PolicyError::Contradiction(format!(
                    "policy '{policy}': {name} names VM '{vm}', which is not one of those that move"
                )));
            }
        }
        let (Some(wanted), Some(has)) = (self.number("window"), world.window_seconds) else {
            return Ok(());
        };
        if (wanted - has).abs() <= WINDOW_TOLERANCE * wanted {
            return Ok(());
        }
        Err(PolicyError::Contradiction(format!(
            "policy '{policy}': window={wanted}s, but the snapshot's rates are means over {has:.0} s: \
             measure for {wanted}s, or leave window out"
        )))
    }

    /// A value, if it was set; seconds for times.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.numbers.get(name).copied()
    }

    /// A VM's number, if VMs were named: zero for those that were not.
    pub(crate) fn of_vm(&self, name: &str, vm: &VmId) -> Option<f64> {
        let numbers = self.by_vm.get(name)?;
        Some(numbers.get(vm).copied().unwrap_or(0.0))
    }

    /// How the operator has set a product.
    pub(super) fn product(&self) -> ProductSettings {
        let default = ProductSettings::default();
        ProductSettings {
            then: match self.count("then") {
                Some(1) => LastResort::PostCopy,
                Some(2) => LastResort::ForceStop,
                _ => default.then,
            },
            newer: self.count("defaults") == Some(1),
            ovirt: self.count("policy").map_or(default.ovirt, OvirtPolicy::nth),
            workers: self.count("ha").unwrap_or(default.workers),
        }
    }

    /// A whole number, if it was set.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count was read as one"
    )]
    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        self.number(name).map(|value| value as u32)
    }

    /// Replaces a default, if it was set.
    pub(crate) fn set(&self, name: &str, default: &mut f64) {
        if let Some(value) = self.number(name) {
            *default = value;
        }
    }
}

/// A measurement on a busy machine takes somewhat longer than it was asked to; a mean over that is as good.
const WINDOW_TOLERANCE: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::super::{POLICIES, find};
    use super::*;
    use crate::{
        adaptive::{Effort, PLAYS_LEAST, VM_PLAYS},
        policy::HYBRID_RULE,
        published,
        rules::PACE_HEADROOM,
    };

    #[track_caller]
    fn refused(text: &str, parts: &[&str]) {
        let error = find(text).expect_err("refused").to_string();
        for part in parts {
            assert!(error.contains(part), "'{error}' lacks '{part}'");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_there_is() {
        refused("direction-gredy:window=1s", &["did you mean 'direction-greedy'?"]);
        refused("direction-greedy:windw=1s", &["'windw', did you mean 'window'?", "like 30s"]);
        refused("direction-greedy:window=30", &["window=30: write a length of time", "it has"]);
        refused("direction-greedy:window=0s", &["window=0s"]);
        refused("direction-greedy:", &["'' is no parameter", "direction-greedy:name=value"]);
        refused("m-mixed:m", &["'m' is no parameter"]);
        refused("m-mixed:m=0", &["from 1 to 1000"]);
        refused("m-mixed:m=1.5", &["a whole number"]);
        refused("slamig:time=1,time=2", &["'time' is set twice"]);
        refused("slamig:time=NaN", &["from 0 to 1000"]);
        refused("dynamic-hybrid:ratio=1.5", &["a share from 0 to 1", "default 0.5"]);
        refused("pre-copy-serial:m=1", &["unknown parameter 'm'", "it has no parameters"]);
        refused("nova-like:then=wait", &["then=wait: write abort or post-copy or pause"]);
        refused("ovirt-ladder:policy=suspended", &["minimal-downtime or post-copy or suspend"]);
        refused("pava:critical=a+a", &["critical=a+a: write VMs"]);
        refused("time-window-broker:priority=a:-1", &["priority=a:-1: write VMs"]);
    }

    #[test]
    fn what_is_right_is_read() {
        let chosen = find("pacer:deadline=90s,headroom=0.1").unwrap();
        assert_eq!((chosen.name, chosen.settings.number("deadline")), ("pacer", Some(90.0)));
        assert_eq!(chosen.settings.number("headroom"), Some(0.1));
        assert_eq!(find("adaptive:plays=300").unwrap().settings.count("plays"), Some(300));
        let broker = find("time-window-broker:priority=db-1:5+web.2,deadline=9s").unwrap();
        let of = |vm: &str| broker.settings.of_vm("priority", &vm.parse().unwrap());
        assert_eq!([of("db-1"), of("web.2"), of("x")], [Some(5.0), Some(1.0), Some(0.0)]);
        assert_eq!(broker.settings.of_vm("penalty", &"x".parse().unwrap()), None);
        let half = find("dynamic-hybrid:ratio=50%").unwrap();
        assert_eq!(half.settings.number("ratio"), Some(0.5));
        assert_eq!(find("slamig").unwrap().settings, Settings::default());
    }

    /// What is printed as a default is what the rule does.
    #[test]
    fn defaults_are_those_of_the_rules() {
        let seed = f64::from(u32::try_from(Effort::default().seed).unwrap());
        let expected = [
            ("fuzzifier", published::fuzzy_cluster::Parameters::default().fuzzifier),
            ("membership", published::fuzzy_cluster::Parameters::default().membership_min),
            ("ratio", HYBRID_RULE.stalled_ratio),
            ("passes", f64::from(HYBRID_RULE.after_pass)),
            ("dirty-ratio", published::serial_or_parallel::Parameters::default().dirty_ratio_max),
            ("idle", published::solive::Parameters::default().idle_below),
            ("time", published::slamig::Parameters::default().time),
            ("impact", published::slamig::Parameters::default().impact),
            ("headroom", PACE_HEADROOM),
            ("seed", seed),
            ("finish", Effort::default().finish_times),
            ("technique", 0.0),
            ("order", 0.0),
            ("never-worse", 0.0),
            ("cap", 1.0),
            ("then", 0.0),
            ("defaults", 0.0),
            ("policy", 0.0),
            ("ha", f64::from(ProductSettings::default().workers)),
        ];
        let mut seen = 0;
        for parameter in POLICIES.iter().flat_map(|policy| policy.parameters()) {
            let own = expected.iter().find(|(name, _)| *name == parameter.name);
            let Some((name, value)) = own else { continue };
            assert_eq!(parameter.unit.parse(parameter.default), Some(*value), "{name}");
            seen += 1;
        }
        // Three of KubeVirt's habits share two parameters, and Nova one of them.
        assert_eq!(seen, expected.len() + 3 + 2);
        assert_eq!(Settings::default().product(), ProductSettings::default());
        // What depends on the gang is told in words.
        let adaptive = find("adaptive").unwrap();
        let plays = adaptive.parameters().iter().find(|of| of.name == "plays").unwrap();
        let words = format!("{VM_PLAYS} over the number of VMs, at least {PLAYS_LEAST}");
        assert_eq!(plays.default, words);
    }
}
