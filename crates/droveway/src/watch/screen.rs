//! The whole screen, from a status alone: ports with their classes, VMs, decisions. Readable without colour: classes have a
//! sign each, and what is wrong is said in words.

use droveway_fleet::status::{PortStatus, RunStatus, Status, VmStatus};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

/// From this width on there is room for what is nice to know.
const WIDE: u16 = 120;
/// Lines that decisions have at least, as far as there is room.
const DECISIONS_MIN: u16 = 5;
/// The signs of a port's bar.
const SIGNS: [(&str, char, Color); 3] = [
    ("urgent", '!', Color::Red),
    ("migration", '#', Color::Cyan),
    ("applications", '+', Color::Green),
];
const FREE: char = '.';

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, status: &Status, color: bool) {
    let paint = Paint { color };
    let area = frame.area();
    let no_ports: &[PortStatus] = &[];
    let ports = status.run.as_ref().map_or(no_ports, |run| &run.ports);
    let ports_height = if ports.is_empty() { 0 } else { height(ports.len() + 1) };
    let wanted = height(status.vms.len() + 1);
    let heading = heading(status, paint, area.width);
    let heading_height = u16::try_from(heading.len()).unwrap_or(u16::MAX);
    let left = area.height.saturating_sub(heading_height + ports_height + 1);
    let decisions_min = if status.run.is_some() { DECISIONS_MIN } else { 0 };
    let vms_height = wanted.min(left.saturating_sub(decisions_min)).max(3.min(left));
    let [head, ports_area, vms_area, decisions_area, foot] = Layout::vertical([
        Constraint::Length(heading_height),
        Constraint::Length(ports_height),
        Constraint::Length(vms_height),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(heading), head);
    if ports_height > 0 {
        let lines = ports_lines(ports, paint, inner(ports_area));
        boxed(
            frame,
            " ports, Mbit/s: ! urgent  # migration  + applications  . free ",
            lines,
            ports_area,
        );
    }
    let lines = vms_lines(&status.vms, paint, inner(vms_area));
    boxed(
        frame,
        " VMs: rates in Mbit/s, memory in MiB, times in s from the start ",
        lines,
        vms_area,
    );
    if let Some(run) = status.run.as_ref().filter(|_| decisions_area.height > 2) {
        let lines = decisions_lines(run, inner(decisions_area));
        boxed(frame, " decisions ", lines, decisions_area);
    }
    let text = "q leaves this view; the run goes on. droveway set | switch | cancel steer it";
    frame.render_widget(Paragraph::new(cut(text, foot.width)), foot);
}

/// How things are painted.
#[derive(Debug, Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn in_color(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    /// What an operator has to see.
    fn alarm(self) -> Style {
        self.in_color(Color::Red).add_modifier(Modifier::BOLD)
    }
}

fn height(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX).saturating_add(2)
}

fn inner(area: Rect) -> Rect {
    Block::bordered().inner(area)
}

fn boxed(frame: &mut Frame<'_>, title: &str, lines: Vec<Line<'_>>, area: Rect) {
    let title = cut(title, area.width.saturating_sub(2));
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
}

/// A text that fits, with a sign where something was cut off.
fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

