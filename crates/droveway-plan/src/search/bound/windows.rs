//! What schedules cost at least that move so many VMs at once.
//!
//! Time is measured in *progress*: the share of its bytes that each VM has sent, summed over VMs by what their first pass
//! sends. At each step of it, who may be at the target is known up to the few that are on their way: a VM that was not
//! split is there once all of it was sent, and not before. How the VMs are divided says what traffic asks of source TX and
//! target RX; with the streams' rate, what is lost; with the number of streams and the flows beside them, which rates they
//! can have. So a byte of a VM costs at least so much at that step, and the whole at least the cheapest assignment of bytes
//! to steps, bounded by prices of the steps.
//!
//! While VMs wait for their turn the window is full, so a stream has its part of the rate and no more, except where others
//! are between two moves (bounded by how long that takes in all) and among the last few VMs: until one ends after which so many
//! others end, all of those have a slot, so it has as many streams beside it, and no more VMs than that end so late.

use super::{
    moves::{Beside, Moved},
    ports::{Demand, Mixed, Ports, ceiling},
};
use crate::search::{Schedule, Task, Way};
use droveway_fleet::Technique;

/// Steps of progress.
const STEPS: usize = 24;
/// Rates that are looked at, each with what is up to the next one.
const RATES: u32 = 24;
/// Rounds that improve the prices of steps.
const PRICE_ROUNDS: u32 = 24;
/// How much of the gang may be post-copied, as a share of its bytes: each range is bounded by itself.
const SPLIT_SHARES: [f64; 3] = [0.0, 0.25, 1.0];
/// Places from the end that are told apart: a VM after which few end has fewer streams beside it than the window allows.
const PLACES: usize = 3;

/// Bounds of all schedules with these windows.
pub(super) struct Windows {
    pub(super) from: usize,
    pub(super) to: usize,
    levels: Vec<Level>,
}

/// With so much post-copied.
struct Level {
    /// At least so many bytes are.
    split_least: f64,
    /// At most.
    split_most: f64,
    /// Independent of the ways.
    base: f64,
    /// By mover of the ports, by way.
    costs: Vec<Vec<Cost>>,
    /// How many VMs may be among those of each place, and nearer to the end.
    last: [usize; PLACES],
    /// The most bytes that all those have.
    last_bytes: f64,
}

/// What one VM adds, one way.
#[derive(Clone, Copy)]
struct Cost {
    /// Where the window is full.
    full: f64,
    /// What it may spare of its silence and of its bytes at each place from the end, the most at the first.
    spared: [f64; PLACES],
    /// Silence alone.
    silent: f64,
    bytes: f64,
    split: bool,
    /// Where in the gang's progress its bytes cost least.
    step: usize,
}

/// A range of rates.
struct Cell {
    low: f64,
    high: f64,
    /// What is surely taken there, by mixture.
    taken: Vec<Mixed>,
}

/// What a byte costs at a step at the rates of a cell.
#[derive(Clone, Copy)]
struct Price {
    /// The most that can be had of the cell.
    high: f64,
    /// A byte on the wire.
    byte: f64,
    /// A second.
    second: f64,
}

/// What a VM's bytes cost one way, by step, and what it costs besides.
struct Bytes {
    fixed: f64,
    steps: Vec<f64>,
}

/// What is the same for all windows of a gang.
pub(super) struct Scene<'a> {
    pub(super) task: &'a Task,
    pub(super) ports: &'a Ports,
    /// What traffic usually asks for, by mixture.
    pub(super) usual: Vec<Mixed>,
    ceiling: f64,
    /// All streams count the same, and no other gang's is in the window.
    even: bool,
    /// Bytes of each mover, the most first and the least first.
    most_first: Vec<f64>,
    least_first: Vec<f64>,
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

