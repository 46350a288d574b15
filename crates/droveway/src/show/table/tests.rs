use super::*;
use droveway_fleet::Technique;

fn around(p50: f64) -> Option<Quantiles> {
    Some(Quantiles { p10: 0.8 * p50, p50, p90: 1.3 * p50 })
}

fn row(number: usize, vm: &str, technique: Technique, why: &[&str]) -> Row {
    Row {
        number,
        vm: vm.parse().unwrap(),
        technique,
        start_seconds: Some(0.0),
        starts: "at once".to_owned(),
        after: None,
        rate_bits_per_second: None,
        background_bits_per_second: None,
        ends: Some(Ends::AsPlanned),
        duration_seconds: around(2.12),
        downtime_seconds: around(0.057),
        outage_seconds: around(1.34),
        lost_bytes: around(12.3e6),
        why: why.iter().map(|&word| word.to_owned()).collect(),
    }
}

fn gang() -> Vec<Row> {
    let mut sender = row(1, "sender", Technique::PostCopy, &["TX 40, RX 3 %", "hybrid +0.44 s"]);
    sender.rate_bits_per_second = Some(200_000_000);
    let mut writer = row(2, "writer", Technique::Hybrid, &["no traffic", "pre-copy +12.10 s"]);
    writer.start_seconds = Some(2.12);
    (writer.starts, writer.after) = ("after sender".to_owned(), Some(0));
    writer.background_bits_per_second = Some(188_000_000);
    writer.lost_bytes = around(0.0);
    let mut stays = row(3, "a-name-as-long-as-some-are", Technique::PreCopy, &["all go alike"]);
    stays.starts = "as one ends".to_owned();
    stays.ends = Some(Ends::NotAtAll);
    let mut large =
        row(4, "db", Technique::StopAndCopy, &["TX 0, RX 12 %", "the VM forbids post-copy"]);
    large.start_seconds = Some(123.4);
    large.starts = "after the wait".to_owned();
    (large.duration_seconds, large.downtime_seconds) = (around(45.6), around(45.2));
    (large.outage_seconds, large.lost_bytes) = (around(412.0), around(12.3e9));
    vec![sender, writer, stays, large]
}

#[track_caller]
fn check(rows: &[Row], width: u16, expected: &str) {
    let text = table(rows, width);
    assert_eq!(text, expected.trim_start_matches('\n'), "\n{text}");
    assert!(!text.contains('\u{1b}'), "colours");
    let longest = text.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(usize::from(width)), "{longest:?}");
}

#[test]
fn a_table_is_read_at_a_hundred_columns() {
    check(
        &gang(),
        100,
        "
#  VM, technique  start       rate         takes      downtime   outage     loses      why
1  sender         0.00 s      200 Mbit/s   2.12 s     57 ms      1.34 s     12.3 MB    TX 40, RX 3\u{a0}%
   post-copy      at once                  1.70-2.76  46-74      1.07-1.74  9.84-16.0  hybrid
                                                                                       +0.44\u{a0}s
2  writer         2.12 s      unlimited /  2.12 s     57 ms      1.34 s     none       no traffic
   hybrid         after #1    188 Mbit/s   1.70-2.76  46-74      1.07-1.74             pre-copy
                                                                                       +12.10\u{a0}s
3  a-name-as-lo…  0.00 s      unlimited    stays at   -          -          12.3 MB    all go alike
   pre-copy       as 1 ends                source                           9.84-16.0
4  db             123 s       unlimited    45.6 s     45.2 s     412 s      12.3 GB    TX 0, RX 12\u{a0}%
   stop-and-copy  after wait               36.5-59.3  36.2-58.8  330-536    9.84-16.0  the VM
                                                                                       forbids
                                                                                       post-copy",
    );
}

#[test]
fn a_wide_screen_has_a_column_for_the_technique() {
    let text = table(&gang(), 130);
    assert!(text.starts_with(" # ") || text.starts_with('#'), "{text}");
    assert!(text.lines().next().unwrap().contains("technique"), "{text}");
    for width in [100, 110, 130, 160] {
        let text = table(&gang(), width);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(usize::from(width)), "{longest:?} of {width}\n{text}");
    }
}

#[test]
fn what_is_not_forecast_is_no_figure() {
    let mut bare = row(1, "vm", Technique::PreCopy, &["all go alike"]);
    bare.ends = None;
    bare.start_seconds = None;
    let none = [&mut bare.duration_seconds, &mut bare.downtime_seconds, &mut bare.outage_seconds];
    none.into_iter().for_each(|it| *it = None);
    bare.lost_bytes = None;
    let text = table(&[bare], 100);
    assert_eq!(text.matches(" - ").count(), 4, "{text}");
    assert!(text.contains("at once") && text.contains("unlimited"), "{text}");
}

#[test]
fn figures_have_three_digits() {
    for (value, expected) in [(0.0, "0.00"), (9.994, "9.99"), (9.999, "10.0"), (123.4, "123")] {
        assert_eq!(short(value), expected);
    }
    let of = |p50: f64| around(p50).unwrap();
    assert_eq!(seconds(of(0.05)), "50 ms\n40-65");
    assert_eq!(amount(of(3e4)), "none");
    assert_eq!(lost(of(1e8)), "100 MB (80.0 to 130 MB)");
    assert_eq!(lost(of(1.5e9)), "1.50 GB (1.20 to 1.95 GB)");
}