fn heading(status: &Status, paint: Paint, width: u16) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let Some(run) = &status.run else {
        let first = match &status.active_run {
            Some(run) => format!("fleet {}: {run} is being prepared", status.fleet),
            None => format!("fleet {}: no run is active", status.fleet),
        };
        let second = status.unfinished_run.as_ref().map_or_else(String::new, |run| {
            format!("the controller of {run} was killed: `droveway adopt` takes over")
        });
        return vec![
            Line::styled(cut(&first, width), bold),
            Line::styled(cut(&second, width), paint.alarm()),
        ];
    };
    let generation =
        if run.generation == 0 { String::new() } else { format!(", changed {}x", run.generation) };
    let first = format!(
        "{}: {} {} to {}, {}{generation}, urgency {}",
        run.id, run.verb, run.source, run.target, run.policy, run.urgency
    );
    let mut calm = match run.elapsed_seconds {
        Some(elapsed) => format!("{elapsed:.1} s"),
        None => "preparing".to_owned(),
    };
    if let Some(end) = run.forecast_end_seconds {
        calm.push_str(&format!("  forecast {end:.1} s"));
    }
    if let Some(deadline) = run.deadline_seconds {
        calm.push_str(&format!("  deadline {deadline:.1} s"));
    }
    let late = run.deadline_slack_seconds.is_some_and(|slack| slack < 0.0);
    if let Some(slack) = run.deadline_slack_seconds {
        calm.push_str(&format!("  slack {slack:+.1} s"));
    }
    let mut alarms = Vec::new();
    if late {
        alarms.push("LATE".to_owned());
    }
    if run.cancelled {
        alarms.push("INTERRUPTED".to_owned());
    }
    alarms.extend(run.journal_trouble.clone());
    let mut lines = vec![Line::styled(cut(&first, width), bold), Line::raw(cut(&calm, width))];
    if !alarms.is_empty() {
        lines.push(Line::styled(cut(&alarms.join("  "), width), paint.alarm()));
    }
    lines
}

fn mbit(bits: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let value = bits as f64 / 1e6;
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let value = bytes as f64 / 1_048_576.0;
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// What a port's line takes beside its bar.
const PORT_FIXED: u16 = 56;

fn ports_lines(ports: &[PortStatus], paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let bar = area.width.saturating_sub(PORT_FIXED);
    let head = format!(
        "{:<10} {:<2} {:>6} {:>6} {:width$} {:>6} {:>6} {:>6} {:>6}",
        "host",
        "",
        "now",
        "of",
        "",
        "urgent",
        "migr.",
        "held",
        "apps",
        width = usize::from(bar)
    );
    let mut lines =
        vec![Line::styled(cut(&head, area.width), Style::new().add_modifier(Modifier::BOLD))];
    for port in ports.iter().take(usize::from(area.height.saturating_sub(1))) {
        let of = |name: &str| port.classes.iter().find(|class| class.class == name);
        let rate = |name: &str| of(name).map_or("-".to_owned(), |it| mbit(it.bits_per_second));
        let held = of("migration").and_then(|it| it.promised_bits_per_second);
        let mut spans = vec![Span::raw(format!(
            "{:<10} {:<2} {:>6} {:>6} ",
            cut(&port.host, 10),
            port.direction.to_uppercase(),
            mbit(port.bits_per_second),
            mbit(port.capacity_bits_per_second),
        ))];
        spans.extend(port_bar(port, paint, bar));
        spans.push(Span::raw(format!(
            " {:>6} {:>6} {:>6} {:>6}",
            rate("urgent"),
            rate("migration"),
            held.map_or("-".to_owned(), mbit),
            rate("applications"),
        )));
        lines.push(Line::from(spans));
    }
    lines
}

/// A part of the bar for each class, as long as its share of the port.
fn port_bar(port: &PortStatus, paint: Paint, width: u16) -> Vec<Span<'static>> {
    let mut left = usize::from(width);
    let mut spans = Vec::new();
    for (name, sign, color) in SIGNS {
        let rate = port.classes.iter().find(|class| class.class == name);
        let rate = u128::from(rate.map_or(0, |class| class.bits_per_second));
        let capacity = u128::from(port.capacity_bits_per_second.max(1));
        // Rounded to the nearest sign; more than the port does not fit.
        let signs = (rate * u128::from(width) * 2 + capacity) / (capacity * 2);
        let signs = usize::try_from(signs).unwrap_or(left).min(left);
        left -= signs;
        spans.push(Span::styled(sign.to_string().repeat(signs), paint.in_color(color)));
    }
    spans.push(Span::raw(FREE.to_string().repeat(left)));
    spans
}

/// A column of the VMs' table.
struct Column {
    title: &'static str,
    width: u16,
    wide_only: bool,
    left: bool,
    cell: fn(&VmStatus) -> String,
}

