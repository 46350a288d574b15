//! Steering and watching a run from another terminal, over a unix socket of the run.
//!
//! One line of JSON asks, one answers; a connection may ask again. Who may ask is decided by the kernel's word of who is at
//! the other end: the run's own user, or root. What cannot be understood is answered with the reason, and changes nothing.

mod server;

pub(crate) use server::Server;

use crate::{
    cli,
    exit::{Exit, Failure},
    fleet,
    run::View,
};
use droveway_drive::OperatorRequest;
use droveway_fleet::{Fleet, RateLimit, TimeSpan, Urgency, VmId};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// The language's version: another one is refused rather than guessed at.
pub(crate) const VERSION: u32 = 1;
/// A request names a VM and a value.
pub(crate) const REQUEST_BYTES_MAX: u64 = 4 * 1024;
/// A status of some thousand VMs.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A run answers within milliseconds; one that is stuck is reported as such.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// What is asked of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) command: Command,
}

/// What it shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Command {
    /// Say how it stands.
    Status,
    /// Change a limit or a wish.
    Set {
        /// Of which VM; null: of all.
        vm: Option<VmId>,
        what: What,
        value: String,
    },
    /// Leave this VM, or all, at the source.
    Cancel { vm: Option<VmId> },
    /// Switch this VM to post-copy now.
    Switch { vm: VmId },
    /// Try at once to renew the broken path of this VM's post-copy.
    Recover { vm: VmId },
}

/// What can be set while a run is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// The ceiling of streams, like 400Mbit/s, or unlimited
    Bandwidth,
    /// The longest downtime to aim at, like 300ms
    MaxDowntime,
    /// When it has to have arrived, from the start of the run, like 90s; or none
    Deadline,
    /// How much the move matters beside the applications: critical, high, medium or low
    Urgency,
}

/// What a run answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) version: u32,
    /// How it stands, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) view: Option<View>,
    /// What was done, if something was to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) done: Option<String>,
    /// Why not, and whether the request made no sense or only the run does not allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<Refused>,
}

/// Why a request was not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// It made no sense, whatever the run does.
    pub(crate) usage: bool,
    pub(crate) reason: String,
}

impl Answer {
    fn new() -> Self {
        Answer { version: VERSION, view: None, done: None, refused: None }
    }

    fn refused(usage: bool, reason: impl std::fmt::Display) -> Self {
        let refused = Some(Refused { usage, reason: reason.to_string() });
        Answer { refused, ..Answer::new() }
    }
}

impl Command {
    /// As the gang's driver understands it; an error says what is wrong with the value. `None`: it only asks how the run
    /// stands.
    fn operator(&self) -> Result<Option<OperatorRequest>, String> {
        let request = match self {
            Command::Status => return Ok(None),
            Command::Cancel { vm } => OperatorRequest::Cancel { vm: vm.clone() },
            Command::Switch { vm } => OperatorRequest::Switch { vm: vm.clone() },
            Command::Recover { vm } => OperatorRequest::Recover { vm: vm.clone() },
            Command::Set { vm, what, value } => setting(vm.clone(), *what, value)?,
        };
        Ok(Some(request))
    }
}

fn setting(vm: Option<VmId>, what: What, value: &str) -> Result<OperatorRequest, String> {
    let span = |text: &str| text.parse::<TimeSpan>().map_err(|error| error.to_string());
    Ok(match what {
        What::Bandwidth => {
            let limit = value.parse::<RateLimit>().map_err(|error| error.to_string())?;
            OperatorRequest::SetBandwidth { vm, limit }
        }
        What::MaxDowntime => {
            let limit = cli::above_zero(value)?.duration();
            OperatorRequest::SetMaxDowntime { vm, limit }
        }
        What::Deadline if value == "none" => OperatorRequest::SetDeadline { vm, deadline: None },
        What::Deadline => {
            OperatorRequest::SetDeadline { vm, deadline: Some(span(value)?.duration()) }
        }
        What::Urgency => {
            if let Some(vm) = vm {
                return Err(format!(
                    "urgency is the whole run's, not VM '{vm}'s alone: write --all"
                ));
            }
            OperatorRequest::SetUrgency(value.parse::<Urgency>()?)
        }
    })
}

