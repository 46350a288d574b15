//! What `plan` and `--dry-run` print: the plan, its forecast and its reasons.

use crate::{
    cli::{self, Output},
    exit::Failure,
    explain,
    outlook::Outlook,
    render::{self, PlanPicture},
    state,
};
use droveway_fleet::{Intent, Technique, TimeSpan, report::Quantiles};
use droveway_model::forecast::{Forecast, MoveForecast};
use droveway_plan::{Direction, Fallback, Plan, Reasoning, explain::Explanation};
use std::path::Path;

/// A plan and what there is to say about it. Its `plan` is a document that `--plan` takes, also with the rest around it.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) forecast: Option<&'a Forecast>,
    pub(crate) reasoning: Option<&'a Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) explanation: Option<&'a Explanation>,
}

#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn print(shown: &Shown<'_>, output: Output) -> Result<(), Failure> {
    if output != Output::Table {
        return cli::print_data(shown, output);
    }
    let plan = shown.plan;
    let at_once = match plan.concurrency {
        1 => "one at a time".to_owned(),
        n => format!("up to {n} at once"),
    };
    println!(
        "{} -> {}, policy {}, {at_once}; nothing was started",
        plan.source, plan.target, plan.policy
    );
    println!("{}", table(shown));
    println!("{}", ports(plan));
    if let Some(forecast) = shown.forecast {
        let time = forecast.total_seconds;
        println!("forecast: {:.2} s in all ({:.2} to {:.2} s)", time.p50, time.p10, time.p90);
    }
    match (shown.explanation, shown.reasoning) {
        (Some(explanation), _) => println!("\n{}", explanation.text),
        (None, Some(reasoning)) => println!("\n{}", explain::text(reasoning)),
        (None, None) => {}
    }
    Ok(())
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

fn table(shown: &Shown<'_>) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "#",
        "VM",
        "technique",
        "does not converge",
        "downtime limit",
        "bandwidth",
        "forecast: takes",
        "outage",
    ]);
    let said = |index: usize, of: fn(&MoveForecast) -> Quantiles| {
        let made = shown.forecast.and_then(|forecast| forecast.moves.get(index)).map(of);
        made.map_or_else(
            || "-".to_owned(),
            |made| format!("{:.2} s ({:.2}-{:.2})", made.p50, made.p10, made.p90),
        )
    };
    for (index, step) in shown.plan.moves.iter().enumerate() {
        let limit = TimeSpan::from(step.downtime_limit).to_string();
        let stops = step.technique == Technique::StopAndCopy;
        let fallback = match step.fallback {
            Fallback::PostCopy => "post-copy",
            Fallback::Abort => "stays at the source",
        };
        table.add_row([
            (index + 1).to_string(),
            step.vm.to_string(),
            step.technique.to_string(),
            if stops { "-".to_owned() } else { fallback.to_owned() },
            if stops { "none".to_owned() } else { limit },
            step.bandwidth.to_string(),
            said(index, |said| said.duration_seconds),
            said(index, |said| said.outage_seconds),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

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
