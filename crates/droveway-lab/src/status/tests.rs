use super::*;
use std::{fs, os::unix::net::UnixListener};

#[test]
fn a_half_written_line_is_not_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for (content, expected) in
        [("", ""), ("half", ""), ("one\n", "one"), ("one\ntwo\n", "two"), ("one\ntwo\nha", "two")]
    {
        fs::write(&log, content).unwrap();
        assert_eq!(last_line(&log).unwrap(), expected, "{content:?}");
    }
    let long = "x".repeat(usize::try_from(LAST_LINE_LEN_MAX).unwrap());
    fs::write(&log, format!("{long}\nlast\n")).unwrap();
    assert_eq!(last_line(&log).unwrap(), "last");
}

#[test]
fn a_rate_is_what_was_done_over_how_long() {
    let sample = |millis: u64| ApplicationSample {
        start: Timestamp::from_millis(1000),
        end: Timestamp::from_millis(1000 + millis),
        amount: 50,
        failed: 0,
        latencies_us: Vec::new(),
    };
    assert_eq!(per_second(&sample(100)).map(f64::round), Some(500.0));
    assert_eq!(per_second(&sample(0)), None);
    assert!(is_recent(Timestamp::from_millis(1000), Timestamp::from_millis(3900)));
    assert!(!is_recent(Timestamp::from_millis(1000), Timestamp::from_millis(4000)));
}

#[test]
fn a_vm_is_asked_past_events() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        writeln!(stream, r#"{{"QMP": {{}}}}"#).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"execute":"qmp_capabilities"}"#);
        writeln!(stream, r#"{{"return": {{}}}}"#).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), r#"{"execute":"query-status"}"#);
        writeln!(stream, r#"{{"event": "RESUME"}}"#).unwrap();
        writeln!(stream, r#"{{"return": {{"status": "running", "running": true}}}}"#).unwrap();
    });
    assert_eq!(query_status(&path).unwrap(), "running");
    peer.join().unwrap();
    assert!(query_status(&path).is_err());
}
