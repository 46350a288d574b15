//! The whole screen, from a status alone: ports with their classes, VMs, decisions. Readable without colour: classes have a
//! sign each, and what is wrong is said in words.

mod vms;

use droveway_fleet::status::{PortStatus, RunStatus, Status, VmStatus};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Paragraph},
};

/// Lines that decisions have at least, as far as there is room.
const DECISIONS_MIN: u16 = 5;
/// The signs of a port's bar.
const SIGNS: [(&str, char, Color); 3] = [
    ("urgent", '!', Color::Red),
    ("migration", '#', Color::Cyan),
    ("applications", '+', Color::Green),
];
const FREE: char = '.';

/// Draws it. `over`: the run that was watched until it ended.
pub(super) fn draw(frame: &mut Frame<'_>, status: &Status, over: Option<&str>, color: bool) {
    let paint = Paint { color };
    let area = frame.area();
    let no_ports: &[PortStatus] = &[];
    let ports = status.run.as_ref().map_or(no_ports, |run| &run.ports);
    let ports_height = if ports.is_empty() { 0 } else { height(ports.len() + 1) };
    let wanted = height(status.vms.len() + 1);
    let heading = heading(status, over, paint, area);
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
    let lines = vms::lines(&status.vms, paint, inner(vms_area));
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
    frame.render_widget(Paragraph::new(cut(footer(status), foot.width)), foot);
}

/// What can be done.
fn footer(status: &Status) -> &'static str {
    if status.run.is_none() {
        "q leaves this view"
    } else if status.vms.iter().any(vms::is_cut_off) {
        "q leaves this view; the run goes on. droveway recover VM tries its path at once"
    } else {
        "q leaves this view; the run goes on. droveway set | switch | cancel steer it"
    }
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

