//! What can be set of a policy, and how that is read: `direction-greedy:window=30s`, `slamig:time=1,impact=0`.
//!
//! Parsed here alone; a policy asks [`Settings`] for what was said and has its own default otherwise.

use super::{Kind, Policy, PolicyError};
use crate::rules::Rule;
use droveway_fleet::{Ratio, TimeSpan, ids::nearest};
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
        }
    }

    /// The value, seconds for times.
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
        }
    }
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
                            "2500, 6000 beyond 16 VMs",
                            "schedules that each search of a gang of more than 5 VMs may play",
                        ),
                        number(
                            "seed",
                            Unit::Count(0, u32::MAX),
                            "1",
                            "chance, for gangs of more than 5 VMs",
                        ),
                    ]
                }
            }
            _ => &[],
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
            const { &[number("floor", Unit::Share, "0.05", "what a class gets of the port at least")] }
        }
        Rule::TimeWindowBroker => &[DEADLINE],
        _ => &[],
    }
}

/// What was set, by name; seconds for times.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Settings(BTreeMap<&'static str, f64>);

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
            if settings.0.insert(parameter.name, value).is_some() {
                return Err(wrong(format!("'{name}' is set twice")));
            }
        }
        Ok(settings)
    }

    /// Refuses what the measurement cannot give: its rates are means over one window, and none for another can be made
    /// from them.
    pub(super) fn fit(&self, policy: &str, world: &World) -> Result<(), PolicyError> {
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
        self.0.get(name).copied()
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
    use crate::{adaptive::Effort, policy::HYBRID_RULE, published, rules::PACE_HEADROOM};

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
    }

    #[test]
    fn what_is_right_is_read() {
        let chosen = find("pacer:deadline=90s,headroom=0.1").unwrap();
        assert_eq!((chosen.name, chosen.settings.number("deadline")), ("pacer", Some(90.0)));
        assert_eq!(chosen.settings.number("headroom"), Some(0.1));
        assert_eq!(find("adaptive:plays=300").unwrap().settings.count("plays"), Some(300));
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
        ];
        let mut seen = 0;
        for parameter in POLICIES.iter().flat_map(|policy| policy.parameters()) {
            let own = expected.iter().find(|(name, _)| *name == parameter.name);
            let Some((name, value)) = own else { continue };
            assert_eq!(parameter.unit.parse(parameter.default), Some(*value), "{name}");
            seen += 1;
        }
        assert_eq!(seen, expected.len());
    }
}
