//! Watching while another tool moves VMs: what both QEMUs of each say, what ports and VMs carry, and what would be done.
//!
//! A monitor serves one client at a time, and the other tool may want the same one. So each look connects, asks and lets go, some
//! milliseconds in all; whoever comes meanwhile is served next. Only questions are asked: no capability, not even the one that
//! QEMU's events come by, is set.

use super::{
    Display, Interrupts, Ledger, PortReading, Ports, TICK,
    adapt::{Replanner, Watch},
    translate,
};
use crate::{
    clock,
    qemu::{self, Probed},
};
use droveway_drive::{Look, MigrationSample, Phase, RecordKind, Seen, Shadow};
use droveway_fleet::{Timestamp, VmId};
use droveway_plan::{Plan, replan::Answer};
use droveway_qmp::{Capability, QmpError};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// Between two looks at a VM that moves: passes last longer, and a look is the price of some short questions.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Of so many VMs those that wait are looked at as often; of more, so many times less often: a thousand once in 1.1 s.
const OFTEN: usize = 100;
/// Looks that wait for the loop.
const INBOX_MAX: usize = 1024;

/// What is watched.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) shadow: Shadow,
    /// The monitors of each VM's QEMUs, at the source and at the target.
    pub(crate) sockets: BTreeMap<VmId, [PathBuf; 2]>,
    pub(crate) ports: Ports,
    /// Who says what would be done, if anything was measured to say it by.
    pub(crate) replanner: Option<Arc<Replanner>>,
    pub(crate) traffic: Option<Watch>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) ledger: Ledger,
    /// As the other tool carried it out.
    pub(crate) plan: Plan,
}

enum Input {
    Look { vm: VmId, look: Look },
    Answer { question: u64, answer: Option<Box<Answer>> },
}

/// Watches until every VM's move has ended, or somebody has seen enough.
pub(crate) async fn watch(mut it: Watching, display: &mut Display) -> Watched {
    let (sender, mut inbox) = mpsc::channel(INBOX_MAX);
    let times = u32::try_from(1 + it.sockets.len() / OFTEN).unwrap_or(u32::MAX);
    let waiting = LOOK_PERIOD.saturating_mul(times);
    for (vm, sockets) in &it.sockets {
        tokio::spawn(look_on(vm.clone(), sockets.clone(), waiting, sender.clone()));
    }
    let mut ledger = Ledger::new(it.shadow.plan());
    let mut interrupts = Interrupts::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut now = clock::now();
    while !it.shadow.is_over() {
        tokio::select! {
            // Looks last: of many VMs there is always one.
            biased;
            () = interrupts.next() => {
                now = now.max(clock::now());
                if ledger.cancelled || it.shadow.under_way() == 0 {
                    it.shadow.stop(now);
                } else {
                    display.say("interrupted: watching until what is under way has ended; once more to end now");
                    it.shadow.stop_waiting(now);
                }
                ledger.cancelled = true;
            }
            _ = tick.tick() => {
                now = now.max(clock::now());
                if ledger.began_at.is_some() {
                    ledger.note_ports(now, it.ports.read(now));
                }
                if let Some(seen) = it.traffic.as_mut().and_then(|traffic| traffic.look(now)) {
                    it.shadow.handle_traffic(now, seen);
                }
                it.shadow.handle_tick(now);
            }
            input = inbox.recv() => {
                now = now.max(clock::now());
                match input {
                    Some(Input::Look { vm, look }) => it.shadow.handle_look(now, &vm, &look),
                    Some(Input::Answer { question, answer }) => {
                        it.shadow.handle_answer(now, question, answer.map(|answer| *answer));
                    }
                    // Those who look hold the other end.
                    None => break,
                }
            }
        }
        tell(&mut it, &mut ledger, display, &sender, now);
    }
    ledger.end(now, it.ports.read(now));
    Watched { ledger, plan: it.shadow.plan().clone() }
}

/// What there is to tell, and to ask.
fn tell(
    it: &mut Watching,
    ledger: &mut Ledger,
    display: &mut Display,
    inbox: &mpsc::Sender<Input>,
    now: Timestamp,
) {
    if ledger.began_at.is_none()
        && let Some(began) = it.shadow.began_at()
    {
        let reading: PortReading = it.ports.read(now);
        ledger.begin(began, reading);
    }
    while let Some((vm, record, progress)) = it.shadow.poll_record() {
        if record.kind == RecordKind::Entered(Phase::PreCopy)
            && let (Some(traffic), Some([_, target])) = (&mut it.traffic, it.sockets.get(&vm))
        {
            // Its target may not have been there before.
            traffic.add(&vm, 1, target);
        }
        display.record(&vm, &record, ledger);
        ledger.note(&vm, record, Some(progress));
    }
    while let Some(question) = it.shadow.poll_question() {
        let Some(replanner) = &it.replanner else { continue };
        let inbox = inbox.clone();
        Replanner::ask(replanner, question, move |question, answer| {
            // Nobody listens any more once all is over.
            let _ = inbox.blocking_send(Input::Answer { question, answer });
        });
    }
    while let Some(decision) = it.shadow.poll_decision() {
        display.would(&decision, ledger);
        ledger.decisions.push(decision);
    }
}

/// Looks at one VM until nobody listens any more; while it waits, every `waiting`.
async fn look_on(vm: VmId, sockets: [PathBuf; 2], waiting: Duration, inbox: mpsc::Sender<Input>) {
    loop {
        let look = look_at(&sockets).await;
        let moves = matches!(&look.source, Seen::There(source) if !source.status.is_over());
        let period = if moves { LOOK_PERIOD } else { waiting };
        if inbox.send(Input::Look { vm: vm.clone(), look }).await.is_err() {
            return;
        }
        tokio::time::sleep(period).await;
    }
}

/// The target first: a source that was asked first may have been left meanwhile.
async fn look_at([source, target]: &[PathBuf; 2]) -> Look {
    let (target, _) = asked(target).await;
    let (source, more) = asked(source).await;
    let (passes, may_postcopy) = more.unwrap_or_default();
    Look { source, target, passes, may_postcopy }
}

/// What one QEMU says; of a migration that it sends also how many passes it has begun, and whether post-copy is possible.
async fn asked(socket: &Path) -> (Seen, Option<(u32, bool)>) {
    let qemu = match qemu::probe_at(socket).await {
        Probed::Absent => return (Seen::Gone, None),
        Probed::Silent => return (Seen::Silent, None),
        Probed::There(qemu) => qemu,
    };
    let client = &qemu.client;
    let said = async {
        let (state, info) = tokio::try_join!(client.status(), client.migration())?;
        let capabilities = client.capabilities().await?;
        let postcopy = capabilities.is_on(&Capability::PostcopyRam);
        let passes = info.ram.as_ref().map_or(0, |ram| ram.passes);
        let sample: MigrationSample = translate::sample(&info, &state.state);
        Ok::<_, QmpError>((sample, (u32::try_from(passes).unwrap_or(u32::MAX), postcopy)))
    };
    match said.await {
        Ok((sample, more)) => (Seen::There(Box::new(sample)), Some(more)),
        Err(error) => {
            tracing::debug!("{}: {error}", socket.display());
            (Seen::Silent, None)
        }
    }
}
