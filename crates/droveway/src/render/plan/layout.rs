//! Where things are in a plan's picture: its time axis and its columns.

use super::{
    AXIS_HEIGHT, FOOTER_HEIGHT, HEADING_HEIGHT, LEFT, MARGIN, PlanPicture, TITLE_HEIGHT, WIDTH,
    legend, own_deadlines, plain, ports, start,
};
use crate::render::{
    svg::{Anchor, Font, Pen, Svg, count},
    timeline::{GRID, INK, PALE},
};
use droveway_model::fluid::MoveEnd;

/// A column of numbers.
const COLUMN_WIDTH: f64 = 72.0;
/// That of the deadlines, which may say that one is missed.
const DEADLINE_WIDTH: f64 = 92.0;
/// A deadline or an unlucky forecast that is further away than this many times the end is not worth a picture that is mostly
/// empty: the numbers say it.
const AWAY_MAX: f64 = 1.6;

/// The time axis, and what it decides.
#[derive(Debug)]
pub(super) struct Layout {
    /// Where the axis ends, and the columns of numbers behind it, pixels.
    pub(super) right: f64,
    pub(super) numbers: f64,
    /// Seconds at both ends of the axis.
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) row_height: f64,
    /// Whether any VM has a deadline: a column more.
    pub(super) deadlines: bool,
}

impl Layout {
    pub(super) fn of(picture: &PlanPicture<'_>) -> Self {
        // What is waited for first is no part of the picture: it is empty, and may be long.
        let first = start(picture);
        let ended = picture.course.moves.iter().filter(|own| own.end != MoveEnd::Unfinished);
        let played = picture.trace.moves.iter().filter_map(|own| own.phases.last());
        let end = ended
            .map(|own| own.end_seconds)
            .chain(played.map(|phase| phase.to_seconds))
            .fold(0.0, f64::max)
            // An axis needs some length.
            .max(first + 0.01);
        let deadlines = own_deadlines(picture).chain(picture.intent.deadline.map(plain));
        let p90 = first + picture.forecast.total_seconds.p90;
        let most = first + (end - first) * AWAY_MAX;
        let last = deadlines.chain([p90]).filter(|at| *at <= most).fold(end, f64::max);
        let deadlines = own_deadlines(picture).next().is_some();
        let row_height = match picture.plan.moves.len() {
            0..=16 => 26.0,
            17..=40 => 20.0,
            _ => 16.0,
        };
        let numbers = if deadlines { WIDTH - MARGIN - DEADLINE_WIDTH } else { WIDTH - MARGIN };
        let right = numbers - 3.0 * COLUMN_WIDTH;
        let length = last - first;
        let (from, to) = (first - 0.03 * length, last + 0.04 * length);
        Layout { right, numbers, from, to, row_height, deadlines }
    }

    pub(super) fn height(&self, picture: &PlanPicture<'_>) -> f64 {
        let rows = count(picture.plan.moves.len() + 1) * self.row_height;
        let ports = ports::Pair::of(picture)
            .map_or(0.0, |pair| legend::height(&ports::legend()) + pair.height() + AXIS_HEIGHT);
        let legend = legend::height(&legend::of_moves(picture));
        TITLE_HEIGHT + legend + HEADING_HEIGHT + rows + AXIS_HEIGHT + ports + FOOTER_HEIGHT
    }

    /// Where a second is, pixels.
    pub(super) fn x(&self, at: f64) -> f64 {
        let share = (at - self.from) / (self.to - self.from);
        LEFT + share.clamp(0.0, 1.0) * (self.right - LEFT)
    }

    /// Seconds that a pixel lasts.
    pub(super) fn seconds_a_pixel(&self) -> f64 {
        (self.to - self.from) / (self.right - LEFT)
    }

    /// The right end of a column of numbers, from the right.
    pub(super) fn column(&self, index: u32) -> f64 {
        self.numbers - 4.0 - f64::from(index) * COLUMN_WIDTH
    }

    pub(super) fn ticks(&self) -> Ticks {
        Ticks::of(self.from.max(0.0), self.to, 12.0)
    }

    pub(super) fn grid(&self, svg: &mut Svg, top: f64, bottom: f64) {
        for at in self.ticks().values() {
            svg.line(&[(self.x(at), top), (self.x(at), bottom)], Pen::solid(GRID, 1.0));
        }
    }

    pub(super) fn axis(&self, svg: &mut Svg, top: f64) {
        let font = Font::small(INK).at(Anchor::Middle);
        let ticks = self.ticks();
        for at in ticks.values() {
            svg.text(self.x(at), top + 16.0, font, &format!("{} s", ticks.label(at)));
        }
        svg.text(MARGIN, top + 16.0, Font::small(PALE), "seconds since the run's start");
    }
}

/// Round values along an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ticks {
    first: f64,
    step: f64,
    count: u32,
    decimals: usize,
}

impl Ticks {
    /// At most `most` steps of 1, 2 or 5 times a power of ten.
    pub(super) fn of(from: f64, to: f64, most: f64) -> Self {
        let rough = ((to - from) / most).max(1e-9);
        let power = rough.log10().floor();
        let unit = 10_f64.powf(power);
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * unit >= rough * 0.999_999);
        let step = factor.unwrap_or(10.0) * unit;
        let first = (from / step).ceil() * step;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below `most`")]
        let count = ((to - first) / step).floor().max(0.0) as u32 + 1;
        let digits = if step < 0.999 { (-step.log10() - 1e-9).ceil().max(1.0) } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "up to 9")]
        let decimals = digits as usize;
        Ticks { first, step, count, decimals }
    }

    pub(super) fn values(self) -> impl Iterator<Item = f64> {
        (0..self.count).map(move |n| self.first + f64::from(n) * self.step)
    }

    pub(super) fn label(self, value: f64) -> String {
        format!("{value:.*}", self.decimals)
    }
}
