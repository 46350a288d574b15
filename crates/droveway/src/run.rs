//! One run: the loop between the gang's driver and the world.
//!
//! The loop performs the driver's actions (each on a task of its own), hands in events, replies and the time, and keeps a
//! [`Ledger`] of everything that happened; display and report are folds over it.

mod adapt;
mod display;
mod heartbeat;
pub(crate) mod journal;
mod ledger;
mod path;
mod perform;
mod sampler;
pub(crate) mod settings;
mod shadow;
mod translate;
mod tuning;
mod view;

pub(crate) use adapt::{Replanner, Watch};
pub(crate) use display::{Display, tells_of_a_stream};
pub(crate) use journal::Journal;
pub(crate) use ledger::{Ledger, VmLedger};
pub(crate) use perform::Pair;
pub(crate) use sampler::{PortReading, Ports};
pub(crate) use shadow::{LOOK_PERIOD, Watched, Watching, watch};
pub(crate) use translate::sample;
pub(crate) use view::{Expectations, View};

use crate::{clock, fleet::RunLock, network::Network};
use droveway_drive::{
    Accepted, Action, ActionError, ActionId, GangAction, GangDriver, OperatorRequest, PortsSeen,
    QemuEvent, Record, Refusal, Reply, Side, VmDriver,
};
use droveway_fleet::{Bandwidth, Bytes, Fleet, Timestamp, VmId};
use droveway_plan::replan::Answer;
use droveway_qmp::{MigrationUri, Notice, Subscription};
use droveway_store::{Entry, NetworkChange};
use ledger::Blocked;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tuning::{Tuned, Tuner, Which};

/// Inputs that wait for the loop: some hundred VMs' events at once; senders wait beyond it.
const INBOX_MAX: usize = 1024;
/// Between two looks at the ports, and two repaintings: contention shows within a quarter of a second.
const TICK: Duration = Duration::from_millis(200);

/// What the world tells the loop.
#[derive(Debug)]
enum Input {
    Event { vm: VmId, side: Side, event: QemuEvent, at: Timestamp },
    Reply { vm: VmId, id: ActionId, reply: Result<Reply, ActionError> },
    Lagged { vm: VmId, lost: u64 },
    Tuned { vm: VmId, tuned: Tuned },
    Blocked { vm: VmId, blocked: Blocked },
    Answer { question: u64, answer: Option<Box<Answer>> },
}

/// An operator's request, and where its answer goes. Who does not wait for the answer may drop the other end.
pub(crate) type Asked = (OperatorRequest, oneshot::Sender<Result<Accepted, Refusal>>);

/// Requests that wait for the loop, which takes one at a time and answers at once: a handful of operators; senders wait
/// beyond it.
const REQUESTS_MAX: usize = 16;

/// A way for operators' requests into a run. The run goes on without if every sender is dropped.
pub(crate) fn requests() -> (mpsc::Sender<Asked>, mpsc::Receiver<Asked>) {
    mpsc::channel(REQUESTS_MAX)
}

/// Everything a run needs.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) gang: GangDriver,
    pub(crate) pairs: BTreeMap<VmId, Pair>,
    pub(crate) ports: Ports,
    /// What the slower of the two ports carries of streams: as measured, where that was done.
    pub(crate) payload: Bandwidth,
    pub(crate) lock: RunLock,
    pub(crate) run_id: String,
    /// The ports, if they keep promises.
    pub(crate) network: Option<Network>,
    /// Who plans again, if anybody does.
    pub(crate) replanner: Option<Arc<Replanner>>,
    /// What ports and VMs carry, if somebody plans by it.
    pub(crate) watch: Option<Watch>,
    /// Where it is written down.
    pub(crate) journal: Journal,
    /// What happened before this controller took over, by VM.
    pub(crate) earlier: Vec<(VmId, Record)>,
    /// What operators ask for meanwhile.
    pub(crate) requests: mpsc::Receiver<Asked>,
    /// Whose memory of plans it is.
    pub(crate) fleet: Arc<Fleet>,
    /// What is known beforehand of its course.
    pub(crate) expected: Expectations,
    /// How it stands, for whoever looks from outside.
    pub(crate) view: tokio::sync::watch::Sender<Option<View>>,
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    /// What happened.
    pub(crate) ledger: Ledger,
    /// Where it is written down; the run's end is not there yet.
    pub(crate) journal: Journal,
    /// The fleet is free for another run once this is dropped.
    pub(crate) lock: RunLock,
}

