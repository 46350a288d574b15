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
//! are between two moves (bounded by how long that takes in all) and among the last few VMs (bounded by how many slots
//! can be empty how long).

use super::{
    moves::{Beside, Moved},
    ports::{Demand, Mixed, Ports, ceiling},
};
use crate::search::Task;
use droveway_fleet::Technique;

/// Steps of progress.
const STEPS: usize = 24;
/// Rates that are looked at, each with what is up to the next one.
const RATES: u32 = 24;
/// Rounds that improve the prices of steps.
const PRICE_ROUNDS: u32 = 24;
/// How much of the gang may be post-copied, as a share of its bytes: each range is bounded by itself.
const SPLIT_SHARES: [f64; 3] = [0.0, 0.25, 1.0];
/// Empty slots among the last VMs spare the others at most a quarter of what so many of the largest would have taken of their
/// slots; a third, since not all sizes are known to the byte.
const LAST_SHARE: f64 = 1.0 / 3.0;

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
    /// Of so many VMs the rest may go faster than they stopped for.
    last: usize,
    /// Bytes of VMs that may have gone as if alone.
    last_bytes: f64,
}

/// What one VM adds, one way.
#[derive(Clone, Copy)]
struct Cost {
    /// Where the window is full.
    full: f64,
    /// What the last few may spare of their silence, and of their bytes.
    spared_silence: f64,
    spared_bytes: f64,
    /// Silence alone.
    silent: f64,
    bytes: f64,
    split: bool,
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

