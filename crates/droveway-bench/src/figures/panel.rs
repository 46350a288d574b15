//! A panel: two scales, their ticks and labels, and the few shapes that the figures are made of, in pixels of a plotters
//! drawing area. The layout is ours, so that labels neither overlap nor leave the picture.

use super::Failed;
use crate::compare::{Arm, Family};
use plotters::{
    coord::Shift,
    prelude::{
        Circle, DrawingArea, IntoDrawingArea as _, IntoFont as _, PathElement, Polygon, RGBColor,
        Rectangle, SVGBackend, Text,
    },
    style::{
        Color as _, ShapeStyle, TextStyle, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
pub(super) const PALE: RGBColor = RGBColor(110, 110, 110);
pub(super) const GRID: RGBColor = RGBColor(225, 225, 225);
/// Okabe and Ito's palette, told apart with every kind of colour vision; darkest first.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const SKY: RGBColor = RGBColor(86, 180, 233);
pub(super) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(super) const GREY: RGBColor = RGBColor(120, 120, 120);

/// Colours of series, in order. The palette's yellow is too pale for a line on white.
pub(super) const SERIES: [RGBColor; 8] = [BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, INK, GREY];

/// What a text of this size takes at most, pixels: no character of a usual sans-serif font is wider on average.
pub(super) fn width_of(text: &str, size: u32) -> i32 {
    const CHARACTER_WIDTH: f64 = 0.6;
    let count = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    pixel(f64::from(count) * f64::from(size) * CHARACTER_WIDTH)
}

/// A coordinate as a pixel; what is not a number is not drawn far away.
pub(super) fn pixel(value: f64) -> i32 {
    let value = if value.is_finite() { value } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what a picture has")]
    let pixel = value.round().clamp(-30_000.0, 30_000.0) as i32;
    pixel
}

/// A count as a number.
pub(super) fn count(of: usize) -> f64 {
    u32::try_from(of).map_or(f64::from(u32::MAX), f64::from)
}

/// A count as pixels.
pub(super) fn pixels(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

/// A white picture.
pub(super) fn picture(
    width: i32,
    height: i32,
    draw: impl FnOnce(&Area<'_>) -> Result<(), Failed>,
) -> Result<String, Failed> {
    let mut svg = String::new();
    {
        let size = (u32::try_from(width)?, u32::try_from(height)?);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root)?;
        root.present()?;
    }
    Ok(svg)
}

/// Where a text is anchored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Left,
    Middle,
    Right,
}

/// A text whose middle is at this height.
pub(super) fn text(
    area: &Area<'_>,
    at: (i32, i32),
    (size, color): (u32, RGBColor),
    anchor: Anchor,
    text: &str,
) -> Result<(), Failed> {
    let horizontal = match anchor {
        Anchor::Left => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::Right => HPos::Right,
    };
    let style: TextStyle<'_> = (FONT, size).into_font().color(&color);
    let style = style.pos(Pos::new(horizontal, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

/// A straight line through points, pixels.
pub(super) fn line(
    area: &Area<'_>,
    points: Vec<(i32, i32)>,
    style: impl Into<ShapeStyle>,
) -> Result<(), Failed> {
    // One place is no line, which some who read SVG complain about.
    if points.windows(2).all(|two| two[0] == two[1]) {
        return Ok(());
    }
    area.draw(&PathElement::new(points, style))?;
    Ok(())
}

/// A horizontal or vertical line in dashes, pixels.
pub(super) fn dashed(
    area: &Area<'_>,
    [from, to]: [(i32, i32); 2],
    color: RGBColor,
) -> Result<(), Failed> {
    const DASH: i32 = 5;
    let length = (to.0 - from.0).max(to.1 - from.1);
    for index in 0..length / (2 * DASH) {
        let at = |along: i32| {
            if from.1 == to.1 { (from.0 + along, from.1) } else { (from.0, from.1 + along) }
        };
        let start = 2 * DASH * index;
        line(area, vec![at(start), at(start + DASH)], color.stroke_width(1))?;
    }
    Ok(())
}

/// A filled rectangle, pixels.
pub(super) fn bar(
    area: &Area<'_>,
    corners: [(i32, i32); 2],
    color: impl Into<ShapeStyle>,
) -> Result<(), Failed> {
    area.draw(&Rectangle::new(corners, color))?;
    Ok(())
}

/// The mark of a family, so that colour is not all that tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Mark {
    pub(super) const fn of(family: Family) -> Self {
        match family {
            Family::Ours | Family::Ablation => Mark::Circle,
            Family::Plain => Mark::Square,
            Family::Published => Mark::Triangle,
            Family::Product => Mark::Diamond,
        }
    }
}

pub(super) const fn color_of(family: Family) -> RGBColor {
    match family {
        Family::Ours => VERMILION,
        Family::Ablation => ORANGE,
        Family::Plain => BLUE,
        Family::Published => GREEN,
        Family::Product => PURPLE,
    }
}

/// A mark around a place.
pub(super) fn mark(
    area: &Area<'_>,
    (x, y): (i32, i32),
    radius: i32,
    mark: Mark,
    color: RGBColor,
) -> Result<(), Failed> {
    let r = radius;
    match mark {
        Mark::Circle => {
            area.draw(&Circle::new((x, y), r, color.filled()))?;
        }
        Mark::Square => {
            area.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], color.filled()))?;
        }
        Mark::Triangle => {
            let points = vec![(x, y - r - 2), (x + r + 2, y + r), (x - r - 2, y + r)];
            area.draw(&Polygon::new(points, color.filled()))?;
        }
        Mark::Diamond => {
            let d = r + 3;
            let points = vec![(x, y - d), (x + d, y), (x, y + d), (x - d, y)];
            area.draw(&Polygon::new(points, color.filled()))?;
        }
    }
    Ok(())
}

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

/// The least that a scale by decades spans: a factor of two either way.
const SPAN_LEAST: f64 = 4.0;

impl Scale {
    /// From zero to a little over the largest.
    pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Self {
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let high = if most > 0.0 { 1.08 * most } else { 1.0 };
        Scale { low: 0.0, high, log: false }
    }

    pub(super) const fn linear(low: f64, high: f64) -> Self {
        Scale { low, high, log: false }
    }

    /// By decades, around all that is above zero.
    pub(super) fn decades(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high <= 0.0 {
            (low, high) = (1.0, 10.0);
        }
        if high / low < SPAN_LEAST {
            let middle = (low * high).sqrt();
            (low, high) = (middle / SPAN_LEAST.sqrt(), middle * SPAN_LEAST.sqrt());
        }
        Scale { low: low / 1.15, high: high * 1.15, log: true }
    }

    /// The place of a value, from 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        let place = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }

    /// Values at which there is a line and a label.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        if !self.log {
            return steps(self.low, self.high, most);
        }
        for multiples in
            [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]]
        {
            let ticks = self.decades_of(multiples);
            if ticks.len() <= most && ticks.len() >= 2 {
                return ticks;
            }
        }
        let ticks = self.decades_of(&[1.0]);
        if ticks.len() >= 2 { ticks } else { self.decades_of(&[1.0, 2.0, 5.0]) }
    }

    fn decades_of(&self, multiples: &[f64]) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut decade = 10_f64.powf(self.low.log10().floor());
        while decade <= self.high {
            let own = multiples.iter().map(|multiple| multiple * decade);
            ticks.extend(own.filter(|tick| (self.low..=self.high).contains(tick)));
            decade *= 10.0;
        }
        ticks
    }
}