/// A connection to the run of a fleet.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects; `None` if no run listens.
    pub(crate) fn connect(fleet: &Fleet) -> Result<Option<Self>, Failure> {
        let path = fleet::control_path(fleet);
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Failure::says(
                    Exit::Permission,
                    format!("{}: {error}", path.display()),
                )
                .hint("a run listens to its own user and to root"));
            }
            Err(_) => return Ok(None),
        };
        let timed = stream
            .set_read_timeout(Some(ANSWER_TIME))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)));
        timed.map_err(anyhow::Error::from)?;
        Ok(Some(Client { stream: BufReader::new(stream) }))
    }

    /// Asks once; `None` if the run went away instead of answering.
    pub(crate) fn ask(&mut self, command: Command) -> Result<Option<Answer>, Failure> {
        let request = Asked { version: VERSION, command };
        let text = serde_json::to_string(&request).map_err(anyhow::Error::from)? + "\n";
        if self.stream.get_mut().write_all(text.as_bytes()).is_err() {
            return Ok(None);
        }
        let mut line = String::new();
        match self.stream.by_ref().take(ANSWER_BYTES_MAX).read_line(&mut line) {
            Ok(_) if line.is_empty() => Ok(None),
            Ok(_) => serde_json::from_str(&line).map(Some).map_err(|error| {
                Failure::says(
                    Exit::Internal,
                    format!("the run's answer is not understood: {error}"),
                )
                .hint("use the release of droveway that the run was started with")
            }),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                Err(Failure::says(
                    Exit::Blocked,
                    format!("the run did not answer within {} s", ANSWER_TIME.as_secs()),
                ))
            }
            Err(_) => Ok(None),
        }
    }
}

/// How the active run stands, if one listens and answers.
pub(crate) fn view(fleet: &Fleet) -> Option<View> {
    let mut client = Client::connect(fleet).ok()??;
    client.ask(Command::Status).ok()??.view
}

fn no_run(fleet: &Fleet) -> Failure {
    let name = &fleet.metadata.name;
    if fleet::active_run(fleet).is_some() {
        return Failure::says(
            Exit::Blocked,
            format!("the run of fleet '{name}' is being prepared and takes no requests yet"),
        )
        .hint("ask again in a moment");
    }
    Failure::says(Exit::Blocked, format!("no run moves VMs of fleet '{name}'"))
        .hint("`droveway runs` lists those that have ended")
}

/// Tells the run to do something, and what it answered.
fn tell(fleet: &Fleet, command: Command) -> Result<Exit, Failure> {
    // Nonsense is called that before anybody is asked.
    command.operator().map_err(Failure::usage)?;
    told(fleet, command)?.ok_or_else(|| no_run(fleet))
}

/// The same; `None` if there is no run to tell.
#[expect(clippy::print_stdout, reason = "the command's data")]
fn told(fleet: &Fleet, command: Command) -> Result<Option<Exit>, Failure> {
    let Some(mut client) = Client::connect(fleet)? else { return Ok(None) };
    let Some(answer) = client.ask(command)? else { return Ok(None) };
    let exit = match answer {
        Answer { refused: Some(refused), .. } => {
            let exit = if refused.usage { Exit::Usage } else { Exit::Blocked };
            Err(Failure::says(exit, refused.reason))
        }
        Answer { done: Some(done), .. } => {
            println!("{done}");
            Ok(Exit::Done)
        }
        _ => Err(Failure::says(Exit::Internal, "the run's answer says nothing")),
    };
    exit.map(Some)
}

/// `recover`, as far as a run listens; `None` if none does.
pub(crate) fn recover(fleet: &Fleet, vm: &VmId) -> Result<Option<Exit>, Failure> {
    told(fleet, Command::Recover { vm: vm.clone() })
}

/// The VM that a word of the command line means.
pub(crate) fn vm(fleet: &Fleet, name: &str) -> Result<VmId, Failure> {
    let names = fleet.spec.vms.iter().map(|vm| &vm.name);
    cli::known(name, "VM", names, cli::vm_text).cloned()
}

/// `set`.
pub(crate) fn set(args: &cli::SetArgs, fleet: Option<&Path>) -> Result<Exit, Failure> {
    use clap::ValueEnum as _;
    let fleet = fleet::load(fleet)?;
    let (vm, what, value) = match (args.all, args.words.as_slice()) {
        (true, [what, value]) => (None, what, value),
        (false, [name, what, value]) => (Some(vm(&fleet, name)?), what, value),
        (true, _) => {
            return Err(Failure::usage("with --all no VM is named")
                .hint("like `droveway set --all bandwidth 400Mbit/s`"));
        }
        (false, _) => {
            return Err(Failure::usage("name a VM, or write --all")
                .hint("like `droveway set web-1 bandwidth 400Mbit/s`"));
        }
    };
    let what = What::from_str(what, false).map_err(|_| {
        let known: Vec<_> = What::value_variants()
            .iter()
            .filter_map(clap::ValueEnum::to_possible_value)
            .map(|value| value.get_name().to_owned())
            .collect();
        Failure::usage(format!("'{what}' cannot be set"))
            .hint(format!("known: {}", known.join(", ")))
    })?;
    tell(&fleet, Command::Set { vm, what, value: value.clone() })
}

/// `cancel`.
pub(crate) fn cancel(args: &cli::CancelArgs, fleet: Option<&Path>) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let vm = args.vm.as_deref().map(|name| vm(&fleet, name)).transpose()?;
    tell(&fleet, Command::Cancel { vm })
}

/// `switch`.
pub(crate) fn switch(name: &str, fleet: Option<&Path>) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    tell(&fleet, Command::Switch { vm: vm(&fleet, name)? })
}

#[cfg(test)]
mod tests;
