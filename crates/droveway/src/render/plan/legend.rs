//! What the colours and lines of a plan's picture mean.

use super::{MARGIN, PlanPicture, TO_BASELINE, WIDTH, color};
use crate::render::{
    svg::{Area, Font, Pen, SMALL, Svg, hex, striped, width_of},
    timeline::{GREY, INK, VERMILION},
};
use droveway_fleet::Technique;
use droveway_model::fluid::{Phase, Stage};
use plotters::prelude::RGBColor;

const LINE: f64 = 22.0;

/// What a legend explains: a swatch and its words.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) swatch: Swatch,
    pub(super) words: String,
}

#[derive(Debug, Clone)]
pub(super) enum Swatch {
    /// A colour or pattern.
    Filled(String),
    /// The same, pale.
    Pale(RGBColor),
    Line(Pen),
}

impl Entry {
    pub(super) fn filled(paint: String, words: impl Into<String>) -> Self {
        Entry { swatch: Swatch::Filled(paint), words: words.into() }
    }
}

pub(super) fn of_moves(picture: &PlanPicture<'_>) -> Vec<Entry> {
    let uses = |technique| picture.plan.moves.iter().any(|step| step.technique == technique);
    let used: Vec<_> = Technique::ALL.into_iter().filter(|technique| uses(*technique)).collect();
    let mut entries: Vec<Entry> =
        used.iter().map(|one| Entry::filled(hex(color(*one)), one.name())).collect();
    let exposes = |phase: &Phase| phase.stage == Stage::PostCopy;
    let exposed = picture.trace.moves.iter().zip(&picture.plan.moves);
    let first = exposed.filter(|(moved, _)| moved.phases.iter().any(exposes)).map(|(_, step)| step);
    if let Some(step) = first.into_iter().next() {
        let paint = striped(step.technique.name());
        entries.push(Entry::filled(paint, "striped: exposed, memory on both hosts"));
    }
    entries.push(Entry::filled(hex(GREY), "connecting, ending"));
    entries.push(Entry::filled(hex(INK), "downtime: stopped"));
    entries.push(Entry::filled(hex(VERMILION), "outage: clients hear nothing"));
    let has_deadline =
        picture.intent.deadline.is_some() || picture.deadlines.iter().any(Option::is_some);
    if has_deadline {
        let pen = Pen { dash: Some((4, 3)), ..Pen::solid(INK, 2.0) };
        entries.push(Entry { swatch: Swatch::Line(pen), words: "deadline".to_owned() });
    }
    entries
}

/// Where each entry goes: its line and its x.
fn places(entries: &[Entry]) -> Vec<(u32, f64)> {
    let (mut line, mut x) = (0, MARGIN);
    let mut places = Vec::new();
    for entry in entries {
        let width = 24.0 + width_of(&entry.words, SMALL);
        if x + width > WIDTH - MARGIN && x > MARGIN {
            (line, x) = (line + 1, MARGIN);
        }
        places.push((line, x));
        x += width + 14.0;
    }
    places
}

pub(super) fn height(entries: &[Entry]) -> f64 {
    places(entries).last().map_or(0.0, |(line, _)| f64::from(line + 1) * LINE)
}

/// Draws a legend and says how high it is.
pub(super) fn draw(svg: &mut Svg, top: f64, entries: &[Entry]) -> f64 {
    for (entry, (line, x)) in entries.iter().zip(places(entries)) {
        let middle = top + f64::from(line) * LINE + LINE / 2.0;
        let area = Area { x, y: middle - 6.0, width: 18.0, height: 12.0 };
        match &entry.swatch {
            Swatch::Filled(paint) => svg.fill(area, paint),
            Swatch::Pale(color) => {
                let (right, bottom) = (x + area.width, area.y + area.height);
                let corners = [(x, area.y), (right, area.y), (right, bottom), (x, bottom)];
                svg.shape(&corners, *color, super::ports::LACK_OPACITY);
            }
            Swatch::Line(_) => {}
        }
        if let Swatch::Line(pen) = entry.swatch {
            svg.line(&[(x, middle), (x + 18.0, middle)], pen);
        }
        svg.text(x + 24.0, middle + TO_BASELINE, Font::small(INK), &entry.words);
    }
    height(entries)
}
