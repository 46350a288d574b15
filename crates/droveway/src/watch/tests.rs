use super::{Told, screen};
use droveway_fleet::{
    document::API_VERSION,
    status::{ClassStatus, DecisionStatus, KIND, PortStatus, RunStatus, Status, VmStatus},
};
use ratatui::{Terminal, backend::TestBackend, style::Color};
use std::path::Path;

fn class(name: &str, bits: u64, promised: Option<u64>) -> ClassStatus {
    ClassStatus {
        class: name.to_owned(),
        bits_per_second: bits,
        promised_bits_per_second: promised,
    }
}

fn port(host: &str, direction: &str, classes: Vec<ClassStatus>) -> PortStatus {
    PortStatus {
        host: host.to_owned(),
        direction: direction.to_owned(),
        capacity_bits_per_second: 1_000_000_000,
        bits_per_second: classes.iter().map(|class| class.bits_per_second).sum(),
        classes,
    }
}

fn moving(name: &str, phase: &str) -> VmStatus {
    VmStatus {
        name: name.to_owned(),
        host: Some("alpha".to_owned()),
        state: phase.to_owned(),
        phase: Some(phase.to_owned()),
        technique: Some("hybrid".to_owned()),
        pass: Some(3),
        total_bytes: Some(512 << 20),
        transferred_bytes: Some(700 << 20),
        remaining_bytes: Some(123_456_789),
        rate_bits_per_second: Some(412_345_678),
        dirty_bits_per_second: Some(83_886_080),
        forecast_end_seconds: Some(14.25),
        deadline_seconds: Some(20.0),
        deadline_slack_seconds: Some(5.75),
        ..VmStatus::default()
    }
}

fn waiting(name: &str) -> VmStatus {
    VmStatus {
        name: name.to_owned(),
        host: Some("alpha".to_owned()),
        state: "ready".to_owned(),
        phase: Some("ready".to_owned()),
        technique: Some("pre-copy".to_owned()),
        forecast_end_seconds: Some(31.0),
        ..VmStatus::default()
    }
}

/// Everything at once: shaped ports, every kind of VM, long names and texts, a deadline that is missed, trouble.
fn busy() -> Status {
    let decision = |at, vm: Option<&str>, text: &str| DecisionStatus {
        at_seconds: at,
        vm: vm.map(str::to_owned),
        text: text.to_owned(),
    };
    let run = RunStatus {
        id: "run-20260102-030405".to_owned(),
        pid: 4242,
        verb: "drain".to_owned(),
        source: "alpha".to_owned(),
        target: "beta".to_owned(),
        policy: "adaptive".to_owned(),
        plan: "run-20260102-030405.1".to_owned(),
        generation: 1,
        urgency: "high".to_owned(),
        elapsed_seconds: Some(9.46),
        forecast_end_seconds: Some(31.0),
        deadline_seconds: Some(30.0),
        deadline_slack_seconds: Some(-1.0),
        cancelled: false,
        journal_trouble: Some(
            "the journal is not written: the disk is full (17 entries wait)".to_owned(),
        ),
        ports: vec![
            port(
                "alpha",
                "tx",
                vec![
                    class("urgent", 12_000_000, None),
                    class("migration", 588_000_000, Some(600_000_000)),
                    class("applications", 340_000_000, None),
                ],
            ),
            port(
                "alpha",
                "rx",
                vec![class("migration", 0, None), class("applications", 18_400_000, None)],
            ),
            port("beta-with-a-long-name", "tx", vec![class("applications", 900_000, None)]),
            port(
                "beta-with-a-long-name",
                "rx",
                vec![
                    class("urgent", 12_000_000, None),
                    class("migration", 588_000_000, Some(600_000_000)),
                    class("applications", 500_000_000, None),
                ],
            ),
        ],
        decisions: vec![
            decision(
                0.0,
                Some("web-1"),
                "pre-copy, because it sends (urgency high, 812 schedules)",
            ),
            decision(
                4.2,
                None,
                "hold 60% of the ports, because pass 2 of web-1 found 40 % more than forecast (as \
                 planned 31.0 s more at a cost of 12.5, the best other 24.1 s at 9.0; a change has to \
                 gain 0.3)",
            ),
            decision(7.75, Some("database-with-a-name"), "switch to post-copy, because operator"),
        ],
    };
    let mut lost = moving("mail", "ended");
    lost.state = "lost".to_owned();
    lost.reason = Some("the target's QEMU died while the VM's memory was split".to_owned());
    let mut done = moving("cache", "ended");
    done.state = "running".to_owned();
    done.host = Some("beta".to_owned());
    (done.remaining_bytes, done.downtime_seconds) = (Some(0), Some(0.187));
    let mut late = moving("database-with-a-name", "post-copy");
    late.deadline_slack_seconds = Some(-0.5);
    let idle = VmStatus {
        name: "other".to_owned(),
        host: Some("beta".to_owned()),
        state: "running".to_owned(),
        ..VmStatus::default()
    };
    Status {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        fleet: "prod".to_owned(),
        active_run: Some(run.id.clone()),
        unfinished_run: None,
        run: Some(run),
        vms: vec![moving("web-1", "pre-copy"), late, waiting("web-2"), done, lost, idle],
    }
}

