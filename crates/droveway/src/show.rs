//! What `plan` and `--dry-run` print: the plan, its forecast and its reasons.

mod rows;
mod table;

pub(crate) use rows::{Row, Subject, rows};

use crate::{
    cli::{self, Output},
    exit::Failure,
    explain,
    outlook::Outlook,
    render::{self, PlanPicture},
    state,
};
use droveway_fleet::{Intent, Technique, TimeSpan, report::Decision};
use droveway_model::forecast::Forecast;
use droveway_plan::{Direction, Fallback, Move, Plan, Reasoning, explain::Explanation, policy};
use std::path::Path;

/// A plan and what there is to say about it. Its `plan` is a document that `--plan` takes, also with the rest around it.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown<'a> {
    pub(crate) plan: &'a Plan,
    /// What the table says, move by move.
    pub(crate) moves: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wait: Option<Wait>,
    /// What is odd about it, but no reason to refuse it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
    pub(crate) forecast: Option<&'a Forecast>,
    pub(crate) reasoning: Option<&'a Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) explanation: Option<&'a Explanation>,
}

/// A plan that does not begin at once.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Wait {
    /// From the run's start to the first VM's.
    pub(crate) seconds: f64,
    pub(crate) reason: String,
}

impl Wait {
    /// What a plan waits for: it says for how long, its policy why.
    pub(crate) fn of(plan: &Plan) -> Option<Wait> {
        let seconds = plan.start_after?.duration().as_secs_f64();
        let reason = match policy::find(&plan.policy) {
            Ok(policy) if policy.searches() => {
                "a quieter phase of the VMs' traffic or dirtying is expected then".to_owned()
            }
            Ok(policy) => format!("policy {} starts {}", policy.name, policy.summary),
            Err(_) => "the plan says so".to_owned(),
        };
        Some(Wait { seconds, reason })
    }

    /// In a sentence.
    pub(crate) fn text(&self) -> String {
        format!("waits {:.0} s before the first VM starts: {}", self.seconds, self.reason)
    }