impl<'a> Scene<'a> {
    pub(super) fn of(task: &'a Task, ports: &'a Ports) -> Self {
        let mut least_first: Vec<f64> = ports.loads.iter().map(|load| load.bytes).collect();
        least_first.sort_by(f64::total_cmp);
        let most_first = least_first.iter().rev().copied().collect();
        let usual = ports.usual().mixes(ports);
        let weight = |index: &usize| task.movers[*index].step.weight;
        let first = ports.movers.first().map_or(0.0, weight);
        let same = ports.movers.iter().all(|index| (weight(index) - first).abs() < 1e-9 * first);
        let even = same && ports.movers.len() == task.movers.len();
        Scene { task, ports, usual, ceiling: ceiling(task), even, most_first, least_first }
    }

    /// So many of the largest.
    fn largest(&self, n: usize) -> f64 {
        self.most_first.iter().take(n).sum()
    }

    /// How many streams a VM of that size shares its slot's time with on average, from its start in a full window: those that
    /// began with it and are smaller are not replaced for sure.
    fn beside(&self, bytes: f64, from: usize) -> f64 {
        if !self.even {
            return 1.0;
        }
        let smallest = self.least_first.iter().take(from.saturating_sub(1));
        1.0 + smallest.map(|other| other.min(bytes)).sum::<f64>() / bytes.max(1.0)
    }

    /// What a VM has of the streams' rate: its part of so many, and what others with a ceiling leave.
    fn own(&self, slots: f64, rate: f64) -> f64 {
        (rate - (slots - 1.0) * self.ceiling.min(rate / slots)).clamp(0.0, rate)
    }

    /// How many have a slot until a VM ends after which enough others end.
    fn slots(&self, bytes: f64, from: usize) -> f64 {
        // All at once, all begin together: nobody comes later.
        if self.even && from < self.ports.movers.len() {
            count(from)
        } else {
            self.beside(bytes, from)
        }
    }

    /// The rates of streams of that weight.
    fn cells(&self, streams: f64) -> Vec<Cell> {
        let (least, most) = (self.ports.least_rate, self.ports.most_rate());
        let ratio = (most / least).powf(1.0 / f64::from(RATES));
        let mut points: Vec<f64> =
            (0..RATES).map(|i| least * ratio.powi(i.cast_signed())).chain([most]).collect();
        let held = self.ports.held.into_iter().filter(|held| *held > least && *held < most);
        points.extend(held);
        let free = self.ports.least_free;
        points.extend((free > least && free < most).then_some(free));
        points.sort_by(f64::total_cmp);
        let mut cells: Vec<Cell> = Vec::new();
        let mut before: Option<Demand> = None;
        let mut push = |low: f64, high: f64, at: f64| {
            let demand = self.ports.taken(at, streams);
            let same = before.as_ref() == Some(&demand);
            let taken = match cells.last() {
                Some(last) if same => last.taken.clone(),
                _ => demand.mixes(self.ports),
            };
            before = Some(demand);
            cells.push(Cell { low, high, taken });
        };
        for pair in points.windows(2) {
            // What is held may be had whatever the others want; a little more only if they want no more.
            if self.ports.held.iter().any(|held| *held > 0.0) {
                push(pair[0], pair[0], pair[0]);
            }
            push(pair[0], pair[1], pair[0] * (1.0 + 1e-9));
        }
        push(most, most, most);
        cells
    }