fn many() -> Status {
    let mut status = busy();
    status.vms = (0..60)
        .map(|index| {
            let name = format!("vm-{index:02}");
            if index % 7 == 3 { moving(&name, "pre-copy") } else { waiting(&name) }
        })
        .collect();
    status
}

fn idle() -> Status {
    let mut status = busy();
    (status.active_run, status.run) = (None, None);
    status.unfinished_run = Some("run-20260102-030405".to_owned());
    status.vms.truncate(3);
    for vm in &mut status.vms {
        *vm = VmStatus {
            name: vm.name.clone(),
            host: vm.host.clone(),
            state: "running".to_owned(),
            ..VmStatus::default()
        };
    }
    status
}

/// A broken path: VMs that wait for it, one that was given up, long names that differ at their ends only, and deadlines that passed.
fn broken() -> Status {
    let mut status = busy();
    let name = |number: u32| format!("production-database-eu-{number:02}");
    let mut vms = Vec::new();
    for number in 1..=4 {
        let mut vm = moving(&name(number), "post-copy-paused");
        (vm.rate_bits_per_second, vm.dirty_bits_per_second) = (Some(0), None);
        (vm.forecast_end_seconds, vm.deadline_slack_seconds) = (Some(3_723.4), Some(-123.4));
        vms.push(vm);
    }
    vms.push(moving(&name(5), "recovering"));
    let mut given_up = moving(&name(6), "ended");
    given_up.state = "needs-recovery".to_owned();
    let words = "the path between the hosts did not come back within 180 s. The VM waits at the target, the rest of its memory is at \
                 the source; both QEMUs are kept, and each of them is needed: end neither, and reboot neither host. Restore the \
                 path, then run `droveway recover production-database-eu-06`";
    given_up.reason = Some(words.to_owned());
    vms.push(given_up);
    let mut passed = moving(&name(7), "ended");
    (passed.state, passed.host) = ("running".to_owned(), Some("beta".to_owned()));
    passed.deadline_slack_seconds = Some(-0.4);
    vms.push(passed);
    status.vms = vms;
    if let Some(run) = &mut status.run {
        (run.journal_trouble, run.elapsed_seconds) = (None, Some(3_700.0));
        run.source = "rack-12-hypervisor-0007.example".to_owned();
        run.target = "rack-14-hypervisor-0031.example".to_owned();
        // Nobody could read the one port's rate.
        run.ports.truncate(2);
        run.ports[1].capacity_bits_per_second = 0;
        run.decisions.push(DecisionStatus {
            at_seconds: 3_690.1,
            vm: Some(name(6)),
            text: format!("NEEDS RECOVERY: {words}"),
        });
    }
    status
}

/// The screen as text, a line for each of its lines, and the colours that it has.
fn drawn(status: &Status, (width, height): (u16, u16), color: bool) -> (String, Vec<Color>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, status, None, color)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        assert_eq!(
            line.chars().count(),
            usize::from(width),
            "a sign that takes two places: {line}"
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let mut colors: Vec<Color> = buffer.content().iter().map(|cell| cell.fg).collect();
    colors.sort_by_key(|color| format!("{color:?}"));
    colors.dedup();
    (text, colors)
}

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (200, 50);

/// `UPDATE_SCREENS=1 cargo test -p droveway` writes them anew.
#[track_caller]
fn check(name: &str, status: &Status, size: (u16, u16)) {
    let (text, colors) = drawn(status, size, false);
    assert_eq!(colors, [Color::Reset], "nothing is coloured where nobody wants colours");
    let (colored, _) = drawn(status, size, true);
    assert_eq!(text, colored, "colour says nothing that the text does not");
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("src/watch/screens/{name}-{}x{}.txt", size.0, size.1));
    if std::env::var_os("UPDATE_SCREENS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "{}: now\n{text}", path.display());
}

#[test]
fn a_run_fills_the_screen_and_no_more() {
    check("busy", &busy(), SMALL);
    check("busy", &busy(), LARGE);
}

#[test]
fn more_vms_than_fit_are_counted_and_those_that_move_are_first() {
    check("many", &many(), SMALL);
    check("many", &many(), LARGE);
    let (text, _) = drawn(&many(), LARGE, false);
    let place = |name: &str| text.find(name).unwrap_or_else(|| panic!("no {name}:\n{text}"));
    assert!(place("vm-59") < place("vm-00"), "{text}");
    let (text, _) = drawn(&many(), SMALL, false);
    assert!(text.contains("vm-03") && text.contains("and 56 more"), "{text}");
}

