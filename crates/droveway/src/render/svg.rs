//! SVG as text: the few shapes that a picture of ours needs where plotters has no pattern to fill them with.
//!
//! Nothing is loaded from elsewhere, and text is escaped here, so that no name can end an element.

use plotters::prelude::RGBColor;
use std::fmt::Write as _;

/// The smallest text that is still read without effort, pixels.
pub(super) const SMALL: f64 = 12.0;

/// No character of a usual sans-serif font is wider on average, as a share of its size: for what must not overlap.
const CHARACTER_WIDTH: f64 = 0.62;

/// What a text takes at most, pixels.
pub(super) fn width_of(text: &str, size: f64) -> f64 {
    count(text.chars().count()) * size * CHARACTER_WIDTH
}

/// A count as a coordinate.
pub(super) fn count(of: usize) -> f64 {
    u32::try_from(of).map_or(f64::from(u32::MAX), f64::from)
}

/// A rectangle, pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Which part of a text is at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) color: RGBColor,
    pub(super) anchor: Anchor,
}

impl Font {
    pub(super) const fn small(color: RGBColor) -> Self {
        Font { size: SMALL, color, anchor: Anchor::Start }
    }

    pub(super) const fn at(self, anchor: Anchor) -> Self {
        Font { anchor, ..self }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen {
    pub(super) color: RGBColor,
    pub(super) width: f64,
    /// Lengths of dash and gap, pixels; none: solid.
    pub(super) dash: Option<(u32, u32)>,
}

impl Pen {
    pub(super) const fn solid(color: RGBColor, width: f64) -> Self {
        Pen { color, width, dash: None }
    }
}

/// A document that is being written.
#[derive(Debug)]
pub(super) struct Svg(String);

impl Svg {
    /// A white page.
    pub(super) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut svg = Svg(String::new());
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" \
             viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" role=\"img\">",
            w = pixels(width),
            h = pixels(height)
        ));
        svg.put(format_args!("<title>{}</title>", escaped(title)));
        svg.fill(Area { x: 0.0, y: 0.0, width, height }, "#ffffff");
        svg
    }

    pub(super) fn finish(mut self) -> String {
        self.put(format_args!("</svg>"));
        self.0
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{text}");
    }

    /// A pattern of slanted stripes, to fill with by [`striped`].
    pub(super) fn stripes(&mut self, name: &str, color: RGBColor) {
        self.put(format_args!(
            "<pattern id=\"{}\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><rect width=\"5\" height=\"5\" fill=\"#ffffff\"/>\
             <rect width=\"2.5\" height=\"5\" fill=\"{}\"/></pattern>",
            escaped(name),
            hex(color)
        ));
    }

    /// Everything until [`Svg::end_group`] shows `tip` where a viewer points at it.
    pub(super) fn begin_group(&mut self, tip: &str) {
        self.put(format_args!("<g><title>{}</title>", escaped(tip)));
    }

    pub(super) fn end_group(&mut self) {
        self.put(format_args!("</g>"));
    }

    /// A rectangle; `paint` is a colour or a pattern.
    pub(super) fn fill(&mut self, area: Area, paint: &str) {
        self.put(format_args!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{paint}\"/>",
            pixels(area.x),
            pixels(area.y),
            pixels(area.width.max(0.0)),
            pixels(area.height.max(0.0)),
        ));
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], pen: Pen) {
        let dash = pen
            .dash
            .map_or_else(String::new, |(dash, gap)| format!(" stroke-dasharray=\"{dash} {gap}\""));
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"{dash}/>",
            joined(points),
            hex(pen.color),
            pixels(pen.width),
        ));
    }

    /// A filled outline; `opacity` from 0 to 1.
    pub(super) fn shape(&mut self, points: &[(f64, f64)], color: RGBColor, opacity: f64) {
        self.put(format_args!(
            "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"{opacity}\"/>",
            joined(points),
            hex(color),
        ));
    }

    /// A text whose letters stand on `y`.
    pub(super) fn text(&mut self, x: f64, y: f64, font: Font, text: &str) {
        let anchor = match font.anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.put(format_args!(
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            pixels(x),
            pixels(y),
            pixels(font.size),
            hex(font.color),
            escaped(text),
        ));
    }
}

/// A colour to fill with.
pub(super) fn hex(color: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", color.0, color.1, color.2)
}

/// A pattern to fill with, see [`Svg::stripes`].
pub(super) fn striped(name: &str) -> String {
    format!("url(#{})", escaped(name))
}

/// A tenth of a pixel is finer than any screen; what is not a number is not drawn far away.
fn pixels(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn joined(points: &[(f64, f64)]) -> String {
    let all: Vec<_> =
        points.iter().map(|(x, y)| format!("{},{}", pixels(*x), pixels(*y))).collect();
    all.join(" ")
}

/// Text that ends no element and no attribute, without what XML has no place for.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_no_element() {
        assert_eq!(escaped("a<b>&\"c'\u{1}"), "a&lt;b&gt;&amp;&quot;c&apos;\u{fffd}");
        let mut svg = Svg::new(10.0, 10.0, "</title>");
        svg.text(0.0, 0.0, Font::small(RGBColor(0, 0, 0)), "<script>");
        let text = svg.finish();
        assert!(!text.contains("<script>") && text.matches("</title>").count() == 1, "{text}");
    }

    #[test]
    fn coordinates_are_short_and_finite() {
        for (value, expected) in [(12.0, "12"), (0.25, "0.2"), (f64::NAN, "0"), (-0.04, "0")] {
            assert_eq!(pixels(value), expected);
        }
    }
}