    /// By step and cell, what bytes cost; the least that may be at the target, and the most.
    fn prices(&self, cells: &[Cell], window: usize, missing: f64) -> Vec<Vec<(usize, Price)>> {
        let ports = self.ports;
        let objective = self.task.objective();
        let all = ports.bytes();
        let on_their_way = self.largest(window);
        let room =
            |mixed: &Mixed| mixed.weights[0] * ports.room[0] + mixed.weights[1] * ports.room[1];
        let slope = |mixed: &Mixed| mixed.weights[0] + mixed.weights[1];
        let step = |step: usize| {
            let at = |step: usize| all * count(step) / count(STEPS);
            let (from, to) = (at(step) - on_their_way, at(step + 1) + missing);
            let asked: Vec<(f64, f64)> = self
                .usual
                .iter()
                .map(|mixed| (mixed.least(from, to) - room(mixed), slope(mixed)))
                .collect();
            let price = |cell: &Cell| {
                let mut high = cell.high;
                for mixed in &cell.taken {
                    high = high.min((room(mixed) - mixed.least(from, to)) / slope(mixed));
                }
                // Rounding is not a limit, and the least rate can always be had.
                if high < cell.low * (1.0 - 1e-9) && cell.low > ports.least_rate {
                    return None;
                }
                let high = high.max(cell.low);
                let time = objective.total_seconds;
                let mut byte = time / high;
                let mut second = time;
                for (over, slope) in &asked {
                    let at = |rate: f64| time + objective.lost_bytes * (over + slope * rate);
                    byte = byte.max((at(cell.low) / cell.low).min(at(high) / high));
                    second = second.max(at(cell.low));
                }
                Some(Price { high, byte, second })
            };
            let priced = cells.iter().enumerate();
            let priced = priced.filter_map(|(at, cell)| Some((at, price(cell)?))).collect();
            if window > 1 { self.cheapest(priced, count(window)) } else { priced }
        };
        (0..STEPS).map(step).collect()
    }

    /// Without those that are slower and cost no less, whatever VM it is.
    fn cheapest(&self, priced: Vec<(usize, Price)>, window: f64) -> Vec<(usize, Price)> {
        let constants = &self.task.gang.constants;
        let zero =
            constants.zero_scan_seconds_per_byte.max(constants.postcopy_zero_scan_seconds_per_byte);
        let vms =
            self.ports.movers.iter().map(|at| &self.task.gang.vms[self.task.movers[*at].step.vm]);
        let scans = vms.map(|vm| zero * vm.zero_bytes / vm.send_bytes.max(1.0));
        let scan = scans.fold(0.0, f64::max) * constants.efficiency / window;
        let mut least = f64::INFINITY;
        let mut kept: Vec<(usize, Price)> = Vec::with_capacity(priced.len());
        for (at, price) in priced.into_iter().rev() {
            if price.byte < least {
                kept.push((at, price));
            }
            least = least.min(price.byte + price.second * scan);
        }
        kept
    }
}

impl Windows {
    pub(super) fn of(scene: &Scene<'_>, from: usize, to: usize) -> Self {
        let task = scene.task;
        let movers = scene.ports.movers.iter().map(|index| &task.movers[*index]);
        let most = movers.map(|mover| mover.step.weight).fold(0.0, f64::max);
        let cells = scene.cells(count(to) * most * task.gang.constants.stream_weight);
        // One after the other only one is on its way, split or not.
        let shares: Vec<(f64, f64)> = if to == 1 {
            vec![(0.0, 1.0)]
        } else {
            let lower = SPLIT_SHARES.iter().copied();
            std::iter::once(0.0).chain(lower).zip(SPLIT_SHARES).collect()
        };
        let courses = Courses::of(scene, &cells, from, to);
        let level = |(least, most)| Level::of(scene, &cells, &courses, (from, to), least, most);
        let levels = shares.into_iter().map(level);
        Windows { from, to, levels: levels.collect() }
    }

    /// The schedules that the bounds are nearest to: of `movers`, all of the gang.
    pub(super) fn schedules(&self, movers: &[usize]) -> Vec<Schedule> {
        self.levels.iter().filter_map(|level| level.schedule(movers, self.from)).collect()
    }

    /// Of every schedule with these windows; `seconds`: no schedule costs less in time alone.
    pub(super) fn all(&self, seconds: f64) -> f64 {
        self.levels.iter().map(|level| level.all(seconds)).fold(f64::INFINITY, f64::min)
    }