#[test]
fn without_a_run_the_vms_are_shown_and_what_a_dead_controller_left() {
    check("idle", &idle(), SMALL);
    let (text, _) = drawn(&idle(), SMALL, false);
    assert!(text.contains("droveway adopt"), "{text}");
}

#[test]
fn what_is_wrong_is_said_in_words() {
    for size in [SMALL, LARGE] {
        let (screen, _) = drawn(&busy(), size, false);
        let text = screen.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in
            ["the run is LATE", "LOST: mail", "-1.0 s", "-0.5", "the journal is not written"]
        {
            assert!(text.contains(words), "{words} is missing:\n{screen}");
        }
    }
}

/// Without colour, and where rows or columns do not fit.
#[test]
fn a_broken_path_is_said_in_words_and_what_to_do() {
    check("broken", &broken(), SMALL);
    check("broken", &broken(), LARGE);
    for size in [SMALL, LARGE] {
        let (screen, _) = drawn(&broken(), size, false);
        let text = screen.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "NEEDS RECOVERY: production-database-eu-06",
            "droveway recover production-database-eu-06",
            "PATH BROKEN: production-database-eu-01",
            "POST-COPY PAUSED",
            "-123.4",
            "tries its path at once",
        ] {
            assert!(text.contains(words), "{words} is missing:\n{screen}");
        }
    }
    // Names that differ at their ends only are told apart.
    let (text, _) = drawn(&broken(), SMALL, false);
    assert!(text.contains("…e-eu-01") && text.contains("…e-eu-02"), "{text}");
}

/// What has to be known has room at every width from 80 on, whatever else has.
#[test]
fn no_width_loses_a_column_that_a_smaller_one_has() {
    for width in 80..=220 {
        let (text, _) = drawn(&busy(), (width, 40), false);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('│')).collect();
        let head = rows.iter().find(|line| line.contains("phase")).unwrap();
        for title in ["pass", "rate", "dirty", "left", "ends", "slack"] {
            assert!(head.contains(title), "{width}: {title} is missing:\n{text}");
        }
        let late = rows.iter().find(|line| line.contains("post-copy")).unwrap();
        for figure in ["412.3", "83.9", "117.7", "14.2", "-0.5"] {
            assert!(late.contains(figure), "{width}: {figure} is missing:\n{text}");
        }
    }
}

/// A decision is shown from its beginning, or its end is left out with a sign.
#[test]
fn decisions_begin_with_their_time() {
    for height in 20..=50 {
        let (text, _) = drawn(&busy(), (80, height), false);
        let lines: Vec<&str> = text.lines().collect();
        let Some(title) = lines.iter().position(|line| line.contains(" decisions ")) else {
            continue;
        };
        let first = lines[title + 1].trim_start_matches('│').trim_start();
        let begins = first.starts_with(|sign: char| sign.is_ascii_digit());
        assert!(begins, "{height}: {first}\n{text}");
    }
}

#[test]
fn a_run_that_is_over_is_told_of() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let mut status = idle();
    status.unfinished_run = None;
    terminal.draw(|frame| screen::draw(frame, &status, Some("run-7"), false)).unwrap();
    let text: String = terminal.backend().buffer().content().iter().map(|it| it.symbol()).collect();
    assert!(text.contains("run-7 is over: `droveway report last` tells of it"), "{text}");
    assert!(text.contains("q leaves this view") && !text.contains("the run goes on"), "{text}");
}

#[test]
fn no_size_is_too_small_to_draw_and_nothing_is_drawn_outside() {
    for width in [1, 2, 7, 20, 79, 81, 119, 120, 300] {
        for height in [1, 2, 3, 5, 9, 23, 51] {
            for status in [busy(), many(), idle(), broken()] {
                drawn(&status, (width, height), true);
            }
        }
    }
}

#[test]
fn lines_tell_each_thing_once() {
    let mut told = Told::default();
    let mut status = busy();
    let first = told.news(&status);
    assert!(first[0].contains("run-20260102-030405 is active"), "{first:?}");
    assert_eq!(first.len(), 1 + status.vms.len() + 3, "{first:?}");
    assert_eq!(told.news(&status), Vec::<String>::new());
    "post-copy".clone_into(&mut status.vms[0].state);
    let run = status.run.as_mut().unwrap();
    // Two decisions of one instant are two.
    for text in ["one", "two"] {
        run.decisions.push(DecisionStatus { at_seconds: 9.0, vm: None, text: text.to_owned() });
    }
    let next = told.news(&status);
    assert_eq!(next.len(), 3, "{next:?}");
    assert!(next[0].contains("web-1") && next[0].contains("post-copy at alpha"), "{next:?}");
    assert!(next[1].ends_with("one") && next[2].ends_with("two"), "{next:?}");
    assert_eq!(told.news(&status), Vec::<String>::new());
    (status.active_run, status.run) = (None, None);
    assert!(told.news(&status)[0].contains("no run is active"));
}