/// Carries the plan out. Every attempt has ended when it returns.
pub(crate) async fn carry_out(mut run: Run, display: &mut Display) -> Finished {
    let (sender, mut inbox) = mpsc::channel(INBOX_MAX);
    for (vm, pair) in &run.pairs {
        for side in [Side::Source, Side::Target] {
            let subscription = pair.qemu(side).client.subscribe();
            tokio::spawn(follow(vm.clone(), side, subscription, sender.clone()));
        }
    }
    let mut ledger = Ledger::new(run.gang.plan());
    let earlier = std::mem::take(&mut run.earlier);
    ledger.remember(earlier, |vm| run.gang.driver(vm).is_some_and(|it| it.outcome().is_none()));
    let plan = run.gang.plan();
    let mut tuner =
        plan.tuning.then(|| Tuner::new(plan, run.payload, run.network.is_some(), sender.clone()));
    let mut paths = path::Paths::default();
    // Streams that a killed controller began are watched like our own, so that a dead path is noticed as soon; and they have the pace
    // that it gave them last, which may be next to nothing.
    for (vm, known) in &run.journal.state().vms {
        if let (Some(uri), Some(pair)) = (&known.uri, run.pairs.get(vm)) {
            paths.watch(vm, uri, pair);
            let moving = run.gang.driver(vm).filter(|driver| driver.uses_port());
            if let (Some(tuner), Some(driver)) = (&mut tuner, moving) {
                tuner.take_over(vm, uri, driver.phase(), pair);
            }
        }
    }
    let mut heart = heartbeat::Heart::default();
    let mut interrupts = Interrupts::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut now = clock::now();
    run.gang.prepare(now);
    let (mut started, mut is_open) = (false, true);
    loop {
        let mut actions = Vec::new();
        while let Some((vm, id, mut action)) = run.gang.poll_action() {
            if let (Some(tuner), Some(pair)) = (&mut tuner, run.pairs.get(&vm)) {
                action = tuner.note_action(&vm, action, pair);
            }
            if let Some(pair) = run.pairs.get(&vm) {
                paths.note_action(&vm, &action, pair);
            }
            run.journal.intend(now, &vm, id, &action);
            actions.push((vm, id, action));
        }
        let mut changed = false;
        while let Some((vm, record)) = run.gang.poll_record() {
            changed = true;
            let entry = Entry::Record { vm: vm.clone(), record: record.kind.clone() };
            run.journal.push(record.at, entry);
            display.record(&vm, &record, &ledger);
            let progress = run.gang.driver(&vm).map(VmDriver::progress);
            ledger.note(&vm, record, progress);
        }
        adapt(&mut run, &mut ledger, display, tuner.as_mut(), &sender);
        write_down(&mut run, &mut ledger, display, now);
        if actions.iter().any(|(_, _, action)| !matches!(action, Action::Sample(_))) {
            // Nothing is done that is not on file.
            run.journal.commit();
        } else {
            run.journal.flush();
        }
        for (vm, id, action) in actions {
            perform::spawn(&run.pairs, vm, id, action, sender.clone());
        }
        if changed {
            run.view.send_replace(Some(run.view_now(&ledger, now)));
            run.lock.publish(&ledger.active_run(&run.run_id, run.gang.plan()));
        }
        if !started && run.gang.is_prepared() {
            started = true;
            now = now.max(clock::now());
            ledger.begin(now, run.ports.read(now));
            run.journal.push(now, Entry::Began);
            run.gang.start(now);
            continue;
        }
        if run.gang.is_over() {
            break;
        }
        let due = run.gang.poll_timeout().map_or(TICK, |due| due.since(clock::now()));
        tokio::select! {
            biased;
            input = inbox.recv() => {
                let Some(input) = input else { break };
                match input {
                    Input::Event { vm, side, event, at } => {
                        // Events carry the time of their receipt; the driver's time only goes forward.
                        now = now.max(at);
                        if let Some(tuner) = &mut tuner {
                            let progress = run.gang.driver(&vm).map(VmDriver::progress);
                            let left = progress.map_or(Bytes::ZERO, |progress| progress.remaining);
                            tuner.note_event(&vm, side, &event, left);
                        }
                        let entry = Entry::Event { vm: vm.clone(), side, event: event.clone() };
                        run.journal.push(now, entry);
                        run.gang.handle_event(now, &vm, side, event);
                    }
                    Input::Reply { vm, id, reply } => {
                        now = now.max(clock::now());
                        run.journal.replied(now, &vm, id, &reply);
                        if let Err(text) = take_listener(&mut run, &vm, &reply) {
                            let what = format!("{vm}: not told apart from applications: {text}");
                            ledger.remark(display, what);
                        }
                        run.gang.handle_reply(now, &vm, id, reply);
                    }
                    Input::Lagged { vm, lost } => {
                        display.warn(&format!("{vm}: {lost} events of QEMU were lost"));
                    }
                    Input::Blocked { vm, blocked } => ledger.note_blocked(&vm, blocked),
                    Input::Tuned { vm, tuned } => {
                        let told = take_tuned(&mut run, tuner.as_mut(), &vm, tuned);
                        if let Err(text) = told {
                            ledger.remark(display, format!("{vm}: sockets as they are: {text}"));
                        }
                    }
                    Input::Answer { question, answer } => {
                        now = now.max(clock::now());
                        take_answer(&mut run, now, question, answer);
                    }
                }
            }
            () = tokio::time::sleep(due) => {
                now = now.max(clock::now());
                run.gang.handle_timeout(now);
            }
            asked = run.requests.recv(), if is_open => match asked {
                Some((request, answer)) => {
                    now = now.max(clock::now());
                    let taken = operate(&mut run, &mut ledger, now, &request);
                    // Whoever asked may have gone.
                    let _ = answer.send(taken);
                }
                None => is_open = false,
            },
            () = interrupts.next() => {
                now = now.max(clock::now());
                let past_return = run.gang.cancel(now);
                display.cancelled(&past_return);
                ledger.cancelled = true;
                run.journal.push(now, Entry::Cancelled);
            }
            _ = tick.tick() => {
                now = now.max(clock::now());
                let reading = run.ports.read(now);
                let seen = reading.seen(run.gang.plan());
                ledger.note_ports(now, reading);
                for (vm, sample, delivery) in paths.sample(now, &run.gang, &mut ledger) {
                    run.gang.handle_path(now, &vm, sample);
                    run.gang.handle_connection(now, &vm, delivery);
                }
                if let Some([source_tx, target_rx]) = seen {
                    let streams = ledger.acknowledged();
                    run.gang.handle_ports(now, PortsSeen { source_tx, target_rx, streams });
                }
                heart.beat(now, &mut run);
                if let Some(seen) = run.watch.as_mut().and_then(|watch| watch.look(now)) {
                    run.gang.handle_traffic(now, seen);
                }
                if let Some(network) = &mut run.network {
                    network.keep_listeners(|vm| {
                        run.gang.driver(vm).is_some_and(|it| it.outcome().is_none())
                    });
                }
                for found in run.network.iter_mut().flat_map(|network| network.verify(now.seconds())) {
                    ledger.diverged(display, found);
                }
                display.paint(&run.gang, &ledger, now);
                run.view.send_replace(Some(run.view_now(&ledger, now)));
            }
        }
    }
    ledger.wishes = run.gang.wishes().clone();
    ledger.end(clock::now(), run.ports.read(clock::now()));
    if let Some(network) = run.network.take() {
        ledger.reservations = network.reservations();
        let failed = network.put_back();
        let change = match failed.first() {
            None => NetworkChange::PutBack,
            Some(text) => NetworkChange::NotPutBack(text.clone()),
        };
        for text in failed {
            ledger.remark(display, format!("{text}; try `droveway restore-network`"));
        }
        run.journal.push(clock::now(), Entry::Network { change });
    }
    write_down(&mut run, &mut ledger, display, clock::now());
    run.journal.commit();
    display.finish();
    Finished { ledger, journal: run.journal, lock: run.lock }
}

