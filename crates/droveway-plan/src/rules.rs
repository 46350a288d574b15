//! Published policies as plans: what each rule of [`published`](crate::published) means for moves between two hosts.
//!
//! Each looks at the same subjects: what a snapshot knows of the VMs and of the two ports. Elastic traffic counts with what
//! it could take, the whole port, as it would be measured. A policy that says nothing of a stage leaves it as it is by
//! default: pre-copy, one after the other, in the order given, without ceilings.

use crate::{
    habits::{Clark, Ladder},
    plan::Turns,
    policy::{GangFacts, parameters::Settings},
    published::{
        Ports, Subject, clark_rate, cqncr, fpta, fuzzy_cluster, m_mixed, minutil_o, mvm, pava,
        serial_or_parallel, slamig, solive, sync_finish, time_window_broker,
    },
    window::{Of, WAIT_MAX, quiet},
};
use droveway_fleet::{Intent, Technique, Urgency};
use droveway_model::{
    fluid::{End, FlowModel, MoveModel},
    gangs::{Equal, Loaded, Residents, greedy, joint_split},
    urgency::Pace,
    world::World,
};

/// Clark's first pass gets such a part of the port.
const CLARK_FIRST: f64 = 10.0;
/// Whose turn it is not gets such a part of the port.
const ROUND_ROBIN_SLOW: u32 = 100;

/// A published rule that fills stages of a plan for two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    DirectionGreedy,
    DirectionJoint,
    FuzzyCluster,
    DynamicHybrid,
    WsHybrid,
    SerialOrParallel,
    ImprovedSerial,
    MMixed,
    SyncFinish,
    Solive,
    Slamig,
    Cqncr,
    Fpta,
    Mvm,
    MinutilO,
    Pacer,
    TimeWindowBroker,
    ClarkRate,
    RoundRobin,
    Pava,
    Alma,
}

/// What a rule decides; VMs by their index among the facts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    /// By VM.
    pub(crate) techniques: Vec<Technique>,
    /// Who starts first.
    pub(crate) order: Vec<usize>,
    /// So many at once.
    pub(crate) window: usize,
    /// By VM, who has to have ended first.
    pub(crate) after: Vec<Option<usize>>,
    /// By VM, the ceiling of its stream, bytes per second; infinite: none.
    pub(crate) ceilings: Vec<f64>,
    /// Whether hybrids go on with pre-copy as long as passes shrink.
    pub(crate) patient_hybrid: bool,
    /// A rule that acts while a pre-copy runs.
    pub(crate) ladder: Option<Ladder>,
    /// Whether streams take turns.
    pub(crate) turns: Option<Turns>,
    /// So many seconds are waited first.
    pub(crate) wait: Option<f64>,
    /// The share of both ports that is promised to the moves.
    pub(crate) reserved: Option<f64>,
}

impl Draft {
    fn plain(count: usize) -> Self {
        Draft {
            techniques: vec![Technique::PreCopy; count],
            order: (0..count).collect(),
            window: 1,
            after: vec![None; count],
            ceilings: vec![f64::INFINITY; count],
            patient_hybrid: false,
            ladder: None,
            turns: None,
            wait: None,
            reserved: None,
        }
    }

    fn parallel(mut self) -> Self {
        self.window = self.order.len().max(1);
        self
    }

    fn ordered(mut self, order: Vec<usize>) -> Self {
        self.order = order;
        self
    }

    fn all(mut self, technique: Technique) -> Self {
        self.techniques.fill(technique);
        self
    }

    fn post_copying(mut self, post: &[bool]) -> Self {
        for (technique, post) in self.techniques.iter_mut().zip(post) {
            if *post {
                *technique = Technique::PostCopy;
            }
        }
        self
    }
}

/// What the rules look at.
struct Scene {
    subjects: Vec<Subject>,
    peers: Vec<Vec<f64>>,
    ports: Ports,
}

