//! The command line.

use crate::{
    exit::{Exit, Failure},
    measure::Source,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use droveway_fleet::{
    AllowPostcopy, RateLimit, Ratio, Reserve, Technique, TimeSpan, Urgency,
    ids::{HostId, VmId, nearest},
    schema,
};
use droveway_plan::{
    policy::{DEFAULT_POLICY, MAX_PASSES_DEFAULT, POLICIES, Parameter},
    schema as plan_schema,
};
use std::{path::PathBuf, str::FromStr};

/// Move gangs of running QEMU/KVM virtual machines over the one port that their applications share.
#[derive(Debug, Parser)]
#[command(name = "droveway", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The fleet file; else $DROVEWAY_FLEET, else the running lab's, else /etc/droveway/fleet.yaml
    #[arg(long, global = true, env = "DROVEWAY_FLEET", value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,
    /// How data is printed on stdout
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// What was learned of these hosts; else the fleet's own, in /var/lib/droveway/calibration
    #[arg(long, global = true, env = "DROVEWAY_CALIBRATION", value_name = "FILE")]
    pub(crate) calibration_file: Option<PathBuf>,
    /// Tell more on stderr: what was decided and not done; twice: what was done, for developers
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Real hosts and VMs on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    /// Watch ports, VMs, their traffic and their memory; changes nothing
    Measure(MeasureArgs),
    /// What moving would be like and why so; starts nothing. Exit code 3 if a deadline cannot be kept
    Plan(PlanArgs),
    /// Move every VM away from a host
    Drain(DrainArgs),
    /// Move named VMs
    Migrate(MigrateArgs),
    /// What each technique would cost each VM, and the gang together; moves nothing
    Predict(PredictArgs),
    /// Move VMs there and back again, to learn what these hosts are like
    Calibrate(CalibrateArgs),
    /// What a run did; or how good forecasts were
    Report(ReportArgs),
    /// The runs of the fleet, the latest first
    Runs,
    /// Where every VM is, asked of the QEMUs themselves, and how the run under way stands
    Status,
    /// The run under way, live, in the whole terminal; a line for each thing that happens where there is none
    Watch,
    /// Take over what a killed controller left, and bring it to its end
    Adopt(AdoptArgs),
    /// Change a limit of the run under way: bandwidth, max-downtime, deadline or urgency
    Set(SetArgs),
    /// Leave a VM of the run under way at the source, or all that still can stay
    Cancel(CancelArgs),
    /// Switch a VM of the run under way to post-copy now
    Switch {
        /// The VM
        vm: String,
    },
    /// Go on with a VM whose post-copy broke: tells the run under way to try at once, or takes the VM up itself
    Recover {
        /// The VM
        vm: String,
        /// Without a run under way: the folder of report.json, report.md and timeline.svg [default: droveway-report/RUN]
        #[arg(long, value_name = "DIR")]
        report: Option<PathBuf>,
    },
    /// Put the hosts' ports back as they were before a run that could not do it itself
    RestoreNetwork,
    /// The same in miniature: a scenario's hosts, VMs and traffic simulated, with the real drivers
    Simulate(SimulateArgs),
    /// Suites of policies, scenarios and intents: run them, resume them, report on them
    #[command(subcommand)]
    Bench(crate::bench::BenchCommand),
    /// Every policy
    Policies,
    /// Show run reports side by side
    Compare {
        /// Report folders, or their report.json
        #[arg(required = true, num_args = 1.., value_name = "REPORT")]
        reports: Vec<PathBuf>,
    },
    /// Print the JSON Schema of a kind of file: scenario, fleet, plan, status, runs, report,
    /// suite
    Schema {
        /// The kind
        kind: String,
    },
    /// Runs one stream of the lab's traffic
    #[command(hide = true)]
    LabRunner {
        /// What to run
        spec: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Tell in a paragraph why this VM goes its way, and what would change that
    #[arg(long, global = true, value_name = "VM")]
    pub(crate) explain: Option<String>,
    /// Draw the plan: what is done with each VM when, and the load of both ports
    #[arg(long, global = true, value_name = "FILE.svg")]
    pub(crate) svg: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: PlanCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// To move every VM away from a host
    Drain(DrainArgs),
    /// To move named VMs
    Migrate(MigrateArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Build the hosts, VMs and traffic of a scenario; writes the fleet file
    Up {
        /// The scenario
        scenario: PathBuf,
    },
    /// What runs in a lab
    Status {
        /// The lab; needed only if several run
        name: Option<String>,
    },
    /// Make the changes that the lab's scenario lists, each at its time from now
    Play {
        /// The lab; needed only if several run
        name: Option<String>,
        /// All of them at once
        #[arg(long)]
        at_once: bool,
    },
    /// Break something in a lab, or mend it
    #[command(subcommand)]
    Fault(crate::lab::LabFault),
    /// Remove every process, namespace and file of a lab
    Down {
        /// The lab; all of them if none is named
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    /// How long to watch, 1s to 10min: a longer time tells more about memory that is seldom written
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = watch_time)]
    pub(crate) window: TimeSpan,
    /// Only this VM and its traffic (repeatable)
    #[arg(long, value_name = "VM")]
    pub(crate) vm: Vec<String>,
    /// Leave the VMs' memory out
    #[arg(long)]
    pub(crate) no_memory: bool,
    /// Also write the snapshot to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The host to empty; with --plan, the plan's
    #[arg(required_unless_present = "plan")]
    pub(crate) host: Option<String>,
    #[command(flatten)]
    pub(crate) intent: IntentArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The VMs, in the order in which they start; with --plan, the plan's
    #[arg(required_unless_present = "plan", num_args = 1.., value_name = "VM")]
    pub(crate) vms: Vec<String>,
    #[command(flatten)]
    pub(crate) intent: IntentArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The VMs that would move
    #[arg(required = true, num_args = 1.., value_name = "VM")]
    pub(crate) vms: Vec<String>,
    /// The host to go to
    #[arg(long, value_name = "HOST")]
    pub(crate) to: String,
    /// Only this technique
    #[arg(long, value_name = "NAME")]
    pub(crate) technique: Option<Technique>,
    /// The longest downtime to aim at [default: 300ms]
    #[arg(long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) max_downtime: Option<TimeSpan>,
    /// The ceiling of each VM's stream, like 400Mbit/s
    #[arg(long, value_name = "RATE", default_value = "unlimited")]
    pub(crate) bandwidth: RateLimit,
    /// Pre-copy passes before a VM counts as not converging
    #[arg(long, value_name = "N", default_value_t = MAX_PASSES_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_passes: u32,
    /// The share of both ports that is reserved for migration, like 0.6
    #[arg(long, value_name = "SHARE")]
    pub(crate) reserved: Option<Ratio>,
    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// One host: where the VMs are
    pub(crate) from: String,
    /// The other
    pub(crate) to: String,
    /// The VMs to move; all if none is named (repeatable)
    #[arg(long, value_name = "VM")]
    pub(crate) vm: Vec<String>,
    /// How often every technique is run
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) rounds: u32,
    /// How long hosts and VMs are measured before each round
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = above_zero)]
    pub(crate) measure: TimeSpan,
    /// The folder of the runs' reports
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// The scenario
    pub(crate) scenario: PathBuf,
    /// The host to leave [default: the first that has VMs]
    #[arg(long, value_name = "HOST")]
    pub(crate) from: Option<String>,
    /// The host to go to [default: the first other one]
    #[arg(long, value_name = "HOST")]
    pub(crate) to: Option<String>,
    /// How the VMs move: `droveway policies` lists them
    #[arg(long, default_value = DEFAULT_POLICY, value_name = "NAME")]
    pub(crate) policy: String,
    /// The technique of one VM, over the policy's choice (repeatable)
    #[arg(long, value_name = "VM=NAME", value_parser = vm_technique)]
    pub(crate) technique: Vec<(String, Technique)>,
    /// The order in which VMs start: names separated by commas; the rest follow. For plain policies: all others decide it
    /// themselves
    #[arg(long, value_name = "VM,VM,..", value_delimiter = ',')]
    pub(crate) order: Vec<String>,
    /// At most so many at once; the next starts as one ends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_parallel: Option<u32>,
    /// The longest downtime to aim at [default: 300ms]
    #[arg(long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) max_downtime: Option<TimeSpan>,
    /// The ceiling of each VM's stream, like 400Mbit/s
    #[arg(long, value_name = "RATE", default_value = "unlimited")]
    pub(crate) bandwidth: RateLimit,
    /// How much the move matters beside the applications: critical, high, medium or low; `adaptive` weighs by it
    #[arg(long, value_name = "NAME", default_value_t = Urgency::Medium)]
    pub(crate) urgency: Urgency,
    /// When the last VM has to have arrived; `adaptive` plans by it
    #[arg(long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) deadline: Option<TimeSpan>,
    /// How much of both ports is held for the moves: a rate, a share like 60%, auto or off
    #[arg(long, value_name = "RATE", default_value = "auto")]
    pub(crate) reserve: Reserve,
    /// Whether the migrations' sockets are tuned; auto: by policies of ours
    #[arg(long, value_enum, default_value_t = Tuned::Auto)]
    pub(crate) tuning: Tuned,
    /// Whether it is planned again when the run leaves its forecast (a scenario's `changes`); auto: by policies of ours
    #[arg(long, value_enum, default_value_t = Replans::Auto)]
    pub(crate) replan: Replans,
    /// Chance: the same number gives the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The folder of report.json, report.md and timeline.svg [default: none is written]
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The run, as `droveway runs` lists it; `last` is the latest
    #[arg(value_name = "RUN")]
    pub(crate) run: Option<String>,
    /// How good forecasts were, over everything that is remembered
    #[arg(long, conflicts_with = "run")]
    pub(crate) calibration: bool,
    /// Draw forecasts against outcomes
    #[arg(long, value_name = "FILE.svg", requires = "calibration")]
    pub(crate) figure: Option<PathBuf>,
    /// Write every forecast and its outcome
    #[arg(long, value_name = "FILE.csv", requires = "calibration")]
    pub(crate) csv: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The folder of report.json, report.md and timeline.svg [default: droveway-report/RUN]
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Of every VM of the run whose move has not ended
    #[arg(long)]
    pub(crate) all: bool,
    /// The VM (not with --all); bandwidth, max-downtime, deadline or urgency; and the value, like 400Mbit/s, 300ms, 90s (from the
    /// start of the run; or none) and high
    #[arg(required = true, num_args = 2..=3, value_names = ["VM", "WHAT", "VALUE"])]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The VM
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) vm: Option<String>,
    /// The whole run
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct IntentArgs {
    /// The host to go to; with --plan, the plan's
    #[arg(long, value_name = "HOST", required_unless_present = "plan")]
    pub(crate) to: Option<String>,
    /// Do exactly what this plan says, which `droveway plan -o json` (or yaml) printed; `-` is standard input. Refused if
    /// the world has moved on
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "policy", "technique", "order", "max_parallel", "max_downtime", "bandwidth", "allow_postcopy",
        "max_passes", "urgency", "deadline", "max_exposed", "floor", "reserve",
    ])]
    pub(crate) plan: Option<PathBuf>,
    /// How old the plan's snapshot may be [default: what the plan says, else 10m]
    #[arg(long, value_name = "TIME", requires = "plan")]
    pub(crate) plan_max_age: Option<TimeSpan>,
    /// Where the plan is to be drawn: set by `plan --svg`
    #[arg(skip)]
    pub(crate) svg: Option<PathBuf>,
    /// The VM whose way is to be explained: set by `plan --explain`
    #[arg(skip)]
    pub(crate) explain: Option<VmId>,
    /// How the VMs move: `droveway policies` lists them, some with parameters, like direction-greedy:window=30s
    /// [default: adaptive, from measurements; pre-copy-serial with --order, and where nothing can be measured]
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Option<String>,
    /// The technique of one VM, over the policy's choice (repeatable)
    #[arg(long, value_name = "VM=NAME", value_parser = vm_technique)]
    pub(crate) technique: Vec<(String, Technique)>,
    /// The order in which VMs start: names separated by commas; the rest follow. For plain policies: all others decide it
    /// themselves
    #[arg(long, value_name = "VM,VM,..", value_delimiter = ',')]
    pub(crate) order: Vec<String>,
    /// At most so many at once; the next starts as one ends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_parallel: Option<u32>,
    /// The longest downtime to aim at [default: 300ms]
    #[arg(long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) max_downtime: Option<TimeSpan>,
    /// The ceiling of each VM's stream, like 400Mbit/s
    #[arg(long, value_name = "RATE", default_value = "unlimited")]
    pub(crate) bandwidth: RateLimit,
    /// Whether post-copy may be used
    #[arg(long, value_enum, default_value_t = AllowPostcopyArg::Fallback)]
    pub(crate) allow_postcopy: AllowPostcopyArg,
    /// Pre-copy passes before a VM counts as not converging
    #[arg(long, value_name = "N", default_value_t = MAX_PASSES_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_passes: u32,
    /// How much the move matters beside the applications: critical, high, medium or low; `adaptive` weighs by it
    #[arg(long, value_name = "NAME", default_value_t = Urgency::Medium)]
    pub(crate) urgency: Urgency,
    /// When the last VM has to have arrived, from the start of the run, a wait included; `adaptive` plans by it
    #[arg(long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) deadline: Option<TimeSpan>,
    /// At most so many VMs may have their memory split between two hosts at once; `adaptive` plans by it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) max_exposed: Option<u32>,
    /// The share of its measured traffic that every application shall keep, like 0.9; `adaptive` plans by it (not at urgency
    /// critical) and names those that cannot
    #[arg(long, value_name = "SHARE")]
    pub(crate) floor: Option<Ratio>,
    /// How much of both ports is held for the moves while they run: a rate like 600Mbit/s, a share like 60%, auto (what
    /// `adaptive` finds best and `solive` and `pava` ask for; nothing with other policies) or off
    #[arg(long, value_name = "RATE", default_value = "auto")]
    pub(crate) reserve: Reserve,
    /// Whether the ports' queueing disciplines may be changed while VMs move; they are put back afterwards
    #[arg(long, value_enum, default_value_t = Allowed::Auto)]
    pub(crate) shaping: Allowed,
    /// Whether the migrations' sockets are tuned from outside; auto: by `adaptive`, not by policies that stand for what
    /// others do
    #[arg(long, value_enum, default_value_t = Tuned::Auto)]
    pub(crate) tuning: Tuned,
    /// Whether it is planned again while VMs move, when the run leaves its forecast; auto: by `adaptive`, not by other policies
    /// and not for plans from files
    #[arg(long, value_enum, default_value_t = Replans::Auto)]
    pub(crate) replan: Replans,
    /// Watch while another tool moves the VMs: plan, notice and record what would be decided, and change nothing
    #[arg(long)]
    pub(crate) observe_only: bool,
    #[command(flatten)]
    pub(crate) source: Source,
    /// The share of both ports that somebody already reserves for migration, like 0.6: for the forecast
    #[arg(long, value_name = "SHARE")]
    pub(crate) reserved: Option<Ratio>,
    /// Keep the run to check forecasts by, but do not learn from it
    #[arg(long)]
    pub(crate) hold_out: bool,
    /// Show what would happen; start nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The folder of report.json, report.md and timeline.svg [default: droveway-report/RUN]
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