    /// Of those with these ways.
    pub(super) fn of_ways(&self, movers: &[usize], ways: &[usize], seconds: f64) -> f64 {
        let of = |level: &Level| level.of_ways(movers, ways, seconds);
        self.levels.iter().map(of).fold(f64::INFINITY, f64::min)
    }
}

/// All VMs with their parts of the streams' rate: what does not depend on how much of the gang is post-copied.
struct Courses<'a> {
    /// Places from the end, each with those up to the next.
    places: Vec<usize>,
    /// By mover of the ports, by way: where the window is full, and at each place from the end.
    of: Vec<Vec<(Course<'a>, Vec<Course<'a>>)>>,
}

/// One VM, one way, with so many streams.
struct Course<'a> {
    moved: Moved<'a>,
    slots: f64,
    /// Most that move at once, and what a silence gives the streams.
    window: f64,
    freed: f64,
    /// It ends near the end of the gang.
    is_last: bool,
    /// By cell: what it costs besides its bytes, at its low end.
    fixed: Vec<f64>,
    /// What is sent again, at its high end: a cell that ends earlier sends no less again.
    again: Vec<f64>,
}

impl<'a> Courses<'a> {
    fn of(scene: &Scene<'a>, cells: &[Cell], from: usize, to: usize) -> Self {
        let (task, ports) = (scene.task, scene.ports);
        let several = to > 1;
        // Until a VM ends after which so many others end, all of those have a slot, as far as there are slots.
        let places: Vec<usize> = if several { places(from) } else { Vec::new() };
        // All at once, those that end early leave the others more than their part.
        let then = if from >= ports.movers.len() { ports.most_rate() } else { 0.0 };
        let freed_most = ports.loads.iter().map(|load| ports.asks(load)).fold(0.0, f64::max);
        let of = |(index, load): (&usize, &super::ports::Load)| {
            let freed = ports.asks(load) + if several { freed_most } else { 0.0 };
            let course = |way: Way, slots: f64, is_last: bool| {
                let moved = Moved::of(task, *index, way, ports.most_rate(), load.usual());
                let mut course = Course {
                    again: cells
                        .iter()
                        .map(|cell| moved.again(scene.own(slots, cell.high), then))
                        .collect(),
                    fixed: Vec::new(),
                    window: count(to),
                    moved,
                    slots,
                    freed,
                    is_last,
                };
                course.fixed = cells.iter().map(|cell| course.fixed_at(scene, cell.low)).collect();
                course
            };
            let of_way = |way: &Way| {
                let at = |place: &usize| {
                    course(*way, if scene.even { count(*place) } else { 1.0 }, true)
                };
                let full = course(*way, scene.slots(load.bytes, from), false);
                (full, places.iter().map(at).collect())
            };
            task.movers[*index].ways.iter().map(of_way).collect()
        };
        let of = ports.movers.iter().zip(&ports.loads).map(of).collect();
        Courses { places, of }
    }
}

impl Course<'_> {
    fn fixed_at(&self, scene: &Scene<'_>, rate: f64) -> f64 {
        let own = scene.own(self.slots, rate);
        let beside = Beside { rate, own, window: self.window, freed: self.freed };
        self.moved.fixed(beside, self.is_last)
    }

    /// Where its own stream has no ceiling, all streams have so much at least while it sends.
    fn free(&self, scene: &Scene<'_>) -> f64 {
        if self.moved.is_free() { scene.ports.least_free * (1.0 - 1e-6) } else { 0.0 }
    }

    /// Over how many steps of the gang's progress the move of a VM of that size lasts at most: each slot beside it sends as much
    /// as it does, and what is sent again is no more than what was sent first.
    fn span(&self, scene: &Scene<'_>, bytes: f64) -> usize {
        if !scene.even || scene.ceiling.is_finite() {
            return STEPS;
        }
        let part = 2.0 * self.window * bytes / scene.ports.bytes().max(1.0);
        (1..STEPS)
            .find(|steps| count(*steps) >= part * count(STEPS))
            .map_or(STEPS, |steps| steps + 1)
    }

    /// What it costs besides its bytes at rates up to `top`.
    fn fixed(&self, scene: &Scene<'_>, cells: &[Cell], top: f64) -> f64 {
        let free = self.free(scene);
        let up_to = cells.iter().zip(&self.fixed);
        let up_to = up_to.filter(|(cell, _)| cell.low <= top && cell.high >= free);
        up_to.map(|(_, fixed)| *fixed).fold(self.fixed_at(scene, top), f64::min)
    }
}

