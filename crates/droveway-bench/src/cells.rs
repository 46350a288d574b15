//! Cells: one scenario, policy, intent and repeat each; and the order in which they are run.
//!
//! Repeat by repeat, so that a bench that is stopped has the same of all scenarios; within it scenario by scenario, since a
//! laboratory takes its time to build; and of a scenario every policy with every intent once, in an order drawn anew each time.
//! So whatever drifts hits all alike, and the runs of one repeat are pairs.

use crate::suite::{Resolved, SuiteIntent, SuitePolicy};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

/// One run that a suite asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// The scenario's name.
    pub scenario: String,
    /// The policy's name in the suite.
    pub policy: String,
    /// The intent's name.
    pub intent: String,
    /// From 1.
    pub repeat: u32,
}

impl Cell {
    /// Its folder below the results', unique in a suite. Names are names of files, as documents have them.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("cells/{}/{}@{}/{}", self.scenario, self.policy, self.intent, self.repeat)
    }

    /// What is compared: policy and intent.
    #[must_use]
    pub fn arm(&self) -> String {
        format!("{}@{}", self.policy, self.intent)
    }
}

/// Every cell, in the order in which it is run.
#[must_use]
pub fn order(resolved: &Resolved) -> Vec<Cell> {
    let suite = &resolved.suite.spec;
    let intents = suite.intents();
    let mut random = StdRng::seed_from_u64(suite.seed);
    let mut cells = Vec::new();
    for repeat in 1..=suite.repeats {
        for scenario in &suite.scenarios {
            let first = cells.len();
            for policy in &suite.policies {
                for intent in suite.intents_of(policy) {
                    cells.push(Cell {
                        scenario: scenario.name.to_string(),
                        policy: policy.name().to_owned(),
                        intent: intents[intent].name.to_string(),
                        repeat,
                    });
                }
            }
            cells[first..].shuffle(&mut random);
        }
    }
    cells
}

impl Resolved {
    /// The policy of a cell of this suite.
    #[must_use]
    pub fn policy(&self, cell: &Cell) -> Option<&SuitePolicy> {
        self.suite.spec.policies.iter().find(|policy| policy.name() == cell.policy)
    }

    /// The intent of a cell of this suite.
    #[must_use]
    pub fn intent(&self, cell: &Cell) -> Option<SuiteIntent> {
        self.suite.spec.intents().into_iter().find(|intent| intent.name.as_str() == cell.intent)
    }

    /// The labels of a scenario.
    #[must_use]
    pub fn label(&self, scenario: &str, label: &str) -> Option<&str> {
        let scenario = self.suite.spec.scenarios.iter().find(|it| it.name.as_str() == scenario)?;
        scenario.labels.get(label).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::tests::resolved;
    use std::collections::BTreeSet;

    #[test]
    fn every_cell_comes_once_and_repeats_do_not_mix() {
        let resolved = resolved();
        let cells = order(&resolved);
        assert_eq!(cells.len() as u64, resolved.suite.spec.runs());
        let folders: BTreeSet<_> = cells.iter().map(Cell::folder).collect();
        assert_eq!(folders.len(), cells.len());
        let blocks: Vec<(u32, &str)> =
            cells.iter().map(|cell| (cell.repeat, cell.scenario.as_str())).collect();
        let mut met = blocks.clone();
        met.dedup();
        assert_eq!(met.len(), blocks.iter().collect::<BTreeSet<_>>().len(), "{blocks:?}");
        assert!(cells.is_sorted_by_key(|cell| cell.repeat), "{blocks:?}");
        let first = (1, cells[0].scenario.as_str());
        let arms: Vec<String> = cells
            .iter()
            .take_while(|cell| (cell.repeat, cell.scenario.as_str()) == first)
            .map(Cell::arm)
            .collect();
        // A policy that names its intents is run with those alone.
        assert_eq!(arms.iter().filter(|arm| arm.starts_with("pre-copy-serial@")).count(), 1);
        assert_eq!(arms.iter().filter(|arm| arm.starts_with("ours@")).count(), 2);
    }

    #[test]
    fn the_seed_is_the_order() {
        let resolved = resolved();
        assert_eq!(order(&resolved), order(&resolved));
        let mut orders = BTreeSet::new();
        for seed in 1..=20 {
            let mut other = resolved.clone();
            other.suite.spec.seed = seed;
            orders.insert(order(&other));
        }
        assert!(orders.len() > 10, "{} different orders of 20", orders.len());
    }
}