/// Whole steps of 1, 2 or 5 times a power of ten.
fn steps(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / count(most.max(1));
    if rough <= 0.0 || !rough.is_finite() {
        return vec![low];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|multiple| multiple * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil();
    let mut ticks = Vec::new();
    for index in 0..=most {
        let tick = (first + count(index)) * step;
        if tick > high * (1.0 + 1e-9) {
            break;
        }
        ticks.push(tick);
    }
    ticks
}

/// A number as a label: as short as it is true.
pub(super) fn label(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 100.0 || size == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A rectangle of a picture with two scales.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) width: i32,
    pub(super) height: i32,
    pub(super) x: Scale,
    pub(super) y: Scale,
}

/// Text of ticks.
pub(super) const TICK: u32 = 12;
/// A label about every so many pixels.
const TICK_EVERY: i32 = 58;
const TICK_EVERY_UP: i32 = 34;

impl Panel {
    pub(super) fn right(&self) -> i32 {
        self.left + self.width
    }

    pub(super) fn bottom(&self) -> i32 {
        self.top + self.height
    }

    /// The place of a value, along.
    pub(super) fn across(&self, value: f64) -> i32 {
        self.left + pixel(self.x.at(value) * f64::from(self.width))
    }

    /// The place of a value, upwards.
    pub(super) fn up(&self, value: f64) -> i32 {
        self.bottom() - pixel(self.y.at(value) * f64::from(self.height))
    }