impl Level {
    fn of(
        scene: &Scene<'_>,
        cells: &[Cell],
        courses: &Courses<'_>,
        (from, to): (usize, usize),
        split_least: f64,
        split_most: f64,
    ) -> Self {
        let Scene { task, ports, .. } = scene;
        let objective = task.objective();
        let constants = &task.gang.constants;
        let all = ports.bytes();
        let several = to > 1;
        let places = &courses.places;
        let all_begin = from >= ports.movers.len();
        let missing = |at: usize, side: usize| {
            let index = ports.movers[at];
            let own = scene.own(scene.slots(ports.loads[at].bytes, from), ports.least_rate);
            let ways = task.movers[index].ways.iter();
            ways.map(|way| {
                let moved = Moved::of(task, index, *way, ports.most_rate(), [0.0; 2]);
                moved.missing(ports.most_rate(), own)[side]
            })
            .fold(0.0, f64::max)
        };
        let largest = |side: usize| {
            let mut of: Vec<f64> = (0..ports.movers.len()).map(|at| missing(at, side)).collect();
            of.sort_by(|a, b| b.total_cmp(a));
            of.iter().take(to).sum::<f64>()
        };
        let prices = scene.prices(cells, to, largest(1) + largest(0).min(split_most * all));
        let top = prices.iter().flatten().map(|(_, price)| price.high);
        let top = top.fold(ports.least_rate, f64::max);
        let mut of_full: Vec<Vec<Bytes>> = Vec::new();
        let mut of_last: Vec<Vec<Vec<Bytes>>> = Vec::new();
        let (mut spared, mut dirties) = (0.0_f64, 0.0_f64);
        for ((index, load), of_ways) in ports.movers.iter().zip(&ports.loads).zip(&courses.of) {
            let [sends, receives] = load.usual();
            let (mut full, mut last) = (Vec::new(), Vec::new());
            for (course, of_places) in of_ways {
                let moved = &course.moved;
                // One after the other, nothing is sent between two moves.
                let between =
                    if several { 0.0 } else { objective.total_seconds * moved.unsent_seconds() };
                full.push(Bytes {
                    fixed: course.fixed(scene, cells, top) + between,
                    steps: steps(&prices, cells, course, scene, load.bytes),
                });
                let at = |course: &Course<'_>| Bytes {
                    fixed: course.fixed(scene, cells, top),
                    steps: if all_begin {
                        Vec::new()
                    } else {
                        steps(&prices, cells, course, scene, load.bytes)
                    },
                };
                last.push(of_places.iter().map(at).collect());
                dirties = dirties.max(moved.dirties());
                let silence = task.movers[*index].priority * objective.outage_seconds
                    + objective.lost_bytes * sends.min(receives);
                spared = spared.max(silence).max(moved.split_second());
            }
            of_full.push(full);
            of_last.push(last);
        }
        let bytes: Vec<f64> = ports.loads.iter().map(|load| load.bytes).collect();
        let price = best_prices(&of_full, &bytes);
        let dearest = price.iter().copied().fold(0.0, f64::max);
        let mut base = price.iter().sum::<f64>() * all / count(STEPS);
        if several {
            base += objective.total_seconds * (constants.setup_seconds + constants.finish_seconds);
            // What others are spared while a slot is between two moves.
            let between =
                constants.setup_seconds + constants.finish_seconds + constants.switch_seconds;
            base -= count(ports.movers.len()) * between * spared.max(dirties * dearest);
        }
        let costs = of_full
            .iter()
            .zip(&of_last)
            .zip(ports.movers.iter().zip(&bytes))
            .zip(&ports.loads)
            .map(|(((full, last), (index, bytes)), load)| {
                let ways = full.iter().zip(last).zip(&task.movers[*index].ways);
                ways.map(|((full, last), way)| {
                    let (step, at) = least_step(&full.steps, &price, *bytes);
                    // A silent VM is nobody's competitor: what it leaves the streams is theirs.
                    let moved = Moved::of(task, *index, *way, ports.most_rate(), [0.0; 2]);
                    let given = moved.silent_most() * ports.asks(load) * dearest;
                    let between = if several {
                        0.0
                    } else {
                        objective.total_seconds * moved.unsent_seconds()
                    };
                    let mut spared = [0.0; PLACES];
                    let mut fixed = full.fixed;
                    // The nearer to the end, the more.
                    let mut most = 0.0_f64;
                    for (spared, last) in spared.iter_mut().zip(last).rev() {
                        let bytes = if last.steps.is_empty() {
                            0.0
                        } else {
                            at - least_step(&last.steps, &price, *bytes).1
                        };
                        most = most.max((full.fixed - last.fixed).max(0.0) + bytes.max(0.0));
                        *spared = most;
                        fixed = fixed.min(last.fixed);
                    }
                    Cost {
                        full: full.fixed + at - given,
                        spared,
                        // The time alone has what is spent between two moves.
                        silent: fixed - between,
                        bytes: *bytes,
                        split: way.technique == Technique::PostCopy,
                        step,
                    }
                })
                .collect()
            })
            .collect();
        let mut last = [0; PLACES];
        for (number, last) in last.iter_mut().enumerate().take(places.len()) {
            *last = places.get(number + 1).map_or(from, |next| *next) - 1;
        }
        Level {
            split_least: split_least * all,
            split_most: split_most * all,
            base,
            costs,
            last,
            last_bytes: scene.largest(if several { from - 1 } else { 0 }),
        }
    }

    /// Each VM by the way that adds least, in the order of the steps at which they cost least.
    fn schedule(&self, movers: &[usize], window: usize) -> Option<Schedule> {
        let mut ways = vec![0; movers.len()];
        let mut order = Vec::with_capacity(movers.len());
        for (costs, mover) in self.costs.iter().zip(movers) {
            let allowed = |cost: &&(usize, &Cost)| self.split_most > 0.0 || !cost.1.split;
            let least = costs.iter().enumerate().filter(|cost| allowed(&cost));
            let (way, cost) = least.min_by(|a, b| a.1.full.total_cmp(&b.1.full))?;
            ways[*mover] = way;
            order.push((cost.step, *mover));
        }
        order.sort_unstable();
        Some(Schedule { order: order.into_iter().map(|(_, mover)| mover).collect(), ways, window })
    }

    fn all(&self, seconds: f64) -> f64 {
        // Each VM by the way that adds least; so much of the gang post-copied, where that adds least.
        let mut chosen = 0.0;
        let (mut dearer, mut dearer_last) = (Vec::new(), Vec::new());
        let mut spared = Vec::new();
        let mut silent = 0.0;
        for ways in &self.costs {
            let least = |of: &dyn Fn(&Cost) -> Option<f64>| {
                ways.iter().filter_map(of).fold(f64::INFINITY, f64::min)
            };
            let allowed = |cost: &Cost| self.split_most > 0.0 || !cost.split;
            let best = least(&|cost| allowed(cost).then_some(cost.full));
            if !best.is_finite() {
                // It can only be post-copied: no schedule is of this level.
                return f64::INFINITY;
            }
            chosen += best;
            let bytes = ways.first().map_or(0.0, |cost| cost.bytes);
            let split = least(&|cost| cost.split.then_some(cost.full));
            if split.is_finite() {
                let split_last = least(&|cost| cost.split.then_some(cost.full - cost.spared[0]));
                dearer.push(((split - best).max(0.0), bytes));
                dearer_last.push(((split_last - best).max(0.0), bytes));
            }
            // Near the end it may be another way that adds least.
            spared.push(std::array::from_fn(|place| {
                best - least(&|cost| allowed(cost).then_some(cost.full - cost.spared[place]))
            }));
            silent += least(&|cost| allowed(cost).then_some(cost.silent));
        }
        let last = self.split_least.min(self.last_bytes);
        let more = cheapest(dearer_last, last)
            .and_then(|more| Some(more + cheapest(dearer, self.split_least - last)?));
        let Some(more) = more else { return f64::INFINITY };
        let whole = self.base + chosen + more - self.spared(&spared);
        whole.max(seconds + silent)
    }

    fn of_ways(&self, movers: &[usize], ways: &[usize], seconds: f64) -> f64 {
        let mut spared = Vec::new();
        let (mut whole, mut silent, mut split) = (self.base, 0.0, 0.0);
        for (of, mover) in self.costs.iter().zip(movers) {
            let cost = of[ways[*mover]];
            whole += cost.full;
            silent += cost.silent;
            split += if cost.split { cost.bytes } else { 0.0 };
            spared.push(cost.spared);
        }
        if split < self.split_least || split > self.split_most * (1.0 + 1e-9) {
            return f64::INFINITY;
        }
        (whole - self.spared(&spared)).max(seconds + silent)
    }

    /// What the VMs are spared at most that end last. What one is spared at a place it is spared from the next place on and
    /// the rest beyond that, and no more VMs than there are places are spared either.
    fn spared(&self, of: &[[f64; PLACES]]) -> f64 {
        let mut sum = 0.0;
        for (place, last) in self.last.iter().enumerate().filter(|(_, last)| **last > 0) {
            let next = |spared: &[f64; PLACES]| match self.last.get(place + 1) {
                Some(more) if *more > 0 => spared[place + 1],
                _ => 0.0,
            };
            let mut more: Vec<f64> = of.iter().map(|it| (it[place] - next(it)).max(0.0)).collect();
            more.sort_by(|a, b| b.total_cmp(a));
            sum += more.iter().take(*last).sum::<f64>();
        }
        sum
    }
}