/// What the run as a whole told and changed, and what is wrong with the journal itself.
fn write_down(run: &mut Run, ledger: &mut Ledger, display: &Display, now: Timestamp) {
    if let Some(text) = run.journal.trouble() {
        ledger.remark(display, format!("{text}; the run goes on"));
    }
    run.journal.plan(now, run.gang.plan());
    run.journal.told(now, &ledger.remarks, &ledger.decisions);
    if let Some(network) = &run.network {
        run.journal.holds(now, &network.reservations());
    }
}

/// Does what the gang as a whole wants done, and tells what was decided.
fn adapt(
    run: &mut Run,
    ledger: &mut Ledger,
    display: &Display,
    mut tuner: Option<&mut Tuner>,
    inbox: &mpsc::Sender<Input>,
) {
    while let Some(action) = run.gang.poll_gang_action() {
        match action {
            GangAction::Replan(situation) => {
                if let Some(replanner) = &run.replanner {
                    let inbox = inbox.clone();
                    Replanner::ask(replanner, situation, move |question, answer| {
                        // Nobody listens any more once the run is over.
                        let _ = inbox.blocking_send(Input::Answer { question, answer });
                    });
                }
            }
            GangAction::GiveWay { to } => {
                if let Some(network) = &mut run.network {
                    network.hurry(to.is_some());
                }
                if let Some(tuner) = tuner.as_deref_mut() {
                    tuner.give_way(to);
                }
            }
            GangAction::Yield { each } => {
                if let Some(tuner) = tuner.as_deref_mut() {
                    tuner.yield_to(each);
                }
            }
            GangAction::Reserve(_) => {
                let plan = run.gang.plan();
                let changed = run.network.as_mut().map(|network| network.change(plan));
                for text in changed.into_iter().flatten() {
                    ledger.remark(display, text);
                }
            }
        }
    }
    while let Some(decision) = run.gang.poll_decision() {
        display.decided(&decision, ledger);
        ledger.decisions.push(decision);
    }
}

