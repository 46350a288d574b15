//! Arbitrary bytes in arbitrary chunks: no panic, and the chunks don't change the frames.
//!
//! The first byte is the length of the first chunk and of each after it.
#![no_main]

use bytes::BytesMut;
use droveway_qmp::{Frame, FrameDecoder};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder;

/// Small, so that the fuzzer reaches it.
const BOUND: usize = 512;

/// The frames, and whether a line was too long.
fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let mut decoder = FrameDecoder::with_bound(BOUND);
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    loop {
        match decoder.decode_eof(&mut buffer) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, false),
            Err(_) => return (frames, true),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = decode(std::iter::once(bytes));
    let chunked = decode(bytes.chunks(usize::from(*size).max(1)));
    assert_eq!(whole, chunked);
});
