//! Which plans have been replaced: whoever has taken up a plan of a higher generation refuses one of a lower.
//!
//! A *line* is a plan and those that replaced it. Plans of generation 0 that replace none need no memory: there is nothing
//! lower. So only lines in which a plan was replaced are kept, the latest [`LINES_MAX`] of them.

use crate::{exit::Failure, state};
use droveway_fleet::{Fleet, document::API_VERSION};
use droveway_plan::Plan;
use serde::{Deserialize, Serialize};

/// The kind of the file.
const KIND: &str = "PlanLines";
/// A plan is not executed once its snapshot is some minutes old; more lines than this are not begun in that time.
const LINES_MAX: usize = 64;
/// So many plans of a line are told apart; an older one is long stale.
const IDS_MAX: usize = 64;

/// What is remembered of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lines {
    api_version: String,
    kind: String,
    /// The latest last.
    lines: Vec<Line>,
}

/// A plan and those that replaced it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    /// The highest that was taken up.
    generation: u32,
    /// Its plans, the latest last.
    ids: Vec<String>,
}

impl Default for Lines {
    fn default() -> Self {
        Lines { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), lines: Vec::new() }
    }
}

impl Lines {
    fn line_of(&self, plan: &Plan) -> Option<usize> {
        let of = |id: &String| *id == plan.id || Some(id) == plan.parent.as_ref();
        self.lines.iter().position(|line| line.ids.iter().any(of))
    }

    /// The highest generation of the plan's line.
    fn highest(&self, plan: &Plan) -> Option<u32> {
        self.line_of(plan).map(|index| self.lines[index].generation)
    }

    /// Takes a plan up.
    fn add(&mut self, plan: &Plan) {
        let mut line = match self.line_of(plan) {
            Some(index) => self.lines.remove(index),
            None => Line { generation: 0, ids: Vec::new() },
        };
        line.generation = line.generation.max(plan.generation);
        for id in plan.parent.iter().chain([&plan.id]) {
            if !line.ids.contains(id) {
                line.ids.push(id.clone());
            }
        }
        line.ids.drain(..line.ids.len().saturating_sub(IDS_MAX));
        self.lines.push(line);
        self.lines.drain(..self.lines.len().saturating_sub(LINES_MAX));
    }
}

/// The highest generation that was taken up of this plan, of the one that it replaces, or of one that replaced it.
pub(crate) fn highest(fleet: &Fleet, plan: &Plan) -> Result<Option<u32>, Failure> {
    Ok(read(fleet)?.highest(plan))
}

/// Remembers that this plan is taken up. To be called by who may move the fleet's VMs, before anything is touched: where
/// this cannot be kept, nothing is begun.
pub(crate) fn remember(fleet: &Fleet, plan: &Plan) -> Result<(), Failure> {
    if plan.generation == 0 && plan.parent.is_none() {
        return Ok(());
    }
    let mut lines = read(fleet)?;
    lines.add(plan);
    state::write(&lines, &state::plan_lines_path(fleet))
}

fn read(fleet: &Fleet) -> Result<Lines, Failure> {
    let path = state::plan_lines_path(fleet);
    // What cannot be read must not count as "nothing was replaced".
    Ok(state::read_if_there(&path, KIND)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(id: &str, parent: Option<&str>, generation: u32) -> Plan {
        let hosts = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let mut plan = Plan::new(id, "pre-copy-serial", hosts, 1, Vec::new());
        plan.parent = parent.map(str::to_owned);
        plan.generation = generation;
        plan
    }

    #[test]
    fn a_whole_line_is_overtaken_by_its_latest() {
        let mut lines = Lines::default();
        lines.add(&plan("b", Some("a"), 1));
        lines.add(&plan("c", Some("b"), 2));
        lines.add(&plan("other", Some("one"), 1));
        for (id, parent) in [("a", None), ("b", Some("a")), ("c", Some("b")), ("b2", Some("a"))] {
            assert_eq!(lines.highest(&plan(id, parent, 0)), Some(2), "{id}");
        }
        assert_eq!(lines.highest(&plan("one", None, 0)), Some(1));
        assert_eq!(lines.highest(&plan("new", None, 0)), None);
        // An earlier one that is taken up nevertheless takes nothing back.
        lines.add(&plan("a", None, 0));
        assert_eq!(lines.highest(&plan("c", None, 0)), Some(2));
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let mut lines = Lines::default();
        for index in 0..200_u32 {
            lines.add(&plan(&format!("child-{index}"), Some(&format!("root-{index}")), 1));
        }
        assert_eq!(lines.lines.len(), LINES_MAX);
        assert_eq!(lines.highest(&plan("root-199", None, 0)), Some(1));
        assert_eq!(lines.highest(&plan("root-0", None, 0)), None);
        for index in 0..200_u32 {
            let parent = format!("step-{index}");
            lines.add(&plan(&format!("step-{}", index + 1), Some(&parent), index + 1));
        }
        assert_eq!(lines.lines.len(), LINES_MAX);
        let last = lines.lines.last().unwrap();
        assert_eq!((last.ids.len(), last.generation), (IDS_MAX, 200));
    }
}