/// Takes an operator's request, or refuses it.
fn operate(
    run: &mut Run,
    ledger: &mut Ledger,
    now: Timestamp,
    request: &OperatorRequest,
) -> Result<Accepted, Refusal> {
    let before = run.gang.plan().generation;
    let taken = run.gang.operate(now, request);
    if run.gang.plan().generation > before {
        adapt::remember(&run.fleet, run.gang.plan());
    }
    let answer = match &taken {
        Ok(accepted) => accepted.choice.clone(),
        Err(refusal) => refusal.to_string(),
    };
    let (request_text, accepted) = (request.to_string(), taken.is_ok());
    run.journal.push(now, Entry::Operator { request: request_text, accepted, answer });
    ledger.cancelled |= taken.is_ok() && matches!(request, OperatorRequest::Cancel { vm: None });
    taken
}

fn take_answer(run: &mut Run, now: Timestamp, question: u64, answer: Option<Box<Answer>>) {
    let before = run.gang.plan().generation;
    run.gang.handle_answer(now, question, answer.map(|answer| *answer));
    if run.gang.plan().generation > before {
        adapt::remember(&run.fleet, run.gang.plan());
    }
}

/// A target that listens has a port, whose packets are migration's before the first of them is sent.
fn take_listener(
    run: &mut Run,
    vm: &VmId,
    reply: &Result<Reply, ActionError>,
) -> Result<(), String> {
    let (Some(network), Ok(Reply::Listening(uri))) = (&mut run.network, reply) else {
        return Ok(());
    };
    match uri.parse() {
        Ok(MigrationUri::Tcp { port, .. }) => network.add_listener(vm, port),
        _ => Ok(()),
    }
}

/// A connection was tuned, or not, which says why.
fn take_tuned(
    run: &mut Run,
    tuner: Option<&mut Tuner>,
    vm: &VmId,
    tuned: Tuned,
) -> Result<(), String> {
    tracing::debug!(%vm, ?tuned, "sockets");
    let (Some(tuner), Some(pair)) = (tuner, run.pairs.get(vm)) else { return Ok(()) };
    match tuned {
        Tuned::Both { which: Which::Stream, source } => {
            tuner.note_stream(vm, source, pair);
            Ok(())
        }
        Tuned::Both { which: Which::Urgent { .. }, source } => match &mut run.network {
            Some(network) => network.hasten(source.port()),
            None => Ok(()),
        },
        Tuned::Fetched => {
            tuner.note_fetched(vm);
            Ok(())
        }
        Tuned::Loud => {
            tuner.note_loud(vm, pair);
            Ok(())
        }
        // A VM whose move has ended has no connection to find, and over a broken path there is none yet.
        Tuned::Not(_)
            if run.gang.driver(vm).is_none_or(|it| !it.uses_port() || it.is_cut_off()) =>
        {
            Ok(())
        }
        Tuned::Not(reason) => Err(reason),
    }
}

async fn follow(vm: VmId, side: Side, mut events: Subscription, inbox: mpsc::Sender<Input>) {
    while let Some(notice) = events.recv().await {
        let input = match notice {
            Notice::Event(record) => match translate::event(&record.event) {
                Some(event) => {
                    Input::Event { vm: vm.clone(), side, event, at: clock::at(record.received) }
                }
                None => {
                    tracing::debug!(%vm, ?side, event = ?record.event, "carried, not acted upon");
                    continue;
                }
            },
            Notice::Lagged(lost) => Input::Lagged { vm: vm.clone(), lost },
            Notice::Malformed { reason, .. } => {
                tracing::warn!(%vm, ?side, reason, "a line from QEMU was no message");
                continue;
            }
        };
        if inbox.send(input).await.is_err() {
            return;
        }
    }
    let gone = Input::Event { vm, side, event: QemuEvent::Gone, at: clock::now() };
    let _ = inbox.send(gone).await;
}

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
pub(crate) struct Interrupts {
    signals: Option<[tokio::signal::unix::Signal; 2]>,
}

impl Interrupts {
    pub(crate) fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let both = signal(SignalKind::interrupt())
            .and_then(|first| Ok([first, signal(SignalKind::terminate())?]));
        Interrupts { signals: both.ok() }
    }

    pub(crate) async fn next(&mut self) {
        match &mut self.signals {
            Some([first, second]) => {
                tokio::select! { _ = first.recv() => {}, _ = second.recv() => {} }
            }
            None => std::future::pending().await,
        }
    }
}
