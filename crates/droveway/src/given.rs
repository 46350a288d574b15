//! A plan that was made before and is to be executed exactly as it is: read, compared with what else was said, and refused
//! with the reason where the world has moved on.

use crate::exit::{Exit, Failure};
use droveway_fleet::{Intent, TimeSpan, VmId, report::Decision};
use droveway_plan::{
    Plan, SNAPSHOT_MAX_AGE,
    check::{Now, Violation},
    document,
    policy::DOWNTIME_DEFAULT,
};
use std::{collections::BTreeSet, fs, io::Read as _, path::Path, time::Duration};

/// Standard input, by the name that it has everywhere.
const STANDARD_INPUT: &str = "-";

/// A plan from a file.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) plan: Plan,
    origin: String,
    max_age: Option<TimeSpan>,
}

impl Given {
    /// Reads a plan, alone or as what `plan -o json` (or yaml) printed.
    pub(crate) fn read(path: &Path, max_age: Option<TimeSpan>) -> Result<Self, Failure> {
        let (origin, text) = if path.as_os_str() == STANDARD_INPUT {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            ("standard input".to_owned(), read.map(|_| text))
        } else {
            (path.display().to_string(), fs::read_to_string(path))
        };
        let text = text.map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
        let plan = document::read(&text, &origin).map_err(|error| {
            Failure::new(Exit::Usage, error)
                .hint("`droveway plan drain HOST --to HOST -o json` prints a plan")
        })?;
        let given = Given { plan, origin, max_age };
        // A date that nobody can read is a mistake in the file, whatever the world is like.
        given.age()?;
        Ok(given)
    }

    /// Refuses a command line that names other hosts or VMs than the plan.
    pub(crate) fn agrees(
        &self,
        host: Option<&str>,
        to: Option<&str>,
        vms: &[String],
    ) -> Result<(), Failure> {
        let Plan { source, target, .. } = &self.plan;
        let differs = |what: String| {
            Failure::usage(format!("{}: {what}", self.origin))
                .hint("leave it out, or plan for what you want")
        };
        if let Some(host) = host.filter(|host| *host != source.as_str()) {
            return Err(differs(format!("source: the plan leaves host '{source}', not '{host}'")));
        }
        if let Some(to) = to.filter(|to| *to != target.as_str()) {
            return Err(differs(format!("target: the plan goes to host '{target}', not '{to}'")));
        }
        let named: BTreeSet<&str> = vms.iter().map(String::as_str).collect();
        let planned: BTreeSet<&str> = self.plan.moves.iter().map(|s| s.vm.as_str()).collect();
        if !vms.is_empty() && named != planned {
            let planned: Vec<_> = planned.into_iter().collect();
            return Err(differs(format!("moves: the plan moves {}", planned.join(", "))));
        }
        Ok(())
    }

    /// How old the snapshot is that the plan was made from.
    fn age(&self) -> Result<Option<Duration>, Failure> {
        let Some(text) = &self.plan.snapshot_taken_at else { return Ok(None) };
        let age = age(text).ok_or_else(|| {
            Failure::usage(format!(
                "{}: snapshotTakenAt: '{text}' is not a time: write it like 2026-01-31T12:00:00Z",
                self.origin
            ))
        })?;
        Ok(Some(age))
    }

    /// How things stand with the plan itself; where its VMs are is for the caller to say.
    pub(crate) fn now(&self, generation: Option<u32>) -> Result<Now, Failure> {
        Ok(Now {
            snapshot_age: self.age()?,
            snapshot_max_age: self.max_age,
            generation,
            ..Now::default()
        })
    }

    /// What was asked for when the plan was made, as far as it says so.
    pub(crate) fn intent(&self, verb: &str) -> Intent {
        let plan = &self.plan;
        let vms = plan.moves.iter().map(|step| step.vm.clone()).collect();
        let (source, target) = (plan.source.clone(), plan.target.clone());
        let mut intent = Intent::drain(source, target, vms, &plan.policy);
        verb.clone_into(&mut intent.verb);
        // What moves aim at may be below what was asked for.
        intent.max_downtime = plan.max_downtime.unwrap_or(TimeSpan::from(DOWNTIME_DEFAULT));
        intent.urgency = plan.urgency;
        intent.deadline = plan.deadline;
        intent.max_exposed = plan.max_exposed;
        intent
    }

    /// The refusal: everything that has changed, and what to do.
    pub(crate) fn refused(&self, verb: &str, violations: &[Violation]) -> Failure {
        let Plan { id, source, target, .. } = &self.plan;
        let text: Vec<_> = violations.iter().map(|one| format!("\n  {one}")).collect();
        let what = if verb == "migrate" {
            let vms = self.plan.moves.iter().map(|step| step.vm.as_str());
            format!("migrate {}", vms.collect::<Vec<_>>().join(" "))
        } else {
            format!("drain {source}")
        };
        let mut hint = format!(
            "nothing was started; plan again: `droveway plan {what} --to {target} --measure 5s -o json`"
        );
        if violations.iter().any(|one| matches!(one, Violation::GroupSplit { .. })) {
            hint.push_str(
                ", or `droveway migrate --plan FILE`, which looks at the plan's VMs alone",
            );
        }
        Failure::says(
            Exit::Blocked,
            format!("plan '{id}' ({}) does not hold now:{}", self.origin, text.concat()),
        )
        .hint(hint)
    }

