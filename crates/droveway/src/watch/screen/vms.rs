//! The table of VMs: as many columns as fit, as many rows as fit, those first that an operator has to see.

use super::{FREE, Paint, cut, cut_name, mbit, mib};
use droveway_fleet::status::VmStatus;
use ratatui::{
    layout::Rect,
    style::{Color, Modifier, Style},
    text::Line,
};

/// A column of the table.
struct Column {
    title: &'static str,
    width: u16,
    left: bool,
    cell: fn(&VmStatus) -> String,
}

const fn number(title: &'static str, cell: fn(&VmStatus) -> String) -> Column {
    Column { title, width: 7, left: false, cell }
}

const fn text(title: &'static str, width: u16, cell: fn(&VmStatus) -> String) -> Column {
    Column { title, width, left: true, cell }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

/// A name has so much at least, and more where there is room.
const NAME: u16 = 16;
const NAME_MAX: u16 = 32;
/// A reason that has less room than this says nothing.
const REASON_MIN: u16 = 20;

/// Those that fit: 78 places are enough for what has to be known; what is nice to know gets room in the order of its use.
fn columns(vms: &[VmStatus], width: u16) -> Vec<Column> {
    let mut columns = vec![
        text("VM", NAME, |vm| vm.name.clone()),
        text("phase", 16, phase),
        Column {
            width: 4,
            ..number("pass", |vm| vm.pass.map_or("-".to_owned(), |it| it.to_string()))
        },
        number("rate", |vm| vm.rate_bits_per_second.map_or("-".to_owned(), mbit)),
        number("dirty", |vm| vm.dirty_bits_per_second.map_or("-".to_owned(), mbit)),
        number("left", |vm| vm.remaining_bytes.map_or("-".to_owned(), mib)),
        number("ends", |vm| seconds(vm.forecast_end_seconds)),
        number("slack", |vm| {
            vm.deadline_slack_seconds.map_or("-".to_owned(), |slack| format!("{slack:+.1}"))
        }),
    ];
    let used: u16 = columns.iter().map(|column| column.width + 1).sum();
    // The last one has no space behind it.
    let mut free = (width + 1).saturating_sub(used);
    // With the place that each has at last.
    let downtime = Column {
        width: 11,
        ..number("downtime ms", |vm| {
            vm.downtime_seconds.map_or("-".to_owned(), |it| format!("{:.0}", it * 1000.0))
        })
    };
    let technique = text("technique", 13, |vm| vm.technique.clone().unwrap_or_default());
    let host = text("host", 12, |vm| vm.host.clone().unwrap_or_else(|| "-".to_owned()));
    let sent = text("sent", 22, |vm| progress(vm, 20));
    for (place, column) in [(usize::MAX, downtime), (1, technique), (1, host), (usize::MAX, sent)] {
        if let Some(left) = free.checked_sub(column.width + 1) {
            free = left;
            columns.insert(place.min(columns.len()), column);
        }
    }
    let longest = vms.iter().map(|vm| vm.name.chars().count()).max().unwrap_or(0);
    let longest = u16::try_from(longest).unwrap_or(NAME_MAX).clamp(NAME, NAME_MAX);
    let wider = (longest - NAME).min(free);
    columns[0].width += wider;
    free -= wider;
    if free > REASON_MIN {
        columns.push(text("", free - 1, |vm| vm.reason.clone().unwrap_or_default()));
    }
    columns
}

/// What a VM is doing, in a word: its phase while it moves, else its state; what is wrong in capitals.
fn phase(vm: &VmStatus) -> String {
    match vm.state.as_str() {
        "lost" => "LOST".to_owned(),
        "needs-recovery" => "NEEDS RECOVERY".to_owned(),
        "two-copies" => "TWO COPIES".to_owned(),
        _ if is_cut_off(vm) => vm.state.replace("copy-paused", "copy paused").to_uppercase(),
        state => match vm.phase.as_deref() {
            Some("ended") => format!("at {}", vm.host.as_deref().unwrap_or("-")),
            Some(phase) => phase.to_owned(),
            None if state == "running" => format!("at {}", vm.host.as_deref().unwrap_or("-")),
            None => state.to_owned(),
        },
    }
}

/// Whether the path of its post-copy is broken: its guest waits.
pub(super) fn is_cut_off(vm: &VmStatus) -> bool {
    matches!(vm.state.as_str(), "post-copy-paused" | "recovering")
}

/// Whether it misses its own deadline, as it looks.
pub(super) fn is_late(vm: &VmStatus) -> bool {
    vm.deadline_slack_seconds.is_some_and(|slack| slack < 0.0)
}

fn is_alarming(vm: &VmStatus) -> bool {
    matches!(vm.state.as_str(), "lost" | "needs-recovery" | "two-copies")
        || is_cut_off(vm)
        || is_late(vm)
}

fn progress(vm: &VmStatus, width: usize) -> String {
    let (Some(total), Some(left)) = (vm.total_bytes, vm.remaining_bytes) else {
        return String::new();
    };
    let sent = u128::from(total.saturating_sub(left)) * width as u128 / u128::from(total.max(1));
    let sent = usize::try_from(sent).unwrap_or(width).min(width);
    format!("[{}{}]", "#".repeat(sent), FREE.to_string().repeat(width - sent))
}

/// Those that move first, then those that wait, then the rest; each as they were.
fn rank(vm: &VmStatus) -> u8 {
    match vm.phase.as_deref() {
        _ if is_alarming(vm) => 0,
        Some("pending" | "preparing" | "ready") => 2,
        Some("ended") | None => 3,
        Some(_) => 1,
    }
}

/// A row each, as far as they fit; of the others is said what they do.
pub(super) fn lines(vms: &[VmStatus], paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let columns = columns(vms, area.width);
    let row = |cell: &dyn Fn(&Column) -> String| {
        let mut text = String::new();
        for (index, column) in columns.iter().enumerate() {
            let width = usize::from(column.width);
            let value = cell(column);
            let value =
                if index == 0 { cut_name(&value, column.width) } else { cut(&value, column.width) };
            if index > 0 {
                text.push(' ');
            }
            text.push_str(&if column.left {
                format!("{value:<width$}")
            } else {
                format!("{value:>width$}")
            });
        }
        cut(text.trim_end(), area.width)
    };
    let head = row(&|column| column.title.to_owned());
    let mut lines = vec![Line::styled(head, Style::new().add_modifier(Modifier::BOLD))];
    let mut sorted: Vec<&VmStatus> = vms.iter().collect();
    sorted.sort_by_key(|vm| rank(vm));
    let room = usize::from(area.height.saturating_sub(1));
    let shown = if sorted.len() > room { room.saturating_sub(1) } else { sorted.len() };
    for vm in &sorted[..shown] {
        let style = match rank(vm) {
            0 => paint.alarm(),
            1 => paint.in_color(Color::Cyan),
            _ => Style::new(),
        };
        lines.push(Line::styled(row(&|column| (column.cell)(vm)), style));
    }
    if shown < sorted.len() {
        lines.push(Line::raw(cut(&rest(&sorted[shown..]), area.width)));
    }
    lines
}

/// How many there are no rows for, and what they do.
fn rest(vms: &[&VmStatus]) -> String {
    let mut phases: Vec<(String, usize)> = Vec::new();
    for vm in vms {
        let phase = phase(vm);
        match phases.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, count)) => *count += 1,
            None => phases.push((phase, 1)),
        }
    }
    let phases: Vec<String> =
        phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    format!("… and {} more: {}", vms.len(), phases.join(", "))
}