impl Default for IntentArgs {
    /// What the command line gives when nothing is said.
    fn default() -> Self {
        IntentArgs {
            to: None,
            plan: None,
            plan_max_age: None,
            svg: None,
            explain: None,
            policy: None,
            technique: Vec::new(),
            order: Vec::new(),
            max_parallel: None,
            max_downtime: None,
            bandwidth: RateLimit::Unlimited,
            allow_postcopy: AllowPostcopyArg::Fallback,
            max_passes: MAX_PASSES_DEFAULT,
            urgency: Urgency::default(),
            deadline: None,
            max_exposed: None,
            floor: None,
            reserve: Reserve::Auto,
            shaping: Allowed::Auto,
            tuning: Tuned::Auto,
            replan: Replans::Auto,
            observe_only: false,
            source: Source::default(),
            reserved: None,
            hold_out: false,
            dry_run: false,
            report: None,
        }
    }
}

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allowed {
    /// Where the plan gains by it and it can be undone
    Auto,
    /// Never
    Off,
}

/// Whether migrations' sockets are tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tuned {
    /// By `adaptive`
    Auto,
    /// By any policy
    On,
    /// Never
    Off,
}

impl Tuned {
    /// Whether they are; `ours`: the policy is one of ours.
    pub(crate) const fn applies(self, ours: bool) -> bool {
        match self {
            Tuned::Auto => ours,
            Tuned::On => true,
            Tuned::Off => false,
        }
    }
}