    /// The place of a point.
    pub(super) fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        (self.across(x), self.up(y))
    }

    /// Lines and labels of the scale along, beneath.
    pub(super) fn x_axis(&self, area: &Area<'_>, name: &str) -> Result<(), Failed> {
        for tick in self.x.ticks(usize::try_from(self.width / TICK_EVERY).unwrap_or(1).max(2)) {
            let x = self.across(tick);
            line(area, vec![(x, self.top), (x, self.bottom())], GRID.stroke_width(1))?;
            text(area, (x, self.bottom() + 11), (TICK, INK), Anchor::Middle, &label(tick))?;
        }
        let middle = self.left + self.width / 2;
        text(area, (middle, self.bottom() + 28), (TICK, PALE), Anchor::Middle, name)
    }

    /// Lines and labels of the scale upwards, at the left; its name stands over it.
    pub(super) fn y_axis(&self, area: &Area<'_>, name: &str) -> Result<(), Failed> {
        for tick in self.y.ticks(usize::try_from(self.height / TICK_EVERY_UP).unwrap_or(1).max(2)) {
            let y = self.up(tick);
            line(area, vec![(self.left, y), (self.right(), y)], GRID.stroke_width(1))?;
            text(area, (self.left - 6, y), (TICK, INK), Anchor::Right, &label(tick))?;
        }
        let at = (self.left - 40, self.top - 11);
        text(area, at, (TICK, PALE), Anchor::Left, name)
    }

    /// The frame, over the grid.
    pub(super) fn frame(&self, area: &Area<'_>) -> Result<(), Failed> {
        let corners = [(self.left, self.top), (self.right(), self.bottom())];
        bar(area, corners, PALE.stroke_width(1))
    }

    /// What it shows, over it.
    pub(super) fn title(&self, area: &Area<'_>, title: &str) -> Result<(), Failed> {
        text(area, (self.left, self.top - 28), (14, INK), Anchor::Left, title)
    }
}

/// Names with their colours, from left to right in as many lines as needed. Returns the height that they take.
pub(super) fn legend(
    area: &Area<'_>,
    (left, top): (i32, i32),
    width: i32,
    entries: &[(String, RGBColor, Option<Mark>)],
) -> Result<i32, Failed> {
    const LINE: i32 = 20;
    let (mut x, mut y) = (left, top);
    for (name, color, shape) in entries {
        let own = 20 + width_of(name, 13) + 16;
        if x + own > left + width && x > left {
            (x, y) = (left, y + LINE);
        }
        match shape {
            Some(shape) => mark(area, (x + 6, y), 5, *shape, *color)?,
            None => bar(area, [(x, y - 6), (x + 12, y + 6)], color.filled())?,
        }
        text(area, (x + 18, y), (13, INK), Anchor::Left, name)?;
        x += own;
    }
    Ok(y + LINE - top)
}

/// The families that are there, for a legend.
pub(super) fn families(arms: &[Arm]) -> Vec<(String, RGBColor, Option<Mark>)> {
    let mut families: Vec<Family> = arms.iter().map(|arm| arm.family).collect();
    families.sort_unstable();
    families.dedup();
    let entry =
        |family: Family| (family.name().to_owned(), color_of(family), Some(Mark::of(family)));
    families.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high, most) in [(0.0, 7.3, 5), (0.0, 0.013, 6), (3.0, 1234.0, 4), (0.0, 1.0, 2)] {
            let ticks = Scale::linear(low, high).ticks(most);
            assert!((2..=most + 1).contains(&ticks.len()), "{low}..{high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| *tick >= low && *tick <= high * 1.001), "{ticks:?}");
        }
        for values in [[0.004, 3.0], [1.0, 1.01], [20.0, 90.0], [1e-3, 1e6]] {
            let scale = Scale::decades(values.into_iter());
            let ticks = scale.ticks(7);
            assert!((2..=10).contains(&ticks.len()), "{values:?}: {ticks:?}");
            assert!(values.iter().all(|value| (0.001..0.999).contains(&scale.at(*value))));
        }
        assert_eq!(Scale::from_zero([f64::NAN, 2.0].into_iter()).ticks(4), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn labels_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (1.0, "1"),
            (12.5, "12.5"),
            (100.0, "100"),
            (0.005, "0.005"),
        ] {
            assert_eq!(label(value), expected);
        }
    }

    #[test]
    fn places_do_not_leave_the_panel() {
        let scale = Scale::decades([1.0, 100.0].into_iter());
        assert!((scale.at(0.0) - 0.0).abs() < 1e-9 && (scale.at(1e9) - 1.0).abs() < 1e-9);
        assert_eq!(pixel(f64::NAN), 0);
    }
}
