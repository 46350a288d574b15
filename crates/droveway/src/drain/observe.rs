//! `--observe-only`: what Droveway would do, beside what another tool does. Nothing is changed: no target is started, no port shaped,
//! no socket tuned, no QEMU told anything, and no run is on file.

use super::Job;
use crate::{
    clock,
    exit::{Exit, Failure},
    outlook::Outlook,
    qemu, report,
    run::{self, Display, LOOK_PERIOD, Ports, Replanner, Watch, Watched, Watching},
};
use droveway_drive::Shadow;
use droveway_fleet::{
    Bytes, RunReport, Timestamp, VmId,
    report::{ANOTHER_TOOL, Decision, Quantiles},
};
use droveway_plan::Plan;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// What Droveway would do.
pub(super) struct Ours {
    pub(super) plan: Plan,
    pub(super) outlook: Option<Outlook>,
    pub(super) decided: Vec<Decision>,
    pub(super) warnings: Vec<String>,
    pub(super) replanner: Option<Arc<Replanner>>,
    pub(super) asked_at: Timestamp,
}

impl Job<'_> {
    /// Watches until another tool has moved the VMs, and reports.
    pub(super) async fn observe(mut self, ours: Ours) -> Result<Exit, Failure> {
        let (source, target) = (self.host(&self.intent.source)?, self.host(&self.intent.target)?);
        let mut sockets: BTreeMap<VmId, [PathBuf; 2]> = BTreeMap::new();
        // Dropped, they leave the monitors to the other tool.
        for candidate in self.candidates.drain(..) {
            let Some(there) = candidate.vm.instances.get(&target.name) else {
                let text =
                    format!("VM '{}' has no instance on host '{}'", candidate.vm.name, target.name);
                return Err(Failure::says(Exit::Blocked, text).hint(
                    "add one with the monitor that its QEMU will have there to the fleet file",
                ));
            };
            let pair = [candidate.source.socket, qemu::socket(there).to_owned()];
            sockets.insert(candidate.vm.name.clone(), pair);
        }
        let mut shadow = Shadow::new(ours.plan.clone());
        if let Some(replanner) = &ours.replanner {
            let adaptation = replanner.adaptation(&shadow.situation(Timestamp::ZERO));
            shadow = shadow.adapting(adaptation);
        }
        let traffic =
            ours.replanner.as_ref().and_then(|_| Watch::open([source, target], self.fleet));
        let ports = Ports::open(&[source, target]);
        let capacity = ports.capacity.clone();
        let names: Vec<_> = sockets.keys().map(VmId::as_str).collect();
        eprintln!(
            "observing only: nothing is changed. Waiting for another tool to move {} (Ctrl-C ends it)",
            names.join(", ")
        );
        let started_at = jiff::Timestamp::now().to_string();
        let watching = Watching { shadow, sockets, ports, replanner: ours.replanner, traffic };
        let Watched { ledger, mut plan } = run::watch(watching, &mut Display::lines()).await;
        if ledger.began_at.is_some() {
            self.see_the_aftermath().await;
        }
        ANOTHER_TOOL.clone_into(&mut plan.policy);
        let context = report::Context {
            fleet: self.fleet,
            plan: &plan,
            intent: &self.intent,
            decided: &ours.decided,
            checked: &BTreeMap::new(),
            run_id: &self.run_id,
            started_at,
            // What applications had before is what they had before the first VM was begun, however long was waited for it.
            asked_at: ledger.began_at.unwrap_or(ours.asked_at),
            ended_at: clock::now(),
            downtime_limit_asked: false,
            capacity,
        };
        let mut report = report::build(&context, &ledger);
        // Looks are too far apart to say it; QEMU's own word is there.
        for vm in &mut report.vms {
            vm.downtime_seconds = None;
        }
        report.remarks.splice(0..0, remarks(&ours.plan, ours.outlook.as_ref(), &report));
        report.remarks.extend(ours.warnings);
        let folder = report::write(&report, self.request.args.report.as_deref())?;
        if !self.request.quiet {
            self.print(&report, &folder)?;
        }
        Ok(report::exit_of(&report))
    }
}

/// What the report is of, and what Droveway would have done.
fn remarks(plan: &Plan, outlook: Option<&Outlook>, report: &RunReport) -> Vec<String> {
    let looks = LOOK_PERIOD.as_millis();
    let mut all = vec![format!(
        "Observed only: another tool moved these VMs, Droveway changed nothing. It looked at what moved every {looks} ms: times are as \
         exact as that, and downtimes are QEMU's own."
    )];
    let moves: Vec<_> =
        plan.moves.iter().map(|step| format!("{} {}", step.vm, step.technique)).collect();
    let all_at_once = plan.concurrency as usize >= plan.moves.len();
    let how = if all_at_once {
        "all at once".to_owned()
    } else {
        format!("{} at once", plan.concurrency)
    };
    // The others are for what goes back.
    let held = plan.reservations.iter().max_by_key(|held| held.rate);
    let held = held.map_or_else(String::new, |held| {
        format!(", {} of both ports held for the moves", held.rate.human())
    });
    let mut would = format!("Droveway would have moved {}, {how}{held}", moves.join(", "));
    if let Some(outlook) = outlook {
        let between = |it: &Quantiles, unit: &dyn Fn(f64) -> String| {
            format!("{} ({} to {})", unit(it.p50), unit(it.p10), unit(it.p90))
        };
        let seconds = |it: f64| format!("{it:.1} s");
        let megabytes = |it: f64| Bytes::from_f64(it).human();
        let forecast = &outlook.forecast;
        let longest = forecast.moves.iter().map(|it| it.outage_seconds);
        let longest = longest.max_by(|a, b| a.p50.total_cmp(&b.p50));
        let outage = longest
            .map_or_else(String::new, |it| format!(", longest outage {}", between(&it, &seconds)));
        would += &format!(
            "; its forecast: {} in all, {} lost{outage}",
            between(&forecast.total_seconds, &seconds),
            between(&forecast.lost_bytes, &megabytes)
        );
    }
    let lost: u64 = report.applications.iter().filter_map(|app| app.lost_bytes).sum();
    let outage = report.vms.iter().filter_map(|vm| vm.outage_seconds).max_by(f64::total_cmp);
    let outage = outage.map_or_else(String::new, |it| format!(", longest outage {it:.1} s"));
    would += &format!(
        ". The other tool took {:.1} s, {} lost{outage}.",
        report.total_migration_time_seconds,
        Bytes::new(lost).human()
    );
    all.push(would);
    all
}
