//! What the ports of source and target carry over time, by direction: migration, applications on top of it, and what these
//! would have if nothing moved.

use super::{
    super::timeline::{INK, PALE, SKY, VERMILION, YELLOW, shortened},
    LEFT, MARGIN, PlanPicture, WIDTH,
    layout::{Layout, Ticks},
    legend::{Entry, Swatch},
};
use crate::render::svg::{Anchor, Area, Font, Pen, SMALL, Svg, hex, width_of};
use droveway_model::fluid::{Load, PortLoad, PortTrace};

const PANEL_HEIGHT: f64 = 104.0;
const GAP: f64 = 12.0;
/// Space above a port's capacity, as a share of it.
const ABOVE: f64 = 1.1;
/// What is wanted beyond this many times the capacity is cut off.
const WANTED_MAX: f64 = 2.0;
/// What is lacking below this share of the capacity is not seen, and not drawn.
const LACK_MIN: f64 = 0.005;
pub(super) const LACK_OPACITY: f64 = 0.22;
/// Narrower pieces of time are drawn as their mean, pixels.
const NARROW: f64 = 1.0;
const MEGABIT: f64 = 125_000.0;

const LACK: Pen = Pen { color: VERMILION, width: 1.5, dash: Some((5, 3)) };
const CAPACITY: Pen = Pen::solid(INK, 1.0);

pub(super) fn legend() -> Vec<Entry> {
    let line = |pen, words: &str| Entry { swatch: Swatch::Line(pen), words: words.to_owned() };
    vec![
        Entry::filled(hex(SKY), "migration"),
        Entry::filled(hex(YELLOW), "applications, on top of it"),
        line(LACK, "what applications would have if nothing moved"),
        Entry { swatch: Swatch::Pale(VERMILION), words: "what they lack".to_owned() },
        line(CAPACITY, "capacity of the port"),
    ]
}

/// The ports of source and target.
pub(super) struct Pair<'a> {
    ends: [End<'a>; 2],
}

struct End<'a> {
    host: &'a str,
    role: &'static str,
    trace: &'a PortTrace,
    /// Bytes per second, sent and received.
    capacity: [f64; 2],
}

type Pick = fn(&PortLoad) -> Load;
const SIDES: [(&str, Pick); 2] =
    [("transmits (TX)", |load| load.tx), ("receives (RX)", |load| load.rx)];

impl<'a> Pair<'a> {
    /// None if nothing moves.
    pub(super) fn of(picture: &PlanPicture<'a>) -> Option<Self> {
        let first = picture.gang.moves.first()?;
        let end = |index: usize, host, role| {
            let port = picture.gang.ports.get(index)?;
            let trace = picture.trace.ports.get(index)?;
            Some(End { host, role, trace, capacity: [port.tx, port.rx] })
        };
        let source = picture.gang.vms.get(first.vm)?.host;
        let plan = picture.plan;
        Some(Pair {
            ends: [
                end(source, plan.source.as_str(), "source")?,
                end(first.target, plan.target.as_str(), "target")?,
            ],
        })
    }

    pub(super) fn height(&self) -> f64 {
        4.0 * (PANEL_HEIGHT + GAP)
    }

    /// Draws four panels from `top` on; says where they end.
    pub(super) fn draw(&self, svg: &mut Svg, top: f64, layout: &Layout) -> f64 {
        let mut y = top;
        for end in &self.ends {
            // Both directions of a port have one scale.
            let panels: Vec<_> = SIDES
                .iter()
                .zip(end.capacity)
                .map(|((words, pick), capacity)| Panel {
                    words,
                    capacity,
                    steps: steps(end.trace, *pick, layout),
                })
                .collect();
            let scale = panels.iter().map(Panel::top).fold(1.0, f64::max);
            for panel in &panels {
                y += GAP;
                let area = Area { x: LEFT, y, width: layout.right - LEFT, height: PANEL_HEIGHT };
                layout.grid(svg, y, y + PANEL_HEIGHT);
                panel.draw(svg, area, scale);
                let baseline = y + 14.0;
                let name = format!("{} ({})", shortened(end.host), end.role);
                svg.text(MARGIN, baseline, Font { size: 13.0, ..Font::small(INK) }, &name);
                let what = format!("{}, Mbit/s of payload", panel.words);
                svg.text(MARGIN, baseline + 17.0, Font::small(PALE), &what);
                y += PANEL_HEIGHT;
            }
        }
        y
    }
}

/// A piece of time in which a panel's values do not change: both ends in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) load: Load,
}