/// What `rule` makes of it. `models` are the VMs' moves in the facts' order.
pub(crate) fn draft(
    rule: Rule,
    intent: &Intent,
    facts: &GangFacts,
    world: &World,
    models: &[MoveModel],
    settings: &Settings,
) -> Draft {
    let scene = Scene::of(world, models);
    let Scene { subjects, peers, ports } = &scene;
    let rate = ports.capacity - ports.resident_source_tx.max(ports.resident_target_rx);
    let rate = rate.max(RATE_MIN_SHARE * ports.capacity);
    let plain = Draft::plain(models.len());
    let deadlines = facts.vms.iter().map(|fact| {
        let of_vm = fact.deadline.map(|time| time.as_secs_f64());
        let of_gang = intent.deadline.map(|time| time.duration().as_secs_f64());
        let of_policy = settings.number("deadline");
        of_vm.into_iter().chain(of_gang).chain(of_policy).fold(f64::INFINITY, f64::min)
    });
    let deadlines: Vec<f64> = deadlines.collect();
    match rule {
        Rule::DirectionGreedy => {
            let post = greedy(&scene.loaded(facts));
            plain.post_copying(&post).parallel()
        }
        Rule::DirectionJoint => {
            let residents = Residents {
                source_tx: ports.resident_source_tx,
                target_rx: ports.resident_target_rx,
            };
            let post = joint_split(&scene.loaded(facts), residents).postcopy;
            plain.post_copying(&post).parallel()
        }
        Rule::FuzzyCluster => {
            let mut parameters = fuzzy_cluster::Parameters::default();
            settings.set("fuzzifier", &mut parameters.fuzzifier);
            settings.set("membership", &mut parameters.membership_min);
            let clusters = fuzzy_cluster::clusters(subjects, &parameters);
            let verdicts = fuzzy_cluster::verdicts(&clusters, &parameters);
            let post: Vec<bool> =
                verdicts.iter().map(|v| *v == fuzzy_cluster::Verdict::PostCopy).collect();
            plain.post_copying(&post)
        }
        Rule::DynamicHybrid => {
            let mut draft = plain.all(Technique::Hybrid);
            draft.patient_hybrid = true;
            draft
        }
        Rule::WsHybrid => plain.all(Technique::Hybrid),
        Rule::ClarkRate => {
            let mut draft = plain.ordered(clark_rate::order(subjects));
            draft.ladder = Some(Ladder::Clark(Clark::on(facts.port_rate.tcp_payload())));
            draft.ceilings.fill(ports.capacity / CLARK_FIRST);
            draft
        }
        Rule::RoundRobin => {
            let mut draft = plain.parallel();
            let fast = facts.port_rate.tcp_payload();
            let turns = Turns { fast, slow: fast.divided(ROUND_ROBIN_SLOW) };
            draft.turns = Some(turns);
            draft.ceilings.fill(ports.capacity / f64::from(ROUND_ROBIN_SLOW));
            draft
        }
        Rule::SerialOrParallel => {
            let mut parameters = serial_or_parallel::Parameters::default();
            settings.set("dirty-ratio", &mut parameters.dirty_ratio_max);
            let correlated = facts.is_one_group();
            match serial_or_parallel::schedule(subjects, rate, correlated, &parameters) {
                serial_or_parallel::Schedule::Parallel => plain.parallel(),
                serial_or_parallel::Schedule::Serial(order) => plain.ordered(order),
            }
        }
        Rule::ImprovedSerial => mixed(plain, subjects, 1),
        Rule::MMixed => {
            let best = || m_mixed::best_m(&scene.mean(rate, intent), least(&deadlines));
            let m = settings.count("m").or_else(best).unwrap_or(1);
            mixed(plain, subjects, m as usize)
        }
        Rule::SyncFinish => match sync_finish::rates(subjects, rate) {
            Some(together) => Draft { ceilings: together.rates, ..plain.parallel() },
            // It dirties as fast as it is sent: there is no common end.
            None => plain,
        },
        Rule::Solive => {
            let mut parameters = solive::Parameters::default();
            settings.set("idle", &mut parameters.idle_below);
            let order = solive::order(subjects, *ports, intent.urgency, &parameters);
            let reserved = solive::reserved(*ports, intent.urgency) / ports.capacity.max(1.0);
            Draft { reserved: Some(reserved), ..plain.ordered(order) }
        }
        Rule::Slamig => {
            let mut parameters = slamig::Parameters::default();
            settings.set("time", &mut parameters.time);
            settings.set("impact", &mut parameters.impact);
            let order = slamig::order(subjects, *ports, peers, &parameters);
            plain.ordered(order)
        }
        Rule::Cqncr => plain.ordered(cqncr::order(subjects, *ports, peers)),
        Rule::Fpta => {
            let cap = rate * settings.number("cap").unwrap_or(1.0);
            let fpta::Rounds { order, grants, at_once } = fpta::rounds(subjects, rate, cap);
            Draft { ceilings: grants, window: at_once, ..plain.ordered(order) }
        }
        Rule::Mvm => plain.ordered(mvm::order(subjects, rate)),
        Rule::MinutilO => {
            let base = ports.resident_source_tx.max(ports.resident_target_rx);
            let link = minutil_o::Link { capacity: ports.capacity, base, migration: rate };
            let steps = minutil_o::order(subjects, peers, link);
            plain.ordered(steps.into_iter().map(|step| step.vm).collect())
        }
        Rule::Pacer => {
            let headroom = settings.number("headroom").unwrap_or(PACE_HEADROOM);
            let pace = Pace { headroom, rate_min: RATE_MIN_SHARE * rate, rate_max: rate };
            let paced = subjects.iter().zip(&deadlines).map(|(subject, deadline)| {
                let dirtied = subject.curve.initial_rate();
                if deadline.is_finite() {
                    pace.rate(subject.send_bytes, dirtied, *deadline).rate
                } else {
                    f64::INFINITY
                }
            });
            Draft { ceilings: paced.collect(), ..plain.parallel() }
        }
        Rule::Alma => {
            let vms: Vec<usize> = models.iter().map(|model| model.vm).collect();
            let bytes: f64 = subjects.iter().map(|subject| subject.send_bytes).sum();
            let most = deadlines.iter().copied().fold(WAIT_MAX, f64::min) - bytes / rate;
            let phase = |of| quiet(world, &vms, bytes / rate, most, of);
            // Dirtying as in the paper; where it was not watched, traffic.
            let found = phase(Of::Dirtying).or_else(|| phase(Of::Traffic));
            let wait = found.map(|found| found.wait);
            Draft { wait, ..plain }
        }
        Rule::Pava => {
            let mut parameters = pava::Parameters::default();
            settings.set("floor", &mut parameters.floor);
            // Critical are those that the operator names; all others are normal. The busier of the two directions counts.
            let is_critical = |vm: usize| {
                settings.of_vm("critical", &facts.vms[vm].vm).is_some_and(|named| named > 0.0)
            };
            let sent = |critical: bool| -> f64 {
                let of_class =
                    subjects.iter().enumerate().filter(|(vm, _)| is_critical(*vm) == critical);
                of_class.map(|(_, subject)| subject.tx).sum()
            };
            let busier = (ports.resident_source_tx + sent(false)).max(ports.resident_target_rx);
            let urgent = matches!(intent.urgency, Urgency::High | Urgency::Critical);
            let stream = |of: bool| if of { f64::INFINITY } else { 0.0 };
            let demands = pava::ByClass {
                critical: sent(true).min(ports.capacity),
                urgent_migration: stream(urgent),
                normal: busier.min(ports.capacity),
                other_migration: stream(!urgent),
            };
            let granted = pava::grants(ports.capacity, demands, &parameters);
            let ceiling = granted.urgent_migration + granted.other_migration;
            // Its class is promised what it is granted, and held to it, or others would not get theirs.
            let reserved = Some(ceiling / ports.capacity.max(1.0));
            Draft { ceilings: vec![ceiling; plain.order.len()], reserved, ..plain }
        }
        Rule::TimeWindowBroker => {
            let of = |name: &str, vm: usize| settings.of_vm(name, &facts.vms[vm].vm);
            let requests: Vec<_> = subjects
                .iter()
                .zip(&deadlines)
                .enumerate()
                .map(|(vm, (subject, deadline))| time_window_broker::Request {
                    remaining: subject.send_bytes,
                    // Who has no deadline needs nothing yet, and gets what is left.
                    time_left: *deadline,
                    priority: of("priority", vm).unwrap_or(1.0),
                    penalty_per_second: of("penalty", vm).unwrap_or(0.0),
                })
                .collect();
            let precedence = match settings.number("penalty") {
                Some(_) => time_window_broker::Precedence::Penalty,
                None => time_window_broker::Precedence::Priority,
            };
            let grants = time_window_broker::grants(&requests, precedence, rate);
            // In their order; those that got nothing are postponed.
            let mut order = time_window_broker::order(&requests, precedence);
            order.sort_by_key(|vm| grants[*vm].rate <= 0.0);
            let granted = grants.iter().filter(|grant| grant.rate > 0.0).count();
            let ceiling = |rate: f64| if rate > 0.0 { rate } else { f64::INFINITY };
            let ceilings = grants.iter().map(|grant| ceiling(grant.rate)).collect();
            // Those that were postponed start as the others end.
            Draft { ceilings, window: granted.max(1), ..plain.ordered(order) }
        }
    }
}

