use super::*;
use proptest::prelude::*;
use serde_json::json;

/// Feeds the chunks as a reader would, then the end of the stream.
fn decode(chunks: &[&[u8]], bound: usize) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::with_bound(bound);
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        while let Some(frame) = decoder.decode(&mut buffer)? {
            frames.push(frame);
        }
    }
    while let Some(frame) = decoder.decode_eof(&mut buffer)? {
        frames.push(frame);
    }
    Ok(frames)
}

fn split<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

#[track_caller]
fn check(text: &str, expected: &str) {
    let frames = decode(&[text.as_bytes()], 200).unwrap();
    assert_eq!(format!("{frames:?}"), expected);
}

#[test]
fn lines_become_frames() {
    check("", "[]");
    check("\r\n \n\n", "[]");
    check(
        "{\"return\": 1, \"id\": 7}\r\n",
        r#"[Message(Reply { id: Some(7), result: Ok(Number(1)) })]"#,
    );
    check(
        r#"{"error": {"class": "KVMMissingCap", "desc": "no"}, "id": 1}
"#,
        r#"[Message(Reply { id: Some(1), result: Err(ErrorBody { class: KvmMissingCap, description: "no" }) })]"#,
    );
    check(
        r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 5}}
"#,
        r#"[Message(Event { name: "STOP", time: Some(1.000005s), data: Null })]"#,
    );
    check(
        r#"{"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}
"#,
        r#"[Message(Event { name: "STOP", time: None, data: Null })]"#,
    );
    check("[1]\n", r#"[Malformed { reason: "not an object", excerpt: "[1]" }]"#);
    check(
        "{}\n",
        r#"[Malformed { reason: "neither greeting, event, return nor error", excerpt: "{}" }]"#,
    );
    check(
        "{\"return\": {}, \"id\": \"x\"}\n",
        r#"[Malformed { reason: "reply with an id that isn't ours", excerpt: "{\"return\": {}, \"id\": \"x\"}" }]"#,
    );
    check(
        "{\"return",
        r#"[Malformed { reason: "cut off by the end of the stream", excerpt: "{\"return" }]"#,
    );
}

#[test]
fn a_malformed_line_does_not_cost_the_next() {
    let frames = decode(&[b"{\"a\": nonsense\xff}\n{\"return\": null, \"id\": 1}\n"], 200).unwrap();
    assert!(matches!(frames[0], Frame::Malformed { .. }));
    let result = Ok(json!(null));
    assert_eq!(frames[1], Frame::Message(Incoming::Reply { id: Some(1), result }));
}

#[test]
fn an_endless_line_names_the_bound() {
    for text in ["x".repeat(11), "x".repeat(11) + "\n"] {
        let error = decode(&[text.as_bytes()], 10).unwrap_err();
        assert_eq!(error.to_string(), "line longer than 10 bytes");
    }
    assert_eq!(decode(&[b"xxxxxxxxxx\n"], 10).unwrap().len(), 1);
}

#[test]
fn deep_nesting_is_malformed_not_a_crash() {
    let deep = "{\"return\":".repeat(100_000);
    let frames = decode(&[deep.as_bytes(), b"\n"], 10 << 20).unwrap();
    assert!(matches!(&frames[0], Frame::Malformed { reason, .. } if reason.contains("recursion")));
}

/// Fragments that make lines almost right.
fn nearly_qmp() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        any::<Vec<u8>>(),
        "(\\{\"(QMP|return|error|event|id)\": ?|[{}\\[\\],:\"]|\r?\n|-?[0-9]{1,25}|true|null)"
            .prop_map(String::into_bytes),
    ];
    prop::collection::vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

proptest! {
    #[test]
    fn chunks_do_not_matter_and_nothing_panics(
        bytes in nearly_qmp(),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        bound in 1_usize..300,
    ) {
        let whole = decode(&[&bytes], bound);
        let chunked = decode(&split(&bytes, &cuts), bound);
        match (whole, chunked) {
            (Ok(whole), Ok(chunked)) => prop_assert_eq!(whole, chunked),
            (Err(_), Err(_)) => {}
            (whole, chunked) => prop_assert!(false, "{:?} against {:?}", whole, chunked),
        }
    }

    #[test]
    fn a_reply_survives_any_split(
        id: u64,
        text in "\\PC{0,40}",
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let line = format!("{}\r\n", json!({"return": {"text": text}, "id": id}));
        let frames = decode(&split(line.as_bytes(), &cuts), 4096).unwrap();
        let result = Ok(json!({"text": text}));
        prop_assert_eq!(frames, vec![Frame::Message(Incoming::Reply { id: Some(id), result })]);
    }
}
