//! A plan as a picture: a row a VM with what is done with it when, and beneath, on the same axis, what the two ports carry.
//!
//! Drawn is one play of the model with the figures as they were measured. Numbers are the forecast's: the median of several
//! plays, corrected by past errors. The footer says so.

mod layout;
mod legend;
mod ports;
#[cfg(test)]
mod tests;

use super::{
    svg::{Anchor, Area, Font, Pen, SMALL, Svg, count, hex, striped, width_of},
    timeline::{BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, VERMILION, shortened},
};
use droveway_fleet::{Intent, Technique, TimeSpan};
use droveway_model::{
    fluid::{Course, Gang, MoveCourse, MoveEnd, Phase, Stage, Trace},
    forecast::{Forecast, MoveForecast},
};
use droveway_plan::Plan;
use layout::Layout;
use plotters::prelude::RGBColor;

/// What is drawn. Moves, their courses, traces, forecasts and deadlines are in the plan's order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanPicture<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) intent: &'a Intent,
    /// What each VM has of its own.
    pub(crate) deadlines: &'a [Option<TimeSpan>],
    pub(crate) forecast: &'a Forecast,
    /// What the model was given.
    pub(crate) gang: &'a Gang,
    pub(crate) course: &'a Course,
    pub(crate) trace: &'a Trace,
}

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 16.0;
/// Where the time axis begins, beside names and techniques.
const LEFT: f64 = 280.0;
const TECHNIQUE_X: f64 = 176.0;
const TITLE_HEIGHT: f64 = 60.0;
const HEADING_HEIGHT: f64 = 24.0;
const AXIS_HEIGHT: f64 = 28.0;
const FOOTER_HEIGHT: f64 = 26.0;
/// A text's letters stand so far below the middle of their line.
const TO_BASELINE: f64 = 4.0;
/// What lasts shorter than this many pixels is drawn so wide: a downtime must be seen.
const SEEN: f64 = 2.0;

pub(crate) fn plan_picture(picture: &PlanPicture<'_>) -> String {
    let layout = Layout::of(picture);
    let mut svg = Svg::new(WIDTH, layout.height(picture), &title(picture));
    for technique in Technique::ALL {
        svg.stripes(technique.name(), color(technique));
    }
    let large = Font { size: 17.0, ..Font::small(INK) };
    svg.text(MARGIN, 26.0, large, &title(picture));
    svg.text(MARGIN, 47.0, Font { size: 13.0, ..Font::small(PALE) }, &subtitle(picture));
    let mut y = TITLE_HEIGHT;
    y += legend::draw(&mut svg, y, &legend::of_moves(picture));
    y = rows(&mut svg, y, picture, &layout);
    layout.axis(&mut svg, y);
    y += AXIS_HEIGHT;
    if let Some(pair) = ports::Pair::of(picture) {
        y += legend::draw(&mut svg, y, &ports::legend());
        y = pair.draw(&mut svg, y, &layout);
        layout.axis(&mut svg, y);
        y += AXIS_HEIGHT;
    }
    let footer = "Drawn: one play of the model with the figures as measured. Numbers: the forecast, the median of \
                  several plays, corrected by past errors.";
    svg.text(MARGIN, y + 14.0, Font::small(PALE), footer);
    svg.finish()
}

const fn color(technique: Technique) -> RGBColor {
    match technique {
        Technique::PreCopy => BLUE,
        Technique::PostCopy => ORANGE,
        Technique::Hybrid => GREEN,
        Technique::StopAndCopy => PURPLE,
    }
}

fn title(picture: &PlanPicture<'_>) -> String {
    let plan = picture.plan;
    let vms = match plan.moves.len() {
        1 => "1 VM".to_owned(),
        n => format!("{n} VMs"),
    };
    let time = picture.forecast.total_seconds;
    format!(
        "{vms} from {} to {}: forecast {} in all (p10 to p90: {} to {})",
        shortened(plan.source.as_str()),
        shortened(plan.target.as_str()),
        seconds(time.p50),
        seconds(time.p10),
        seconds(time.p90),
    )
}