/// A stream gets this share of the port at least, whatever is there: sharing by flow.
const RATE_MIN_SHARE: f64 = 0.05;
/// What a paced stream goes faster than it must.
pub(crate) const PACE_HEADROOM: f64 = 0.05;

fn least(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

fn mixed(plain: Draft, subjects: &[Subject], m: usize) -> Draft {
    let mix = m_mixed::mix(subjects, m);
    let mut draft = plain;
    draft.window = mix.pre_copied.len().max(1);
    let mut before = mix.pre_copied.last().copied();
    for vm in &mix.post_copied {
        draft.techniques[*vm] = Technique::PostCopy;
        draft.after[*vm] = before;
        before = Some(*vm);
    }
    draft.order = mix.pre_copied.into_iter().chain(mix.post_copied).collect();
    draft
}

impl Scene {
    fn of(world: &World, models: &[MoveModel]) -> Self {
        let gang = &world.gang;
        let moving =
            |end: End| models.iter().position(|step| matches!(end, End::Vm(vm) if vm == step.vm));
        let (source, target) =
            models.first().map_or((0, 0), |step| (gang.vms[step.vm].host, step.target));
        let capacity = gang
            .ports
            .get(source)
            .zip(gang.ports.get(target))
            .map_or(0.0, |(from, to)| from.tx.min(to.rx));
        let rate = |flow: &FlowModel| flow.demand.min(capacity);
        let mut subjects: Vec<Subject> = models
            .iter()
            .map(|step| {
                let vm = &gang.vms[step.vm];
                let (send_bytes, curve) = (vm.send_bytes, vm.curve.clone());
                Subject { send_bytes, curve, tx: 0.0, rx: 0.0, cpu_ratio: 0.0 }
            })
            .collect();
        let mut peers = vec![vec![0.0; models.len()]; models.len()];
        let mut ports = Ports { capacity, resident_source_tx: 0.0, resident_target_rx: 0.0 };
        let host = |end: End| match end {
            End::Vm(vm) => Some(gang.vms[vm].host),
            End::Host(host) => Some(host),
            End::Outside => None,
        };
        for flow in &gang.flows {
            match (moving(flow.from), moving(flow.to)) {
                (Some(from), Some(to)) => peers[from][to] += rate(flow),
                (Some(from), None) => subjects[from].tx += rate(flow),
                (None, Some(to)) => subjects[to].rx += rate(flow),
                (None, None) => {
                    let (from, to) = (host(flow.from), host(flow.to));
                    // Within one host it crosses no port.
                    if from == to {
                        continue;
                    }
                    if from == Some(source) {
                        ports.resident_source_tx += rate(flow);
                    }
                    if to == Some(target) {
                        ports.resident_target_rx += rate(flow);
                    }
                }
            }
        }
        Scene { subjects, peers, ports }
    }

    fn loaded(&self, facts: &GangFacts) -> Vec<Loaded> {
        let allowed = facts.vms.iter().map(|fact| fact.allow_postcopy);
        self.subjects
            .iter()
            .zip(allowed)
            .map(|(subject, allow_postcopy)| Loaded {
                send_bytes: subject.send_bytes,
                dirty_rate: subject.curve.initial_rate(),
                tx: subject.tx,
                rx: subject.rx,
                allow_postcopy,
            })
            .collect()
    }

    /// The gang as the closed forms see it: equal VMs, each the mean of all.
    #[expect(clippy::cast_precision_loss, reason = "some VMs")]
    fn mean(&self, rate: f64, intent: &Intent) -> Equal {
        let count = self.subjects.len().max(1) as f64;
        let mean = |of: fn(&Subject) -> f64| self.subjects.iter().map(of).sum::<f64>() / count;
        Equal {
            vms: u32::try_from(self.subjects.len()).unwrap_or(u32::MAX),
            send_bytes: mean(|subject| subject.send_bytes),
            dirty_rate: mean(|subject| subject.curve.initial_rate()),
            rate,
            threshold: rate * intent.max_downtime.duration().as_secs_f64(),
            max_passes: intent.max_passes,
            resume_time: 0.0,
            back_share: BACK_SHARE,
        }
    }
}

/// Share of its memory that a post-copied VM needs before it counts as back; not published, from a re-implementation.
const BACK_SHARE: f64 = 0.7;
