use super::*;

/// What the witnesses see in one fifth of a second.
#[derive(Debug, Clone, Copy)]
struct Fifth {
    /// Bytes that QEMU wrote; `None`: it was not asked.
    written: Option<u64>,
    /// Bytes delivered, segments under way and sent again; `None`: no kernel to ask.
    kernel: Option<(u64, u64, u64)>,
    /// Whether the heartbeat was answered; `None`: there is none.
    beat: Option<bool>,
}

const WELL: Fifth =
    Fifth { written: Some(5_000_000), kernel: Some((5_000_000, 40, 0)), beat: Some(true) };
const CUT: Fifth = Fifth { written: Some(0), kernel: Some((0, 40, 1)), beat: Some(false) };

/// When, after `well`, the verdict falls, in milliseconds; `None`: it does not while the rest lasts.
fn fallen(well: &[Fifth], rest: &[Fifth]) -> Option<(u64, String)> {
    let mut liveness = Liveness::default();
    liveness.begin(Timestamp::ZERO);
    let (mut written, mut sample) = (0, ConnectionSample::default());
    for (step, fifth) in well.iter().chain(rest).enumerate() {
        let at = step as u64 * 200 + 200;
        let now = Timestamp::from_millis(at);
        if let Some(bytes) = fifth.written {
            written += bytes;
            liveness.note_written(now, Bytes::new(written));
        }
        if let Some((delivered, under_way, again)) = fifth.kernel {
            sample.delivered += delivered;
            sample.sent_again += again;
            sample.under_way = under_way;
            liveness.note_connection(now, sample);
        }
        if let Some(answered) = fifth.beat {
            liveness.note_beat(now, Beat::Sent);
            if answered {
                liveness.note_beat(now, Beat::Answered);
            }
        }
        if let Some(why) = liveness.verdict(now) {
            return Some((at - well.len() as u64 * 200, why));
        }
    }
    None
}

#[track_caller]
fn check(what: &str, well: Fifth, rest: &[Fifth], within: std::ops::RangeInclusive<u64>) {
    let found = fallen(&[well; 10], rest);
    let (at, _) = found.unwrap_or_else(|| panic!("{what}: not noticed"));
    assert!(within.contains(&at), "{what}: noticed after {at} ms");
}

#[test]
fn a_cut_path_is_noticed_in_bounded_time() {
    check("all witnesses", WELL, &[CUT; 60], 1_500..=2_000);
    let no_beat = |of: Fifth| Fifth { beat: None, ..of };
    check("no heartbeat", no_beat(WELL), &[no_beat(CUT); 60], 4_000..=4_400);
    let quiet = Fifth { kernel: Some((0, 40, 0)), ..CUT };
    check("nothing is sent again", WELL, &[quiet; 60], 4_000..=4_400);
    let no_kernel = |of: Fifth| Fifth { kernel: None, ..of };
    check("no kernel", no_kernel(WELL), &[no_kernel(CUT); 80], 10_000..=10_400);
    let only_qemu = |of: Fifth| Fifth { kernel: None, beat: None, ..of };
    check("only QEMU", only_qemu(WELL), &[only_qemu(CUT); 80], 10_000..=10_400);
    let idle = |beat| Fifth { written: Some(0), kernel: Some((0, 0, 0)), beat: Some(beat) };
    check("a stream that sends nothing", idle(true), &[idle(false); 80], 5_000..=5_600);
    // Taken over two seconds before by somebody who has heard of no heartbeat, when TCP tries only every two minutes.
    let late = Fifth { written: Some(0), kernel: Some((0, 40, 0)), beat: Some(false) };
    check("a path that was dead before anybody looked", late, &[late; 80], 8_000..=8_400);
}

/// The send buffer swallows what QEMU writes for a while: bytes written are no sign of life where the kernel can be asked.
#[test]
fn what_only_fills_a_buffer_is_no_sign_of_life() {
    let fills = Fifth { written: Some(200_000), ..CUT };
    check("a filling buffer", WELL, &[fills; 60], 1_500..=2_000);
}

#[test]
fn a_dead_connection_over_a_living_path_is_noticed_too() {
    let dead = Fifth { beat: Some(true), ..CUT };
    check("a dropped connection", WELL, &[dead; 80], 10_000..=10_400);
}

