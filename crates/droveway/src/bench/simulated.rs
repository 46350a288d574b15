//! Cells in the simulator: in this process, one after the other. A repeat's seed is its number, so that all policies of a
//! repeat have the same chance.

use super::{intent, is_probed, progress::Progress, scenario, store::Store};
use crate::{
    exit::{Exit, Failure},
    report, simulate, state,
};
use anyhow::Context as _;
use droveway_bench::{Attempt, Cell, CellResult, suite::Switch};
use droveway_fleet::Scenario;
use droveway_sim::Physics;
use std::fs;

pub(super) fn run(
    store: &Store,
    cells: &[(usize, Cell)],
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    let mut physics = Physics::default();
    if let Some(path) = &store.calibration {
        physics.constants = state::calibration(path)?.constants;
    }
    let mut current: Option<Scenario> = None;
    for (place, cell) in cells {
        let kept = current.take().filter(|it| it.metadata.name.as_str() == cell.scenario);
        let scenario = match kept {
            Some(scenario) => scenario,
            None => scenario(&store.resolved, &cell.scenario)?,
        };
        progress.begin(cell);
        let attempt = attempt(store, cell, &scenario, physics)?;
        // Nothing changes if the same is simulated again.
        let result = CellResult { cell: cell.clone(), place: *place, attempts: vec![attempt] };
        store.keep(&result)?;
        progress.done(&result);
        current = Some(scenario);
    }
    Ok(Exit::Done)
}

fn attempt(
    store: &Store,
    cell: &Cell,
    scenario: &Scenario,
    physics: Physics,
) -> Result<Attempt, Failure> {
    let folder = store.attempt(cell, 1)?;
    let asked = intent(&store.resolved, cell, &scenario.spec);
    let policy = store.resolved.policy(cell);
    let Some((mut asked, policy)) = asked.zip(policy) else {
        return Err(Failure::says(Exit::Internal, format!("no cell of the suite: {cell:?}")));
    };
    "simulate".clone_into(&mut asked.verb);
    // Simulated ports can always be shaped, and simulated sockets tuned.
    asked.shaping = true;
    asked.tuning = match policy.tuning {
        Switch::Auto => policy.is_ours(),
        Switch::On => true,
        Switch::Off => false,
    };
    let wish = simulate::Wish {
        scenario,
        intent: &asked,
        physics,
        seed: u64::from(cell.repeat),
        limit_asked: true,
        // Where nothing changes there is nothing to plan again for.
        replans: match policy.replan {
            Switch::Auto => policy.is_ours() && !scenario.spec.changes.is_empty(),
            Switch::On => true,
            Switch::Off => false,
        },
    };
    let mut said = String::new();
    let outcome = wish.simulated(&mut |line| {
        said.push_str(line);
        said.push('\n');
    });
    let log = folder.join("log.txt");
    fs::write(&log, &said).with_context(|| format!("writing {}", log.display()))?;
    let made = match outcome {
        Ok(made) => made,
        // A law that is broken is a fault of ours, which no table hides.
        Err(failure) if failure.exit == Exit::Internal => return Err(failure),
        Err(failure) => {
            let code = i32::from(failure.exit.code());
            return Ok(Attempt::without_report(Some(code), &format!("{:#}", failure.error)));
        }
    };
    report::write(&made, Some(&folder))?;
    Ok(Attempt::of(&made, Some(i32::from(made.exit_code)), is_probed(&scenario.spec)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::resolved;
    use droveway_bench::suite::Stage;
    use std::path::Path;

    /// The suite of faults can be run here, and its faults do happen.
    #[test]
    fn faults_of_a_suite_happen_and_are_planned_with() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites/faults.yaml");
        let mut suite = resolved(&path, Some(Stage::Simulator)).unwrap();
        let spec = &mut suite.suite.spec;
        spec.repeats = 1;
        spec.scenarios.retain(|it| ["control", "port-halved"].contains(&it.name.as_str()));
        spec.policies.retain(|it| it.name() == "pre-copy-serial");
        let folder = tempfile::tempdir().unwrap();
        let store = Store::begin(&folder.path().join("out"), suite, false, None).unwrap();
        let cells = store.left().unwrap();
        run(&store, &cells, &mut Progress::new(&store, &cells).unwrap()).unwrap();
        let results = store.results().unwrap();
        let seconds = |name: &str| {
            let of = results.iter().find(|it| it.cell.scenario == name).unwrap();
            of.moved().unwrap_or_else(|| panic!("{:?}", of.attempts)).total_seconds
        };
        let [calm, halved] = ["control", "port-halved"].map(seconds);
        assert!(calm > 20.0 && halved > 1.3 * calm, "{calm} s, and at half the rate {halved} s");
    }
}