    /// For the report.
    pub(crate) fn decision(&self) -> Decision {
        Decision {
            at_seconds: 0.0,
            vm: None,
            reason: self.reason.clone(),
            inputs: "the plan".to_owned(),
            choice: format!("wait {:.0} s before the first VM starts", self.seconds),
            runner_up: Some("start at once".to_owned()),
            margin: None,
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn print(shown: &Shown<'_>, output: Output) -> Result<(), Failure> {
    if output != Output::Table {
        return cli::print_data(shown, output);
    }
    println!("{}", text(shown, table::width()));
    Ok(())
}

/// All of it, for people.
fn text(shown: &Shown<'_>, width: u16) -> String {
    let plan = shown.plan;
    let at_once = match plan.concurrency {
        1 => "one at a time".to_owned(),
        n => format!("up to {n} at once"),
    };
    let mut lines = vec![format!(
        "{} -> {}, policy {}, urgency {}, {at_once}; nothing was started",
        plan.source, plan.target, plan.policy, plan.urgency
    )];
    lines.extend(shown.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.extend(shown.wait.as_ref().map(Wait::text));
    lines.push(table::table(&shown.moves, width));
    if shown.forecast.is_some() {
        lines.push(table::LEGEND.to_owned());
    }
    lines.push(limits(plan));
    lines.push(ports(plan));
    if let Some(forecast) = shown.forecast {
        let time = forecast.total_seconds;
        lines.push(format!(
            "forecast: {:.2} s in all ({:.2} to {:.2} s), applications lose {}",
            time.p50,
            time.p10,
            time.p90,
            table::lost(forecast.lost_bytes)
        ));
    }
    match (shown.explanation, shown.reasoning) {
        (Some(explanation), _) => lines.push(format!("\n{}", explanation.text)),
        (None, Some(reasoning)) => lines.push(format!("\n{}", explain::text(reasoning))),
        (None, None) => {}
    }
    lines.join("\n")
}

/// What downtime is aimed at, and what becomes of a pre-copy that does not converge.
fn limits(plan: &Plan) -> String {
    let passes = |step: &&Move| matches!(step.technique, Technique::PreCopy | Technique::Hybrid);
    let mut parts = Vec::new();
    let aimed = |step: &Move| TimeSpan::from(step.downtime_limit).to_string();
    let aims: Vec<&Move> =
        plan.moves.iter().filter(|step| step.technique != Technique::StopAndCopy).collect();
    if !aims.is_empty() {
        parts.push(format!("downtime aimed at: {}", by_value(&aims, aimed)));
    }
    let (ruled, others): (Vec<&Move>, Vec<&Move>) =
        plan.moves.iter().filter(passes).partition(|step| step.ladder.is_some());
    let then = |step: &Move| match step.fallback {
        Fallback::PostCopy => "post-copy ends it".to_owned(),
        Fallback::Abort => "stays at the source".to_owned(),
    };
    if !others.is_empty() {
        parts.push(format!("who does not converge: {}", by_value(&others, then)));
    }
    if !ruled.is_empty() {
        parts.push("a rule of the policy changes limits and rates while VMs move".to_owned());
    }
    if let Some(turns) = plan.turns {
        let (fast, slow) = (turns.fast.human(), turns.slow.human());
        parts.push(format!("streams take turns: one has {fast}, the others {slow}"));
    }
    if parts.is_empty() { "no limits".to_owned() } else { parts.join("; ") }
}

/// The value that all have, or each with those who have it.
fn by_value(steps: &[&Move], of: impl Fn(&Move) -> String) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for step in steps {
        let value = of(step);
        match groups.iter_mut().find(|(known, _)| *known == value) {
            Some((_, vms)) => vms.push(step.vm.as_str()),
            None => groups.push((value, vec![step.vm.as_str()])),
        }
    }
    match groups.as_slice() {
        [(value, _)] => value.clone(),
        _ => {
            let one = |(value, vms): &(String, Vec<&str>)| format!("{value} ({})", vms.join(", "));
            groups.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    }
}

/// What becomes of ports and sockets while the plan is carried out, and what it costs if nothing does.
fn ports(plan: &Plan) -> String {
    let held: Vec<String> = plan
        .reservations
        .iter()
        .map(|held| {
            let direction = match held.direction {
                Direction::Tx => "sends",
                Direction::Rx => "receives",
            };
            format!("{} of what {} {direction}", held.rate.human(), held.port)
        })
        .collect();
    let ports = if held.is_empty() {
        "ports: nothing is held, moves and applications share by flow".to_owned()
    } else {
        format!("ports: held for the moves: {}", held.join(", "))
    };
    let splits = plan
        .moves
        .iter()
        .any(|step| step.technique.exposes() || step.fallback == Fallback::PostCopy);
    let sockets = if plan.tuning {
        "; the migrations' sockets are tuned"
    } else {
        "; the migrations' sockets stay as QEMU makes them"
    };
    // Both are needed: an urgent class alone, or tuned sockets alone, change nothing (measured).
    let wait = if splits && (held.is_empty() || !plan.tuning) {
        "; after a switch to post-copy a guest's pages wait behind the stream"
    } else {
        ""
    };
    [&ports, sockets, wait].concat()
}

/// Why no plan can be drawn.
pub(crate) fn nothing_to_draw_from(path: &Path, fleet: &str) -> Failure {
    Failure::usage(format!(
        "--svg {}: there is no fresh snapshot of fleet '{fleet}' to draw a plan from",
        path.display()
    ))
    .hint("measure first: `droveway measure`, or add --measure 5s, or name one with --snapshot")
}

/// Draws the plan into a file. `deadlines` are those of the plan's VMs, in its order.
pub(crate) fn draw(
    plan: &Plan,
    intent: &Intent,
    deadlines: &[Option<TimeSpan>],
    outlook: &Outlook,
    path: &Path,
) -> Result<(), Failure> {
    let (course, trace) = outlook.trace();
    let svg = render::plan_picture(&PlanPicture {
        plan,
        intent,
        deadlines,
        forecast: &outlook.forecast,
        gang: outlook.gang(),
        course: &course,
        trace: &trace,
    });
    keep_picture(&svg, path)?;
    eprintln!("picture: {}", path.display());
    Ok(())
}

fn keep_picture(svg: &str, path: &Path) -> Result<(), Failure> {
    state::write_text(svg, path).map_err(|failure| {
        Failure::usage(format!("--svg: {:#}", failure.error))
            .hint("name a file in a folder that you may write to")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use droveway_fleet::{Scenario, VmId, document, scenario::ScenarioSpec};
    use droveway_model::{
        calibration::Calibration,
        fluid::{Fluid, Gang, Start},
        forecast::forecast,
        world::World,
    };
    use droveway_plan::{GangFacts, Known, Made, VmFacts, play};

    const SCENARIO: &str = "apiVersion: droveway/v1\nkind: Scenario\nmetadata: { name: s }\nspec:\n  \
         link: { rate: 1Gbit/s }\n  hosts: [ { name: alpha }, { name: beta } ]\n  clients: [ { name: client } ]\n  \
         vms:\n    - { name: web, host: alpha, memory: 512MiB }\n    - { name: db, host: alpha, memory: 256MiB }\n  \
         traffic:\n    - { name: pages, from: web, to: client, kind: tcp, rate: 400Mbit/s, flows: 8 }\n";

    /// Two VMs by this policy, the first of which sends.
    fn example(policy: &str) -> (Intent, Made, Forecast, Gang) {
        let scenario: Scenario = document::parse::<ScenarioSpec>(SCENARIO, "s").unwrap();
        let physics = droveway_sim::Physics::default();
        let world = World::of(&droveway_sim::snapshot(&scenario, &physics), physics.constants);
        let calibration = Calibration { constants: physics.constants, ..Calibration::default() };
        let fact = |name: &str| VmFacts {
            vm: name.parse().unwrap(),
            memory: droveway_fleet::Bytes::from_mib(512),
            allow_postcopy: name != "db",
            max_downtime: None,
            deadline: None,
            group: None,
        };
        let port_rate = "1Gbit/s".parse().unwrap();
        let facts = GangFacts { port_rate, vms: vec![fact("web"), fact("db")] };
        let vms: Vec<VmId> = facts.vms.iter().map(|fact| fact.vm.clone()).collect();
        let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let intent = Intent::drain(source, target, vms, policy);
        let known = Known { world: &world, calibration: &calibration };
        let made = policy::find(policy).unwrap().plan("p", &intent, &facts, Some(known)).unwrap();
        let (moves, windows) = play::moves(&made.plan, &world).unwrap();
        let forecast = forecast(&world, &moves, &windows, &calibration, &mut Fluid::default());
        (intent, made, forecast, Gang { moves, windows, ..world.gang })
    }

    #[test]
    fn each_row_says_when_how_fast_what_it_costs_and_why() {
        let (intent, made, forecast, gang) = example("post-copy-serial");
        let (forecast, gang) = (Some(&forecast), Some(&gang));
        let rows = rows(&Subject { made: &made, intent: &intent, forecast, gang });
        let [web, db] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((web.starts.as_str(), web.after), ("at once", None));
        assert_eq!((db.starts.as_str(), db.after), ("after web", Some(0)));
        assert!(db.start_seconds > Some(0.5), "{db:?}");
        assert_eq!(web.why, ["TX 42, RX 0 %", "all go alike"]);
        assert_eq!(db.why, ["no traffic", "the VM forbids post-copy"]);
        assert!(web.lost_bytes.is_some_and(|lost| lost.p10 > 1e6 && lost.p10 < lost.p90));
        assert!(db.lost_bytes.is_some_and(|lost| lost.p90 == 0.0), "{db:?}");

        // The ceiling that applies.
        let mut capped = made.clone();
        capped.plan.moves[0].bandwidth = "300Mbit/s".parse().unwrap();
        capped.plan.moves[0].postcopy_bandwidth = "100Mbit/s".parse().unwrap();
        capped.plan.moves[1].bandwidth = "200Mbit/s".parse().unwrap();
        let rate = |made: &Made, technique| {
            let mut made = made.clone();
            made.plan.moves[0].technique = technique;
            let rows = super::rows(&Subject { made: &made, intent: &intent, forecast, gang });
            let of = |bits: Option<u64>| bits.map_or(0, |bits| bits / 1_000_000);
            (of(rows[0].rate_bits_per_second), of(rows[0].background_bits_per_second))
        };
        for (technique, expected) in [
            (Technique::PreCopy, (300, 0)),
            (Technique::PostCopy, (100, 0)),
            (Technique::Hybrid, (300, 100)),
            (Technique::StopAndCopy, (0, 0)),
        ] {
            assert_eq!(rate(&capped, technique), expected, "{technique}");
        }
    }

    #[test]
    fn what_is_printed_for_people_is_printed_for_programs_too() {
        let (intent, mut made, forecast, gang) = example("adaptive");
        made.plan.start_after = Some(TimeSpan::from_secs(20));
        let subject =
            Subject { made: &made, intent: &intent, forecast: Some(&forecast), gang: Some(&gang) };
        let shown = Shown {
            plan: &made.plan,
            moves: rows(&subject),
            wait: Wait::of(&made.plan),
            warnings: vec!["a group is split".to_owned()],
            forecast: Some(&forecast),
            reasoning: made.reasoning.as_ref(),
            explanation: None,
        };
        let text = text(&shown, 100);
        for part in [
            "urgency medium",
            "warning: a group is split",
            "waits 20 s before the first VM starts: a quieter phase",
            "after wait",
            "downtime aimed at: 257ms",
            "applications lose ",
            "ports: ",
            "cost ",
        ] {
            assert!(text.contains(part), "no '{part}' in:\n{text}");
        }
        let value = serde_json::to_value(&shown).unwrap();
        assert_eq!(value["wait"]["seconds"], 20.0);
        assert_eq!(value["warnings"][0], "a group is split");
        for row in value["moves"].as_array().unwrap() {
            for field in ["durationSeconds", "downtimeSeconds", "outageSeconds", "lostBytes"] {
                assert!(row[field]["p10"].is_number() && row[field]["p90"].is_number(), "{field}");
            }
            for field in ["vm", "technique", "startSeconds", "starts", "rateBitsPerSecond", "why"] {
                assert!(row.get(field).is_some(), "{field}");
            }
            assert!(row["why"].as_array().is_some_and(|words| words.len() == 2), "{row}");
        }
        // It is still a plan to be carried out.
        let given = droveway_plan::document::read(&value.to_string(), "plan.json");
        assert_eq!(given.as_ref(), Ok(&made.plan));
    }

    #[test]
    fn starts_are_those_of_the_forecast_after_a_wait() {
        let (intent, mut made, _, mut gang) = example("pre-copy-serial");
        made.plan.start_after = Some(TimeSpan::from_secs(20));
        gang.moves[0].start = Start::At(20.0);
        gang.moves[1].start = Start::AfterEnd { step: 0, delay: 0.0 };
        let (moves, windows) = (gang.moves.clone(), gang.windows.clone());
        let world = World::named(gang.clone(), Vec::new(), Vec::new());
        let late =
            forecast(&world, &moves, &windows, &Calibration::default(), &mut Fluid::default());
        let (forecast, gang) = (Some(&late), Some(&gang));
        let rows = rows(&Subject { made: &made, intent: &intent, forecast, gang });
        assert_eq!(
            (rows[0].starts.as_str(), rows[0].start_seconds),
            ("after the wait", Some(20.0))
        );
        assert!(rows[1].start_seconds > Some(20.5) && late.total_seconds.p90 < 19.0, "{rows:?}");
    }

    #[test]
    fn every_policy_says_why_it_waits() {
        let mut plan = example("pre-copy-serial").1.plan;
        assert_eq!(Wait::of(&plan), None);
        plan.start_after = Some(TimeSpan::from_secs(20));
        for (policy, reason) in [
            ("alma", "policy alma starts one after the other, from the quietest time"),
            ("adaptive:plays=10000", "a quieter phase of the VMs' traffic or dirtying"),
            ("a-policy-of-later-days", "the plan says so"),
        ] {
            plan.policy = policy.to_owned();
            let wait = Wait::of(&plan).unwrap();
            assert!(wait.text().starts_with("waits 20 s before the first VM starts: "));
            assert!(wait.reason.starts_with(reason), "{}", wait.reason);
            assert!(wait.decision().choice.contains("wait 20 s"));
        }
    }

    #[test]
    fn a_picture_is_written_whole_or_the_file_and_the_remedy_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("plan.svg");
        for text in ["<svg/>", "<svg></svg>"] {
            keep_picture(text, &path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        for bad in [path.join("below-a-file.svg"), folder.path().join("new"), "/".into()] {
            let failure = keep_picture("<svg/>", &bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            let said = failure.error.to_string();
            assert!(said.contains("--svg") && said.contains(&*bad.to_string_lossy()), "{said}");
            assert!(failure.hint.is_some());
        }
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }
}