fn subtitle(picture: &PlanPicture<'_>) -> String {
    let (plan, intent) = (picture.plan, picture.intent);
    let at_once = match plan.concurrency {
        1 => "one at a time".to_owned(),
        n => format!("up to {n} at once"),
    };
    let held = plan.reservations.iter().map(|held| held.rate).max();
    let held = held.map_or_else(String::new, |rate| format!(", {} held", rate.human()));
    let wait = plan
        .start_after
        .map_or_else(String::new, |wait| format!(", after a wait of {}", seconds(plain(wait))));
    let deadline =
        intent.deadline.map_or_else(String::new, |at| format!(", deadline {}", seconds(plain(at))));
    let lost = picture.forecast.lost_bytes;
    format!(
        "policy {}, urgency {}, {at_once}{held}{wait}{deadline}; applications lose {:.0} MB (p10 to p90: {:.0} to {:.0})",
        plan.policy,
        intent.urgency,
        lost.p50 / 1e6,
        lost.p10 / 1e6,
        lost.p90 / 1e6,
    )
}

/// A time for people: three digits are enough.
fn seconds(value: f64) -> String {
    match value {
        v if v < 0.9995 => format!("{:.0} ms", v * 1e3),
        v if v < 9.995 => format!("{v:.2} s"),
        v if v < 99.95 => format!("{v:.1} s"),
        v => format!("{v:.0} s"),
    }
}

fn plain(span: TimeSpan) -> f64 {
    span.duration().as_secs_f64()
}

fn own_deadlines(picture: &PlanPicture<'_>) -> impl Iterator<Item = f64> {
    picture.deadlines.iter().flatten().copied().map(plain)
}

/// The first start, seconds.
fn start(picture: &PlanPicture<'_>) -> f64 {
    let played = picture.trace.moves.iter().filter_map(|own| own.phases.first());
    let ended = picture.course.moves.iter().filter(|own| own.end == MoveEnd::Completed);
    let starts = played.map(|phase| phase.from_seconds);
    let first = starts.chain(ended.map(|own| own.start_seconds)).fold(f64::INFINITY, f64::min);
    if first.is_finite() { first } else { 0.0 }
}

/// One VM.
struct Row<'a> {
    name: &'a str,
    technique: Technique,
    course: &'a MoveCourse,
    phases: &'a [Phase],
    said: &'a MoveForecast,
    deadline: Option<f64>,
}

/// Draws the headings, a row for each VM and one for all of them; says where they end.
fn rows(svg: &mut Svg, top: f64, picture: &PlanPicture<'_>, layout: &Layout) -> f64 {
    headings(svg, top, layout);
    let top = top + HEADING_HEIGHT;
    let moves = picture.plan.moves.iter().zip(&picture.course.moves);
    let all = moves.zip(&picture.trace.moves).zip(&picture.forecast.moves);
    let bottom = top + count(picture.plan.moves.len() + 1) * layout.row_height;
    for index in (1..picture.plan.moves.len()).step_by(2) {
        // Every second row has a ground, or the eye loses it on the way to its numbers.
        let y = top + count(index) * layout.row_height;
        let ground = Area { x: MARGIN, y, width: WIDTH - 2.0 * MARGIN, height: layout.row_height };
        svg.fill(ground, "#f4f4f4");
    }
    layout.grid(svg, top, bottom);
    let mut y = top;
    for (index, (((step, course), trace), said)) in all.enumerate() {
        let row = Row {
            name: step.vm.as_str(),
            technique: step.technique,
            course,
            phases: &trace.phases,
            said,
            deadline: picture.deadlines.get(index).copied().flatten().map(plain),
        };
        row.draw(svg, y, layout);
        y += layout.row_height;
    }
    total(svg, y, picture, layout);
    y += layout.row_height;
    if let Some(deadline) = picture.intent.deadline.map(plain).filter(|at| *at <= layout.to) {
        let x = layout.x(deadline);
        let pen = Pen { dash: Some((4, 3)), ..Pen::solid(INK, 2.0) };
        svg.line(&[(x, top - 4.0), (x, y)], pen);
        let late = picture.course.moves.iter().any(|own| own.end_seconds > deadline);
        let (color, more) = if late { (VERMILION, ", missed") } else { (INK, "") };
        let words = format!("deadline {}{more}", seconds(deadline));
        let half = width_of(&words, SMALL) / 2.0;
        let font = Font::small(color).at(Anchor::Middle);
        svg.text(x.clamp(LEFT + half, layout.right - half), top - 8.0, font, &words);
    }
    y
}