/// The load over the whole axis, from left to right without gaps; what is too narrow to be seen is drawn together.
pub(super) fn steps(trace: &PortTrace, pick: Pick, layout: &Layout) -> Vec<Step> {
    let end = trace.segments.last().map_or(0.0, |last| last.to_seconds);
    let played = trace.segments.iter();
    let all = [(layout.from, 0.0, trace.before)]
        .into_iter()
        .chain(played.map(|segment| (segment.from_seconds, segment.to_seconds, segment.load)))
        .chain([(end, layout.to.max(end), trace.after)]);
    let narrow = NARROW * layout.seconds_a_pixel();
    let mut steps = Vec::new();
    let mut held: Option<(f64, f64, Load)> = None;
    for (from, to, load) in all.filter(|(from, to, _)| to > from) {
        let load = pick(&load);
        let (since, until, mean) = match held.take() {
            Some((since, until, mean)) => {
                let part = (to - from) / (to - since);
                (since, until.max(to), mixed(mean, load, part))
            }
            None => (from, to, load),
        };
        if until - since < narrow {
            held = Some((since, until, mean));
        } else {
            steps.push(Step { from: layout.x(since), to: layout.x(until), load: mean });
        }
    }
    if let Some((since, until, load)) = held {
        steps.push(Step { from: layout.x(since), to: layout.x(until), load });
    }
    steps
}

/// The mean of two loads, `part` of it the second.
fn mixed(first: Load, second: Load, part: f64) -> Load {
    let mean = |of: fn(&Load) -> f64| of(&first) * (1.0 - part) + of(&second) * part;
    Load {
        migration: mean(|load| load.migration),
        applications: mean(|load| load.applications),
        wanted: mean(|load| load.wanted),
    }
}

/// One direction of one port.
struct Panel {
    words: &'static str,
    capacity: f64,
    steps: Vec<Step>,
}

impl Panel {
    /// What its scale must reach, bytes per second.
    fn top(&self) -> f64 {
        let wanted = self.steps.iter().map(|step| step.load.migration + step.load.wanted);
        let most = wanted.fold(self.capacity, f64::max).min(WANTED_MAX * self.capacity);
        most * ABOVE
    }

    fn draw(&self, svg: &mut Svg, area: Area, scale: f64) {
        let bottom = area.y + area.height;
        let y = |rate: f64| bottom - (rate / scale).clamp(0.0, 1.0) * area.height;
        let (left, right) = (area.x, area.x + area.width);
        let migration = |load: &Load| load.migration;
        let carried = |load: &Load| load.migration + load.applications;
        let wanted = |load: &Load| load.migration + load.wanted;
        if self.steps.iter().any(|step| step.load.migration > 0.0) {
            svg.shape(&between(&self.steps, |_| bottom, |load| y(migration(load))), SKY, 1.0);
        }
        for run in runs(&self.steps, |step| step.load.applications > 0.0) {
            let outline = between(run, |load| y(migration(load)), |load| y(carried(load)));
            svg.shape(&outline, YELLOW, 1.0);
            // Yellow alone is hard to tell from the page.
            svg.line(&outline[outline.len() / 2..], Pen::solid(PALE, 0.75));
        }
        let lacks =
            |step: &Step| step.load.wanted - step.load.applications > LACK_MIN * self.capacity;
        for run in runs(&self.steps, lacks) {
            let outline = between(run, |load| y(carried(load)), |load| y(wanted(load)));
            svg.shape(&outline, VERMILION, LACK_OPACITY);
            svg.line(&outline[outline.len() / 2..], LACK);
        }
        let ticks = Ticks::of(0.0, scale / MEGABIT, 4.0);
        for value in ticks.values() {
            let at = y(value * MEGABIT);
            svg.line(&[(left - 4.0, at), (left, at)], Pen::solid(PALE, 1.0));
            let font = Font::small(PALE).at(Anchor::End);
            svg.text(left - 7.0, at + 4.0, font, &ticks.label(value));
        }
        svg.line(&[(left, area.y), (left, bottom), (right, bottom)], Pen::solid(PALE, 1.0));
        let at = y(self.capacity);
        svg.line(&[(left, at), (right, at)], CAPACITY);
        let words = format!("capacity {:.0} Mbit/s", self.capacity / MEGABIT);
        debug_assert!(right + 6.0 + width_of(&words, SMALL) < WIDTH);
        svg.text(right + 6.0, at + 4.0, Font::small(INK), &words);
    }
}

/// The stretches in which something holds.
fn runs(steps: &[Step], holds: impl Fn(&Step) -> bool) -> impl Iterator<Item = &[Step]> {
    let mut rest = steps;
    std::iter::from_fn(move || {
        let first = rest.iter().position(&holds)?;
        let run = &rest[first..];
        let (run, behind) = run.split_at(run.iter().position(|s| !holds(s)).unwrap_or(run.len()));
        rest = behind;
        Some(run)
    })
}

/// The outline between two levels: along the lower one there and along the upper one back, each as stairs. Each is one half
/// of the points.
fn between(
    steps: &[Step],
    lower: impl Fn(&Load) -> f64,
    upper: impl Fn(&Load) -> f64,
) -> Vec<(f64, f64)> {
    let there = steps.iter().flat_map(|step| {
        let level = lower(&step.load);
        [(step.from, level), (step.to, level)]
    });
    let back = steps.iter().rev().flat_map(|step| {
        let level = upper(&step.load);
        [(step.to, level), (step.from, level)]
    });
    there.chain(back).collect()
}