    /// The rates of streams of that weight.
    fn cells(&self, streams: f64) -> Vec<Cell> {
        let (least, most) = (self.ports.least_rate, self.ports.most_rate());
        let ratio = (most / least).powf(1.0 / f64::from(RATES));
        let mut points: Vec<f64> =
            (0..RATES).map(|i| least * ratio.powi(i.cast_signed())).chain([most]).collect();
        let held = self.ports.held.into_iter().filter(|held| *held > least && *held < most);
        points.extend(held);
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
    fn prices(&self, cells: &[Cell], window: usize, missing: f64) -> Vec<Vec<Option<Price>>> {
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
            cells.iter().map(price).collect()
        };
        (0..STEPS).map(step).collect()
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
        let levels =
            shares.into_iter().map(|(least, most)| Level::of(scene, &cells, from, to, least, most));
        Windows { from, to, levels: levels.collect() }
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

impl Level {
    fn of(
        scene: &Scene<'_>,
        cells: &[Cell],
        from: usize,
        to: usize,
        split_least: f64,
        split_most: f64,
    ) -> Self {
        let Scene { task, ports, .. } = scene;
        let objective = task.objective();
        let constants = &task.gang.constants;
        let all = ports.bytes();
        let several = to > 1;
        // What a VM has of the streams' rate: its part of a full window, and what others with a ceiling leave.
        let part = |bytes: f64| {
            let beside = scene.beside(bytes, from);
            move |rate: f64| {
                (rate - (beside - 1.0) * scene.ceiling.min(rate / beside)).clamp(0.0, rate)
            }
        };
        let missing = |at: usize, side: usize| {
            let index = ports.movers[at];
            let own = part(ports.loads[at].bytes);
            let ways = task.movers[index].ways.iter();
            ways.map(|way| {
                let moved = Moved::of(task, index, *way, ports.most_rate(), [0.0; 2]);
                moved.missing(ports.most_rate(), own(ports.least_rate))[side]
            })
            .fold(0.0, f64::max)
        };
        let largest = |side: usize| {
            let mut of: Vec<f64> = (0..ports.movers.len()).map(|at| missing(at, side)).collect();
            of.sort_by(|a, b| b.total_cmp(a));
            of.iter().take(to).sum::<f64>()
        };
        let prices = scene.prices(cells, to, largest(1) + largest(0).min(split_most * all));
        let top = prices.iter().flatten().flatten().map(|price| price.high);
        let top = top.fold(ports.least_rate, f64::max);
        let freed_most = ports.loads.iter().map(|load| ports.asks(load)).fold(0.0, f64::max);
        let mut of_full: Vec<Vec<Bytes>> = Vec::new();
        let mut of_last: Vec<Vec<(f64, Option<Vec<f64>>)>> = Vec::new();
        let (mut spared, mut dirties) = (0.0_f64, 0.0_f64);
        for (index, load) in ports.movers.iter().zip(&ports.loads) {
            let [sends, receives] = load.usual();
            let own = part(load.bytes);
            let freed = ports.asks(load) + if several { freed_most } else { 0.0 };
            let (mut full, mut last) = (Vec::new(), Vec::new());
            for way in &task.movers[*index].ways {
                let moved = Moved::of(task, *index, *way, ports.most_rate(), [sends, receives]);
                let fixed = |is_last: bool| {
                    let rates = cells.iter().map(|cell| cell.low).filter(|rate| *rate <= top);
                    let cost = |rate: f64| {
                        let own = if is_last { rate } else { own(rate) };
                        let beside = Beside { rate, own, window: count(to), freed };
                        moved.fixed(beside, is_last)
                    };
                    rates.chain([top]).map(cost).fold(f64::INFINITY, f64::min)
                };
                // One after the other, nothing is sent between two moves.
                let between =
                    if several { 0.0 } else { objective.total_seconds * moved.unsent_seconds() };
                full.push(Bytes {
                    fixed: fixed(false) + between,
                    steps: steps(&prices, cells, &moved, &own, count(to)),
                });
                last.push(if several {
                    (fixed(true), Some(steps(&prices, cells, &moved, &|rate| rate, count(to))))
                } else {
                    (fixed(false) + between, None)
                });
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
                ways.map(|((full, (fixed, steps)), way)| {
                    let at = least_step(&full.steps, &price, *bytes).1;
                    // A silent VM is nobody's competitor: what it leaves the streams is theirs.
                    let moved = Moved::of(task, *index, *way, ports.most_rate(), [0.0; 2]);
                    let given = moved.silent_most() * ports.asks(load) * dearest;
                    let between = if several {
                        0.0
                    } else {
                        objective.total_seconds * moved.unsent_seconds()
                    };
                    let alone =
                        steps.as_ref().map_or(at, |steps| least_step(steps, &price, *bytes).1);
                    Cost {
                        full: full.fixed + at - given,
                        spared_silence: (full.fixed - fixed).max(0.0),
                        spared_bytes: (at - alone).max(0.0),
                        // The time alone has what is spent between two moves.
                        silent: full.fixed.min(*fixed) - between,
                        bytes: *bytes,
                        split: way.technique == Technique::PostCopy,
                    }
                })
                .collect()
            })
            .collect();
        // All at once, all begin together: nobody comes later to have the ports alone.
        let later = scene.largest(ports.movers.len() - from.min(ports.movers.len()));
        let largest = scene.largest(1);
        Level {
            split_least: split_least * all,
            split_most: split_most * all,
            base,
            costs,
            last: if several { to } else { 0 },
            last_bytes: (LAST_SHARE * count(to) * largest).min(later),
        }
    }

    fn all(&self, seconds: f64) -> f64 {
        // Each VM by the way that adds least; so much of the gang post-copied, where that adds least.
        let mut chosen = 0.0;
        let (mut dearer, mut dearer_last) = (Vec::new(), Vec::new());
        let mut spared = (Vec::new(), Vec::new());
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
            let among_last = |cost: &Cost| cost.full - cost.spared_silence - cost.spared_bytes;
            let split = least(&|cost| cost.split.then_some(cost.full));
            if split.is_finite() {
                let split_last = least(&|cost| cost.split.then(|| among_last(cost)));
                dearer.push(((split - best).max(0.0), bytes));
                dearer_last.push(((split_last - best).max(0.0), bytes));
            }
            // Among the last it may be another way that adds least.
            let quiet = least(&|cost| allowed(cost).then_some(cost.full - cost.spared_silence));
            let last = least(&|cost| allowed(cost).then(|| among_last(cost)));
            spared.0.push((best - quiet, 1.0));
            spared.1.push((quiet - last, bytes));
            silent += least(&|cost| allowed(cost).then_some(cost.silent));
        }
        let last = self.split_least.min(self.last_bytes);
        let more = cheapest(dearer_last, last)
            .and_then(|more| Some(more + cheapest(dearer, self.split_least - last)?));
        let Some(more) = more else { return f64::INFINITY };
        let whole = self.base + chosen + more - self.spared(spared);
        whole.max(seconds + silent)
    }

    fn of_ways(&self, movers: &[usize], ways: &[usize], seconds: f64) -> f64 {
        let mut spared = (Vec::new(), Vec::new());
        let (mut whole, mut silent, mut split) = (self.base, 0.0, 0.0);
        for (of, mover) in self.costs.iter().zip(movers) {
            let cost = of[ways[*mover]];
            whole += cost.full;
            silent += cost.silent;
            split += if cost.split { cost.bytes } else { 0.0 };
            spared.0.push((cost.spared_silence, 1.0));
            spared.1.push((cost.spared_bytes, cost.bytes));
        }
        if split < self.split_least || split > self.split_most * (1.0 + 1e-9) {
            return f64::INFINITY;
        }
        (whole - self.spared(spared)).max(seconds + silent)
    }

    /// What the last few are spared at most.
    fn spared(&self, (silence, bytes): (Things, Things)) -> f64 {
        dearest(silence, count(self.last)) + dearest(bytes, self.last_bytes)
    }
}

/// Things with what they are worth or cost, and their sizes.
type Things = Vec<(f64, f64)>;

/// The most that things of these sizes are worth together, in so much room; the last one in part.
fn dearest(mut things: Things, mut room: f64) -> f64 {
    things.sort_by(|a, b| (b.0 * a.1).total_cmp(&(a.0 * b.1)));
    let mut worth = 0.0;
    for (value, size) in things {
        if room <= 0.0 {
            break;
        }
        worth += value * (room / size.max(f64::MIN_POSITIVE)).min(1.0);
        room -= size;
    }
    worth
}

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
    prices: &[Vec<Option<Price>>],
    cells: &[Cell],
    moved: &Moved<'_>,
    own: &dyn Fn(f64) -> f64,
    window: f64,
) -> Vec<f64> {
    let efficiency = moved.efficiency();
    let behind = if moved.is_split() { moved.behind() } else { f64::INFINITY };
    let split = if moved.is_split() { moved.split_second() } else { 0.0 };
    let scan = moved.scan();
    // By cell at its end; a cell that ends earlier sends no less again.
    let again: Vec<f64> = cells.iter().map(|cell| moved.again(own(cell.high))).collect();
    let step = |prices: &Vec<Option<Price>>| {
        let mut least = f64::INFINITY;
        for ((price, cell), again) in prices.iter().zip(cells).zip(&again) {
            let Some(price) = price else { continue };
            // Alone, it is as slow as its ceiling.
            if window < 2.0 && cell.low > behind {
                continue;
            }
            let part = (1.0 / window).min(behind / price.high);
            let exposed = own(price.high).min(behind) * efficiency;
            let cost = price.byte / efficiency * (1.0 + again)
                + price.second * scan * part
                + split * (1.0 / exposed.max(1.0) + scan);
            least = least.min(cost);
        }
        least
    };
    prices.iter().map(step).collect()
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