/// The places from the end that are told apart in windows of at least `from`, each with those up to the next.
fn places(from: usize) -> Vec<usize> {
    let mut places: Vec<usize> =
        (0..PLACES).map(|part| (part * from).div_ceil(PLACES).max(1)).collect();
    places.dedup();
    places.retain(|place| *place < from);
    places
}

/// Things with what they are worth or cost, and their sizes.
type Things = Vec<(f64, f64)>;

/// The least that things cost that fill at least so much room, the last one in part; `None` if all do not fill it.
fn cheapest(mut things: Things, mut room: f64) -> Option<f64> {
    things.sort_by(|a, b| (a.0 * b.1).total_cmp(&(b.0 * a.1)));
    let mut cost = 0.0;
    for (value, size) in things {
        if room <= 0.0 {
            break;
        }
        cost += value * (room / size.max(f64::MIN_POSITIVE)).min(1.0);
        room -= size;
    }
    (room <= 1.0).then_some(cost)
}

/// What a VM's byte of progress costs, by step.
fn steps(
    prices: &[Vec<(usize, Price)>],
    cells: &[Cell],
    course: &Course<'_>,
    scene: &Scene<'_>,
    bytes: f64,
) -> Vec<f64> {
    let Course { moved, slots, window, again, .. } = course;
    let efficiency = moved.efficiency();
    let behind = if moved.is_split() { moved.behind() } else { f64::INFINITY };
    let split = if moved.is_split() { moved.split_second() } else { 0.0 };
    let scan = moved.scan();
    let free = course.free(scene);
    let byte = |prices: &Vec<(usize, Price)>| {
        prices.iter().map(|(_, price)| price.byte).fold(f64::INFINITY, f64::min)
    };
    let of_any: Vec<f64> = prices.iter().map(byte).collect();
    // While others move as well, what a VM sends again goes when the gang is further, at rates and prices of then.
    let span = if *window < 2.0 { 0 } else { course.span(scene, bytes) };
    let step = |(number, prices): (usize, &Vec<(usize, Price)>)| {
        let (mut least, mut anyhow) = (f64::INFINITY, f64::INFINITY);
        let then = of_any.iter().skip(number).take(span + 1).copied().fold(f64::INFINITY, f64::min);
        for (at, price) in prices {
            // Alone, it is as slow as its ceiling.
            if *window < 2.0 && cells[*at].low > behind {
                continue;
            }
            let part = (1.0 / window).min(behind / price.high);
            let exposed = scene.own(*slots, price.high).min(behind) * efficiency;
            // Whoever trails behind sends it at any rate.
            let later = if moved.trails() || span > 0 { then } else { price.byte };
            let cost = (price.byte + later * again[*at]) / efficiency
                + price.second * scan * part
                + split * (1.0 / exposed.max(1.0) + scan);
            anyhow = anyhow.min(cost);
            if cells[*at].high >= free {
                least = least.min(cost);
            }
        }
        if least.is_finite() { least } else { anyhow }
    };
    prices.iter().enumerate().map(step).collect()
}