/// A name that fits: what tells names apart is often their end, so the middle is left out.
fn cut_name(name: &str, width: u16) -> String {
    let (width, length) = (usize::from(width), name.chars().count());
    if length <= width || width < 3 {
        return cut(name, u16::try_from(width).unwrap_or(u16::MAX));
    }
    let tail = (width - 1) / 2;
    let head = width - 1 - tail;
    let mut short: String = name.chars().take(head).collect();
    short.push('…');
    short.extend(name.chars().skip(length - tail));
    short
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

/// What happens, how far it is, and what an operator has to see: some lines each.
fn heading(status: &Status, over: Option<&str>, paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let (what, how_far) = match &status.run {
        Some(run) => (run_line(run), Some(progress_line(run))),
        None => (fleet_line(status, over), None),
    };
    let alarms = alarms(status).join("; ");
    // Where there is little room a long list has less of it.
    let alarms_max = if area.height < 30 { 3 } else { 5 };
    let mut lines = Vec::new();
    for (text, style, most) in [
        (what, bold, 2),
        (how_far.unwrap_or_default(), Style::new(), 2),
        (alarms, paint.alarm(), alarms_max),
    ] {
        let parts = shortened(wrapped(&text, usize::from(area.width).max(1)), most, area.width);
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        lines.extend(parts.map(|part| Line::styled(part, style)));
    }
    lines
}

fn fleet_line(status: &Status, over: Option<&str>) -> String {
    let fleet = &status.fleet;
    match (&status.active_run, over) {
        (Some(run), _) => format!("fleet {fleet}: {run} is being prepared"),
        (None, Some(run)) => {
            format!("fleet {fleet}: {run} is over: `droveway report last` tells of it")
        }
        (None, None) => format!("fleet {fleet}: no run is active"),
    }
}

fn run_line(run: &RunStatus) -> String {
    let generation =
        if run.generation == 0 { String::new() } else { format!(", changed {}x", run.generation) };
    format!(
        "{}: {} {} to {}, {}{generation}, urgency {}",
        run.id, run.verb, run.source, run.target, run.policy, run.urgency
    )
}

fn progress_line(run: &RunStatus) -> String {
    let mut text = match run.elapsed_seconds {
        Some(elapsed) => format!("{elapsed:.1} s"),
        None => "preparing".to_owned(),
    };
    if let Some(end) = run.forecast_end_seconds {
        text.push_str(&format!(", forecast {end:.1} s"));
    }
    if let Some(deadline) = run.deadline_seconds {
        text.push_str(&format!(", deadline {deadline:.1} s"));
    }
    if let Some(slack) = run.deadline_slack_seconds {
        text.push_str(&format!(", slack {slack:+.1} s"));
    }
    text
}

/// What is wrong, in words, the worst first. It names VMs, since their rows may not fit.
fn alarms(status: &Status) -> Vec<String> {
    let names = |wanted: &dyn Fn(&VmStatus) -> bool| -> Vec<&str> {
        status.vms.iter().filter(|vm| wanted(vm)).map(|vm| vm.name.as_str()).collect()
    };
    let in_state = |state: &'static str| move |vm: &VmStatus| vm.state == state;
    let mut alarms = Vec::new();
    for (state, words) in [("lost", "LOST"), ("two-copies", "TWO COPIES")] {
        let found = names(&in_state(state));
        if !found.is_empty() {
            alarms.push(format!("{words}: {}", some_of(&found)));
        }
    }
    let waiting = names(&in_state("needs-recovery"));
    if let Some(first) = waiting.first() {
        alarms.push(format!(
            "NEEDS RECOVERY: {}: end no QEMU, restore the path, then `droveway recover {first}`",
            some_of(&waiting)
        ));
    }
    let broken = names(&vms::is_cut_off);
    if !broken.is_empty() {
        alarms.push(format!("PATH BROKEN: {}", some_of(&broken)));
    }
    if let Some(run) = &status.unfinished_run {
        alarms.push(format!("the controller of {run} was killed: `droveway adopt` takes over"));
    }
    if let Some(run) = &status.run {
        if run.cancelled {
            alarms.push("INTERRUPTED".to_owned());
        }
        if run.deadline_slack_seconds.is_some_and(|slack| slack < 0.0) {
            alarms.push("the run is LATE".to_owned());
        }
    }
    let late = names(&vms::is_late);
    if !late.is_empty() {
        alarms.push(format!("VMs that are LATE: {}", some_of(&late)));
    }
    alarms.extend(status.run.as_ref().and_then(|run| run.journal_trouble.clone()));
    alarms
}

/// Names, and how many more there are.
fn some_of(names: &[&str]) -> String {
    const NAMED_MAX: usize = 3;
    let named = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// At most so many lines, with a sign where something was left out.
fn shortened(mut lines: Vec<String>, most: usize, width: u16) -> Vec<String> {
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            *last = cut(&format!("{last}…"), width);
        }
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

/// What a port's line takes beside its bar and its host's name.
const PORT_FIXED: u16 = 46;
/// A host's name has so much at least, and more where there is room.
const HOST: u16 = 10;
const HOST_MAX: u16 = 24;

fn ports_lines(ports: &[PortStatus], paint: Paint, area: Rect) -> Vec<Line<'static>> {
    let longest = ports.iter().map(|port| port.host.chars().count()).max().unwrap_or(0);
    let longest = u16::try_from(longest).unwrap_or(HOST_MAX);
    // A third of what is more than a small screen.
    let host = longest.clamp(HOST, (HOST + area.width.saturating_sub(78) / 3).min(HOST_MAX));
    let bar = area.width.saturating_sub(PORT_FIXED + host);
    let row = |cells: [&str; 8]| {
        let [name, direction, now, of, urgent, migration, held, applications] = cells;
        format!(
            "{:<width$} {direction:<2} {now:>6} {of:>6} {urgent:>6} {migration:>6} {held:>6} {applications:>6} ",
            cut_name(name, host),
            width = usize::from(host),
        )
    };
    let head = row(["host", "", "now", "of", "urgent", "migr.", "held", "apps"]);
    let mut lines =
        vec![Line::styled(cut(&head, area.width), Style::new().add_modifier(Modifier::BOLD))];
    for port in ports.iter().take(usize::from(area.height.saturating_sub(1))) {
        let class = |name: &str| port.classes.iter().find(|class| class.class == name);
        let rate = |name: &str| class(name).map_or("-".to_owned(), |it| mbit(it.bits_per_second));
        let held = class("migration").and_then(|it| it.promised_bits_per_second);
        let capacity = Some(port.capacity_bits_per_second).filter(|it| *it > 0);
        let or_none = |bits: Option<u64>| bits.map_or("-".to_owned(), mbit);
        let mut spans = vec![Span::raw(row([
            &port.host,
            &port.direction.to_uppercase(),
            &mbit(port.bits_per_second),
            &or_none(capacity),
            &rate("urgent"),
            &rate("migration"),
            &or_none(held),
            &rate("applications"),
        ]))];
        // Of a port whose rate nobody knows there is no share.
        spans.extend(capacity.map(|_| port_bar(port, paint, bar)).unwrap_or_default());
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

/// The latest that fit, each from its beginning; what does not fit of the last one that has room is left out with a sign.
fn decisions_lines(run: &RunStatus, area: Rect) -> Vec<Line<'static>> {
    const INDENT: u16 = 10;
    let width = area.width.saturating_sub(INDENT).max(8);
    let mut room = usize::from(area.height);
    if run.decisions.is_empty() {
        return vec![Line::raw("none yet")];
    }
    let mut blocks: Vec<Vec<String>> = Vec::new();
    for decision in run.decisions.iter().rev() {
        if room == 0 {
            break;
        }
        let vm = decision.vm.as_ref().map_or_else(String::new, |vm| format!("{vm}: "));
        let text = format!("{vm}{}", decision.text);
        let parts = shortened(wrapped(&text, usize::from(width)), room, width);
        room -= parts.len();
        let lines = parts.into_iter().enumerate().map(|(index, part)| match index {
            0 => format!("{:8.1}  {part}", decision.at_seconds),
            _ => format!("{:indent$}{part}", "", indent = usize::from(INDENT)),
        });
        blocks.push(lines.collect());
    }
    blocks.into_iter().rev().flatten().map(Line::raw).collect()
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