/// Whether it is planned again while VMs move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Replans {
    /// By `adaptive`
    Auto,
    /// By any policy whose plans have no rules of their own, and for plans from files
    On,
    /// Never
    Off,
}

impl Replans {
    /// True if it is planned again under a policy, which is one of ours or not.
    pub(crate) const fn applies(self, ours: bool) -> bool {
        match self {
            Replans::Auto => ours,
            Replans::On => true,
            Replans::Off => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AllowPostcopyArg {
    /// Not even when pre-copy cannot end
    Never,
    /// Where the policy chose it, and when pre-copy does not converge
    Fallback,
}

impl From<AllowPostcopyArg> for AllowPostcopy {
    fn from(arg: AllowPostcopyArg) -> Self {
        match arg {
            AllowPostcopyArg::Never => AllowPostcopy::Never,
            AllowPostcopyArg::Fallback => AllowPostcopy::Fallback,
        }
    }
}

fn vm_technique(text: &str) -> Result<(String, Technique), String> {
    let (vm, technique) =
        text.split_once('=').ok_or_else(|| "write it like web-1=post-copy".to_owned())?;
    Ok((vm.to_owned(), technique.parse()?))
}

fn watch_time(text: &str) -> Result<TimeSpan, String> {
    let span = TimeSpan::from_str(text).map_err(|error| error.to_string())?;
    // Five readings make a rate; what is watched for longer changes meanwhile.
    if !(TimeSpan::from_secs(1)..=TimeSpan::from_secs(600)).contains(&span) {
        return Err("watch for 1s to 10min".to_owned());
    }
    Ok(span)
}

pub(crate) fn above_zero(text: &str) -> Result<TimeSpan, String> {
    let span = TimeSpan::from_str(text).map_err(|error| error.to_string())?;
    // QEMU counts downtime in whole milliseconds.
    if span < TimeSpan::from_millis(1) {
        return Err("the shortest downtime that can be aimed at is 1ms".to_owned());
    }
    Ok(span)
}

/// The id that a name on the command line means.
pub(crate) fn known<'a, T>(
    name: &str,
    what: &str,
    all: impl Iterator<Item = &'a T> + Clone,
    text: impl Fn(&'a T) -> &'a str,
) -> Result<&'a T, Failure> {
    if let Some(found) = all.clone().find(|item| text(item) == name) {
        return Ok(found);
    }
    let names: Vec<_> = all.map(text).collect();
    let failure = Failure::usage(format!("there is no {what} '{name}' in the fleet"));
    Err(match nearest(name, names.iter().copied()) {
        Some(meant) => failure.hint(format!("did you mean '{meant}'?")),
        None if names.is_empty() => failure.hint(format!("it has no {what}s")),
        None => failure.hint(format!("known: {}", names.join(", "))),
    })
}

/// The name of a host, as text.
pub(crate) fn host_text(id: &HostId) -> &str {
    id.as_str()
}

/// The name of a VM, as text.
pub(crate) fn vm_text(id: &VmId) -> &str {
    id.as_str()
}

/// Prints a value as JSON or YAML; tables are the caller's.
#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn print_data<T: serde::Serialize>(value: &T, output: Output) -> Result<(), Failure> {
    let text = match output {
        Output::Yaml => serde_saphyr::to_string(value).map_err(anyhow::Error::from)?,
        Output::Json | Output::Table => {
            serde_json::to_string_pretty(value).map_err(anyhow::Error::from)? + "\n"
        }
    };
    print!("{text}");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn print_policies(output: Output) {
    #[derive(serde::Serialize)]
    struct Row {
        name: &'static str,
        stages: &'static str,
        source: &'static str,
        summary: &'static str,
        parameters: Vec<ParameterRow>,
    }
    #[derive(serde::Serialize)]
    struct ParameterRow {
        name: &'static str,
        form: String,
        default: &'static str,
        summary: &'static str,
    }
    let parameter = |of: &Parameter| ParameterRow {
        name: of.name,
        form: of.unit.form(),
        default: of.default,
        summary: of.what,
    };
    let row = |p: &droveway_plan::policy::Policy| Row {
        name: p.name,
        stages: p.stages,
        source: p.source,
        summary: p.summary,
        parameters: p.parameters().iter().map(parameter).collect(),
    };
    let rows: Vec<Row> = POLICIES.iter().map(row).collect();
    if output != Output::Table {
        // Some words of text a row: writing them cannot fail.
        let _ = print_data(&rows, output);
        return;
    }
    for row in rows {
        println!("{:<20} {:<18} {:<26} {}", row.name, row.stages, row.source, row.summary);
        for of in row.parameters {
            println!("  :{}=  {} ({}; default: {})", of.name, of.summary, of.form, of.default);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn print_schema(kind: &str) -> Result<Exit, Failure> {
    let suite = || kind.eq_ignore_ascii_case("suite").then(droveway_bench::suite::schema);
    let Some(text) = schema::of(kind).or_else(|| plan_schema::of(kind)).or_else(suite) else {
        let kinds = schema::KINDS.into_iter().chain(plan_schema::KINDS);
        let kinds = kinds.map(|(name, _)| name.to_ascii_lowercase()).chain(["suite".to_owned()]);
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        return Err(
            Failure::usage(format!("there is no kind '{kind}'")).hint(format!("known: {kinds}"))
        );
    };
    print!("{text}");
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use droveway_plan::policy::UNMEASURED_POLICY;

    #[test]
    fn a_plan_can_be_drawn_and_a_run_cannot() {
        Cli::command().debug_assert();
        let parsed = |words: &str| {
            let words = words.split(' ');
            Cli::try_parse_from(["droveway"].into_iter().chain(words)).map(|cli| cli.command)
        };
        let Ok(Command::Plan(PlanArgs { svg, command: PlanCommand::Drain(drain), .. })) =
            parsed("plan drain alpha --to beta --svg plan.svg --urgency high")
        else {
            panic!("a plan's picture");
        };
        assert_eq!(svg, Some(PathBuf::from("plan.svg")));
        assert_eq!(drain.host.as_deref(), Some("alpha"));
        assert_eq!(drain.intent.urgency, Urgency::High);
        let Ok(Command::Plan(PlanArgs { command: PlanCommand::Migrate(migrate), .. })) =
            parsed("plan migrate a b --svg plan.svg --to beta")
        else {
            panic!("a plan's picture");
        };
        assert_eq!(migrate.vms, ["a", "b"]);
        assert!(parsed("drain alpha --to beta --svg plan.svg").is_err());
    }

    /// The help of each option that takes a policy, or conflicts with a plan, says what is true.
    #[test]
    fn help_tells_the_defaults_that_are() {
        let mut cli = Cli::command();
        let drain = cli.find_subcommand_mut("drain").unwrap();
        let help = |name: &str| {
            let option = drain.get_arguments().find(|option| option.get_id() == name).unwrap();
            option.get_help().unwrap().to_string()
        };
        assert!(
            help("policy").contains(&format!("default: {DEFAULT_POLICY}")),
            "{}",
            help("policy")
        );
        assert!(help("policy").contains(&format!("{UNMEASURED_POLICY} with --order")));
        assert!(help("max_downtime").contains("default: 300ms"));
        let refused = |option: &str| {
            let words = ["droveway", "drain", "--plan", "p.json", option];
            Cli::try_parse_from(words).is_err()
        };
        for option in ["--floor=0.9", "--urgency=low", "--deadline=9s", "--reserve=60%"] {
            assert!(refused(option), "{option} would be ignored");
        }
        assert!(!refused("--tuning=off") && !refused("--shaping=off"), "wishes about this run");
    }
}