/// The step at which so many bytes cost least beyond its price, and what they cost.
fn least_step(steps: &[f64], prices: &[f64], bytes: f64) -> (usize, f64) {
    let mut least = (0, f64::INFINITY);
    for (step, (cost, price)) in steps.iter().zip(prices).enumerate() {
        if cost - price < least.1 {
            least = (step, cost - price);
        }
    }
    (least.0, least.1 * bytes)
}

/// Prices of a byte at each step that make the bound high: what it costs a VM like the whole gang, then a little more where
/// too many would go and less where too few. Any prices give a bound.
fn best_prices(movers: &[Vec<Bytes>], bytes: &[f64]) -> Vec<f64> {
    let all: f64 = bytes.iter().sum::<f64>().max(1.0);
    let mean = |way: &Bytes| way.steps.iter().sum::<f64>() / count(STEPS);
    let mut prices = vec![0.0; STEPS];
    for (ways, bytes) in movers.iter().zip(bytes) {
        let whole = |way: &&Bytes| way.fixed + bytes * mean(way);
        let Some(way) = ways.iter().min_by(|a, b| whole(a).total_cmp(&whole(b))) else { continue };
        for (price, cost) in prices.iter_mut().zip(&way.steps) {
            *price += cost * bytes / all;
        }
    }
    let room = all / count(STEPS);
    let mut best = (f64::NEG_INFINITY, prices.clone());
    for round in 0..PRICE_ROUNDS {
        let mut wanted = vec![0.0; STEPS];
        let mut bound = prices.iter().sum::<f64>() * room;
        for (ways, bytes) in movers.iter().zip(bytes) {
            let least = ways.iter().map(|way| {
                let (step, cost) = least_step(&way.steps, &prices, *bytes);
                (way.fixed + cost, step)
            });
            let Some((cost, step)) = least.min_by(|a, b| a.0.total_cmp(&b.0)) else { continue };
            wanted[step] += bytes;
            bound += cost;
        }
        if bound > best.0 {
            best = (bound, prices.clone());
        }
        let middle = prices.iter().sum::<f64>() / count(STEPS);
        let stride = PRICE_STRIDE * middle / f64::from(round + 1);
        for (price, wanted) in prices.iter_mut().zip(&wanted) {
            *price += stride * (1.0 - wanted / room).clamp(-1.0, 1.0);
        }
    }
    best.1
}

/// The first change of a price, as a share of it.
const PRICE_STRIDE: f64 = 0.01;