#[test]
fn a_stream_that_is_held_back_is_no_dead_path() {
    // One segment every second, acknowledged at once: nothing is under way between two.
    let mut paced =
        vec![Fifth { written: Some(0), kernel: Some((0, 0, 0)), beat: Some(true) }; 300];
    for fifth in paced.iter_mut().step_by(5) {
        fifth.kernel = Some((1_448, 1, 0));
    }
    assert_eq!(fallen(&[WELL; 10], &paced), None);
    // The same without a heartbeat, and with one that never was answered.
    for beat in [None, Some(false)] {
        let rest: Vec<_> = paced.iter().map(|fifth| Fifth { beat, ..*fifth }).collect();
        assert_eq!(fallen(&[Fifth { beat, ..WELL }; 10], &rest), None, "{beat:?}");
    }
    // Stopped altogether: nothing at all is sent for a minute.
    for beat in [None, Some(true)] {
        let still = Fifth { written: Some(0), kernel: Some((0, 0, 0)), beat };
        assert_eq!(fallen(&[Fifth { beat, ..WELL }; 10], &[still; 300]), None, "{beat:?}");
    }
}

/// Its kernel answers for it until its buffers are full, and then says that it has no room: nothing is under way.
#[test]
fn a_frozen_qemu_is_no_dead_path() {
    let full = Fifth { written: Some(0), kernel: Some((0, 0, 0)), beat: Some(true) };
    assert_eq!(fallen(&[WELL; 10], &[full; 300]), None);
    let unseen = Fifth { kernel: None, ..full };
    assert_eq!(fallen(&[WELL; 10], &[unseen; 300]), None, "the heartbeat speaks for the path");
}

#[test]
fn lost_heartbeats_and_lossy_paths_are_no_dead_path() {
    // Heartbeats alone go missing for a whole minute: the stream is delivered.
    let mute = Fifth { beat: Some(false), ..WELL };
    assert_eq!(fallen(&[WELL; 10], &[mute; 300]), None);
    // A path that loses much: bursts of a second without delivery, sent again all the time.
    let mut lossy = Vec::new();
    for second in 0..60 {
        let delivers = second % 2 == 0;
        let kernel = Some((if delivers { 20_000 } else { 0 }, 10, 1));
        lossy.extend([Fifth { kernel, beat: Some(delivers), ..WELL }; 5]);
    }
    assert_eq!(fallen(&[WELL; 10], &lossy), None);
}

/// Stopped for a minute the controller knows nothing of that minute.
#[test]
fn a_controller_that_slept_sounds_no_alarm() {
    let mut liveness = Liveness::default();
    let sample = |delivered| ConnectionSample { delivered, sent_again: 0, under_way: 9 };
    for step in 1..10_u64 {
        let now = Timestamp::from_millis(step * 200);
        liveness.note_written(now, Bytes::new(step));
        liveness.note_connection(now, sample(step));
        liveness.note_beat(now, Beat::Sent);
        liveness.note_beat(now, Beat::Answered);
    }
    let wakes = Timestamp::from_millis(60_000);
    assert_eq!(liveness.verdict(wakes), None);
    liveness.note_beat(wakes, Beat::Sent);
    assert_eq!(liveness.verdict(wakes), None);
    liveness.note_written(wakes, Bytes::new(9));
    liveness.note_connection(wakes, sample(9));
    assert_eq!(liveness.verdict(wakes), None);
}

#[test]
fn another_connection_begins_anew() {
    let mut liveness = Liveness::default();
    let cut = ConnectionSample { delivered: 900, sent_again: 7, under_way: 9 };
    for step in 1..20_u64 {
        let now = Timestamp::from_millis(step * 200);
        liveness.note_connection(now, cut);
        liveness.note_beat(now, if step < 3 { Beat::Answered } else { Beat::Sent });
    }
    let now = Timestamp::from_millis(4_000);
    liveness.begin(now);
    liveness.note_connection(now, ConnectionSample { delivered: 1, sent_again: 0, under_way: 3 });
    assert_eq!(liveness.verdict(now), None);
    assert!(liveness.has_heartbeat(), "what is known of the hosts stays");
}