fn headings(svg: &mut Svg, top: f64, layout: &Layout) {
    let font = Font::small(PALE);
    let y = top + 16.0;
    svg.text(MARGIN, y, font, "VM");
    svg.text(TECHNIQUE_X, y, font, "technique");
    if layout.deadlines {
        svg.text(WIDTH - MARGIN - 4.0, y, font.at(Anchor::End), "deadline");
    }
    for (index, name) in (0..).zip(["outage", "downtime", "takes"]) {
        svg.text(layout.column(index), y, font.at(Anchor::End), name);
    }
}

impl Row<'_> {
    fn draw(&self, svg: &mut Svg, top: f64, layout: &Layout) {
        svg.begin_group(&self.tip());
        let baseline = top + layout.row_height / 2.0 + TO_BASELINE;
        svg.text(MARGIN, baseline, Font::small(INK), &shortened(self.name));
        svg.text(TECHNIQUE_X, baseline, Font::small(PALE), self.technique.name());
        let lane = Area {
            x: 0.0,
            y: top + 0.14 * layout.row_height,
            width: 0.0,
            height: 0.5 * layout.row_height,
        };
        self.memory(svg, lane, layout);
        let lane =
            Area { y: top + 0.68 * layout.row_height, height: 0.2 * layout.row_height, ..lane };
        self.guest(svg, lane, layout);
        if let Some(at) = self.deadline.filter(|at| *at <= layout.to) {
            let x = layout.x(at);
            let pen = Pen { dash: Some((4, 3)), ..Pen::solid(INK, 2.0) };
            svg.line(&[(x, top + 1.0), (x, top + layout.row_height - 1.0)], pen);
        }
        self.numbers(svg, baseline, layout);
        svg.end_group();
    }

    /// How its memory moves.
    fn memory(&self, svg: &mut Svg, lane: Area, layout: &Layout) {
        let own = hex(color(self.technique));
        let mut exposed = false;
        for phase in self.phases {
            exposed |= phase.stage == Stage::PostCopy;
            let paint = match phase.stage {
                Stage::PostCopy | Stage::Finish if exposed => striped(self.technique.name()),
                Stage::Setup | Stage::Finish => hex(GREY),
                _ => own.clone(),
            };
            let (x, end) = (layout.x(phase.from_seconds), layout.x(phase.to_seconds));
            // A gap tells a pass from the next, where there is room for one.
            let gap = if phase.stage == Stage::Pass && end - x > 4.0 { 1.0 } else { 0.0 };
            svg.fill(Area { x, width: (end - x - gap).max(0.5), ..lane }, &paint);
        }
        if self.phases.is_empty() && self.course.end == MoveEnd::Completed {
            // It took no time at all.
            let x = layout.x(self.course.start_seconds);
            svg.fill(Area { x, width: SEEN, ..lane }, &own);
        }
    }

    /// When it runs nowhere, and when nobody hears it.
    fn guest(&self, svg: &mut Svg, lane: Area, layout: &Layout) {
        let mut stopped = self.phases.iter().filter(|phase| phase.stage.is_stopped());
        let Some(first) = stopped.next() else { return };
        let resumed = stopped.next_back().unwrap_or(first).to_seconds;
        let answers = first.from_seconds + self.course.outage_seconds;
        let x = layout.x(first.from_seconds);
        let down = (layout.x(resumed) - x).max(SEEN);
        let silent = layout.x(answers) - x;
        if silent > down {
            svg.fill(Area { x, width: silent.max(down + SEEN), ..lane }, &hex(VERMILION));
        }
        svg.fill(Area { x, width: down, ..lane }, &hex(INK));
    }

    fn numbers(&self, svg: &mut Svg, baseline: f64, layout: &Layout) {
        let font = Font::small(INK).at(Anchor::End);
        if let Some(deadline) = self.deadline {
            let late = self.course.end_seconds > deadline;
            let color = if late { VERMILION } else { INK };
            let words =
                if late { format!("late: {}", seconds(deadline)) } else { seconds(deadline) };
            svg.text(WIDTH - MARGIN - 4.0, baseline, Font { color, ..font }, &words);
        }
        let word = match self.course.end {
            MoveEnd::Completed => None,
            MoveEnd::StaysAtSource => Some("stays at the source"),
            MoveEnd::Unfinished if self.phases.is_empty() => Some("never starts"),
            MoveEnd::Unfinished => Some("does not end"),
        };
        if let Some(word) = word {
            let font = Font { color: VERMILION, ..font };
            svg.text(layout.column(0), baseline, font, word);
            return;
        }
        let said = self.said;
        let all = [said.outage_seconds, said.downtime_seconds, said.duration_seconds];
        for (index, range) in (0..).zip(all) {
            svg.text(layout.column(index), baseline, font, &seconds(range.p50));
        }
    }

    fn tip(&self) -> String {
        let course = self.course;
        let said = match course.end {
            MoveEnd::Completed => format!(
                "{} to {}, {} passes, {:.0} MB, downtime {}, outage {}, exposed for {}",
                seconds(course.start_seconds),
                seconds(course.end_seconds),
                course.passes,
                course.bytes / 1e6,
                seconds(course.downtime_seconds),
                seconds(course.outage_seconds),
                seconds(course.exposure_seconds),
            ),
            MoveEnd::StaysAtSource => "does not converge and stays at the source".to_owned(),
            MoveEnd::Unfinished => "does not end".to_owned(),
        };
        format!("{}, {}: {said}", self.name, self.technique)
    }
}