    /// That the plan was given, for the report.
    pub(crate) fn decision(&self) -> Decision {
        let Plan { id, generation, policy, .. } = &self.plan;
        let taken = self.plan.snapshot_taken_at.as_deref().unwrap_or("no snapshot");
        Decision {
            at_seconds: 0.0,
            vm: None::<VmId>,
            reason: "the plan was given".to_owned(),
            inputs: format!("generation {generation}, policy {policy}, snapshot: {taken}"),
            choice: format!("plan {id}"),
            runner_up: None,
            margin: None,
        }
    }
}

/// How long ago that was; `None` if it is not a time. What is in the future is as far from now as what is in the past: a
/// clock was set.
fn age(time: &str) -> Option<Duration> {
    let time: jiff::Timestamp = time.parse().ok()?;
    Some(jiff::Timestamp::now().duration_since(time).unsigned_abs())
}

/// Says of a plan that is shown, to be executed later, that it will be refused.
pub(crate) fn warn_of_age(plan: &Plan) {
    let max = plan.snapshot_max_age.unwrap_or(SNAPSHOT_MAX_AGE);
    let old = plan.snapshot_taken_at.as_deref().and_then(age);
    if let Some(old) = old.filter(|old| *old > max.duration()) {
        eprintln!(
            "note: the snapshot is {} s old; --plan takes at most {max}, so measure again (--measure 5s)",
            old.as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::Urgency;
    use droveway_plan::{GangFacts, VmFacts, policy};

    fn plan() -> Plan {
        let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let fact = VmFacts {
            vm: "web".parse().unwrap(),
            memory: droveway_fleet::Bytes::from_mib(512),
            allow_postcopy: true,
            max_downtime: None,
            deadline: None,
            group: None,
        };
        let facts = GangFacts { port_rate: "1Gbit/s".parse().unwrap(), vms: vec![fact] };
        let mut intent = Intent::drain(source, target, Vec::new(), "pre-copy-serial");
        intent.urgency = Urgency::Low;
        let policy = policy::find("pre-copy-serial").unwrap();
        policy.plan("run-1", &intent, &facts, None).unwrap().plan
    }

    fn read(plan: &Plan) -> Result<Given, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        fs::write(&path, serde_json::to_string(plan).unwrap()).unwrap();
        Given::read(&path, None)
    }

    #[track_caller]
    fn refused(result: Result<(), Failure>, parts: &[&str]) {
        let failure = result.expect_err("refused");
        assert_eq!(failure.exit, Exit::Usage);
        let text = format!("{:#} {}", failure.error, failure.hint.unwrap_or_default());
        for part in parts {
            assert!(text.contains(part), "'{text}' lacks '{part}'");
        }
    }

    #[test]
    fn a_command_line_that_says_otherwise_is_refused() {
        let given = read(&plan()).unwrap();
        let vms = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(given.agrees(Some("alpha"), Some("beta"), &vms(&["web"])).is_ok());
        assert!(given.agrees(None, None, &[]).is_ok());
        refused(given.agrees(Some("beta"), None, &[]), &["plan.json: source: ", "'alpha'"]);
        refused(given.agrees(None, Some("gamma"), &[]), &["target: ", "'beta', not 'gamma'"]);
        refused(given.agrees(None, None, &vms(&["db"])), &["moves: ", "moves web"]);
    }

    #[test]
    fn its_age_is_that_of_its_snapshot() {
        assert_eq!(read(&plan()).unwrap().now(Some(3)).unwrap().snapshot_age, None);
        let mut old = plan();
        old.snapshot_taken_at = Some("2020-01-01T00:00:00Z".to_owned());
        let year = Duration::from_secs(365 * 86_400);
        assert!(read(&old).unwrap().now(None).unwrap().snapshot_age > Some(year));
        old.snapshot_taken_at = Some("2999-01-01T00:00:00Z".to_owned());
        assert!(read(&old).unwrap().now(None).unwrap().snapshot_age > Some(year));
        old.snapshot_taken_at = Some("yesterday".to_owned());
        refused(
            read(&old).map(drop),
            &["plan.json: snapshotTakenAt: 'yesterday'", "write it like"],
        );
    }

    #[test]
    fn what_is_no_plan_names_file_field_and_remedy() {
        let mut none = plan();
        none.moves.clear();
        refused(read(&none).map(drop), &["plan.json: moves: ", "name at least one", "-o json"]);
        refused(Given::read(Path::new("/nowhere/p"), None).map(drop), &["/nowhere/p: "]);
    }

    #[test]
    fn a_refusal_says_what_moved_on_and_what_to_do() {
        let given = read(&plan()).unwrap();
        let there = [Violation::AlreadyThere("web".parse().unwrap())];
        let failure = given.refused("drain", &there);
        assert_eq!(failure.exit, Exit::Blocked);
        assert!(failure.error.to_string().contains("VM 'web' is at the target already"));
        assert!(failure.hint.unwrap().contains("droveway plan drain alpha --to beta"));
        assert!(given.refused("migrate", &there).hint.unwrap().contains("plan migrate web --to"));
    }

    #[test]
    fn what_was_asked_for_comes_from_the_plan() {
        let mut plan = plan();
        plan.deadline = Some(TimeSpan::from_secs(9));
        let intent = read(&plan).unwrap().intent("drain");
        assert_eq!(intent.urgency, Urgency::Low, "its ports yield to applications");
        assert_eq!((intent.deadline, intent.policy.as_str()), (plan.deadline, "pre-copy-serial"));
        assert_eq!(intent.max_downtime, TimeSpan::from(DOWNTIME_DEFAULT));
    }
}