const fn number(title: &'static str, cell: fn(&VmStatus) -> String) -> Column {
    Column { title, width: 7, wide_only: false, left: false, cell }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

fn columns() -> Vec<Column> {
    let text = |title, width, wide_only, cell| Column { title, width, wide_only, left: true, cell };
    vec![
        text("VM", 16, false, |vm| vm.name.clone()),
        text("host", 12, true, |vm| vm.host.clone().unwrap_or_else(|| "-".to_owned())),
        text("technique", 13, true, |vm| vm.technique.clone().unwrap_or_default()),
        text("phase", 16, false, phase),
        Column {
            width: 4,
            ..number("pass", |vm| vm.pass.map_or("-".to_owned(), |it| it.to_string()))
        },
        text("sent", 22, true, |vm| progress(vm, 20)),
        number("rate", |vm| vm.rate_bits_per_second.map_or("-".to_owned(), mbit)),
        number("dirty", |vm| vm.dirty_bits_per_second.map_or("-".to_owned(), mbit)),
        number("left", |vm| vm.remaining_bytes.map_or("-".to_owned(), mib)),
        number("ends", |vm| seconds(vm.forecast_end_seconds)),
        number("slack", |vm| {
            vm.deadline_slack_seconds.map_or("-".to_owned(), |slack| format!("{slack:+.1}"))
        }),
        Column {
            wide_only: true,
            width: 11,
            ..number("downtime ms", |vm| {
                vm.downtime_seconds.map_or("-".to_owned(), |it| format!("{:.0}", it * 1000.0))
            })
        },
        text("", 57, true, |vm| vm.reason.clone().unwrap_or_default()),
    ]
}

/// What a VM is doing, in a word: its phase while it moves, else its state; what is wrong in capitals.
fn phase(vm: &VmStatus) -> String {
    match vm.state.as_str() {
        "lost" => "LOST".to_owned(),
        "needs-recovery" => "NEEDS RECOVERY".to_owned(),
        "two-copies" => "TWO COPIES".to_owned(),
        state => match vm.phase.as_deref() {
            Some("ended") => format!("at {}", vm.host.as_deref().unwrap_or("-")),
            Some(phase) => phase.to_owned(),
            None if state == "running" => format!("at {}", vm.host.as_deref().unwrap_or("-")),
            None => state.to_owned(),
        },
    }
}

fn is_alarming(vm: &VmStatus) -> bool {
    matches!(vm.state.as_str(), "lost" | "needs-recovery" | "two-copies")
        || vm.deadline_slack_seconds.is_some_and(|slack| slack < 0.0)
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

fn vms_lines(vms: &[VmStatus], paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let wide = area.width + 2 >= WIDE;
    let columns: Vec<Column> = columns().into_iter().filter(|it| wide || !it.wide_only).collect();
    let row = |cell: &dyn Fn(&Column) -> String| {
        let mut text = String::new();
        for column in &columns {
            let width = usize::from(column.width);
            let value = cut(&cell(column), column.width);
            if !text.is_empty() {
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
        lines.push(Line::raw(format!("… and {} more", sorted.len() - shown)));
    }
    lines
}

/// The latest that fit, each in as many lines as it needs.
fn decisions_lines(run: &RunStatus, area: Rect) -> Vec<Line<'static>> {
    const INDENT: usize = 10;
    let mut lines: Vec<String> = Vec::new();
    for decision in &run.decisions {
        let vm = decision.vm.as_ref().map_or_else(String::new, |vm| format!("{vm}: "));
        let text = format!("{vm}{}", decision.text);
        let width = usize::from(area.width).saturating_sub(INDENT).max(8);
        for (index, part) in wrapped(&text, width).into_iter().enumerate() {
            lines.push(if index == 0 {
                format!("{:8.1}  {part}", decision.at_seconds)
            } else {
                format!("{:INDENT$}{part}", "")
            });
        }
    }
    let excess = lines.len().saturating_sub(usize::from(area.height));
    lines.drain(..excess);
    lines.into_iter().map(Line::raw).collect()
}

/// Broken at spaces; a word that is longer than a line is broken itself.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        if used > 0 && used + 1 + long > width {
            lines.push(String::new());
            used = 0;
        } else if used > 0
            && let Some(line) = lines.last_mut()
        {
            line.push(' ');
            used += 1;
        }
        for sign in word.chars() {
            if used == width {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                line.push(sign);
            }
            used += 1;
        }
    }
    lines
}