/// All of them: when the last will have arrived.
fn total(svg: &mut Svg, top: f64, picture: &PlanPicture<'_>, layout: &Layout) {
    let middle = top + layout.row_height / 2.0;
    let baseline = middle + TO_BASELINE;
    svg.line(&[(MARGIN, top), (WIDTH - MARGIN, top)], Pen::solid(PALE, 1.0));
    svg.text(MARGIN, baseline, Font::small(INK), "all: end, p10 to p90");
    let time = picture.forecast.total_seconds;
    let first = start(picture);
    let [low, mid, high] = [time.p10, time.p50, time.p90].map(|of| layout.x(first + of));
    let pen = Pen::solid(INK, 1.5);
    svg.line(&[(low, middle), (high, middle)], pen);
    for x in [low, high] {
        svg.line(&[(x, middle - 4.0), (x, middle + 4.0)], pen);
    }
    svg.fill(Area { x: mid - 3.0, y: middle - 3.0, width: 6.0, height: 6.0 }, &hex(INK));
    let longest =
        |of: fn(&MoveForecast) -> f64| picture.forecast.moves.iter().map(of).fold(0.0, f64::max);
    let font = Font::small(INK).at(Anchor::End);
    svg.text(layout.column(2), baseline, font, &seconds(time.p50));
    let worst =
        [longest(|said| said.outage_seconds.p50), longest(|said| said.downtime_seconds.p50)];
    for (index, value) in (0..).zip(worst) {
        svg.text(layout.column(index), baseline, font, &format!("≤ {}", seconds(value)));
    }
}
