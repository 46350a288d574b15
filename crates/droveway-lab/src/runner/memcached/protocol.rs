//! memcached's text protocol, as far as a load needs it, and the values that are stored. Pure.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// The keys: their values make 2 MB, a small part of the smallest guest's cache, so that none is evicted.
pub(crate) const KEYS: u32 = 2000;

/// The length of a value: its answer fits one packet.
const VALUE_BYTES: usize = 1000;

/// The longest line of an answer: the longest key that memcached knows has 250 bytes.
const LINE_BYTES_MAX: usize = 1024;

const LINE_END: &[u8] = b"\r\n";

/// What a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Get(u32),
    Set(u32),
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Right,
    /// The value is not the one that was stored.
    Corrupt,
    /// No value, or an error: the server's words.
    Refused(String),
}

/// The answer is none to what was asked: the connection cannot be used any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfStep(pub(crate) String);

/// Every value, made from its key: what a server gives back can be checked.
#[derive(Debug)]
pub(crate) struct Values(Vec<Vec<u8>>);

impl Values {
    pub(crate) fn new() -> Self {
        Values((0..KEYS).map(value).collect())
    }

    fn of(&self, key: u32) -> &[u8] {
        &self.0[key as usize % self.0.len()]
    }

    /// Appends a request as it is sent.
    pub(crate) fn request(&self, kind: Kind, to: &mut Vec<u8>) {
        match kind {
            Kind::Get(key) => to.extend_from_slice(format!("get k{key}\r\n").as_bytes()),
            Kind::Set(key) => {
                let header = format!("set k{key} 0 0 {VALUE_BYTES}\r\n");
                to.extend_from_slice(header.as_bytes());
                to.extend_from_slice(self.of(key));
                to.extend_from_slice(LINE_END);
            }
        }
    }

    /// Reads the answer to a request: what it says and its length; `None` while it is not whole.
    pub(crate) fn answer(
        &self,
        kind: Kind,
        bytes: &[u8],
    ) -> Result<Option<(Answer, usize)>, OutOfStep> {
        let Some(end) = find(bytes, LINE_END) else {
            return if bytes.len() > LINE_BYTES_MAX { Err(out_of_step(bytes)) } else { Ok(None) };
        };
        let line = &bytes[..end];
        let after = end + LINE_END.len();
        let refused = || Answer::Refused(String::from_utf8_lossy(line).into_owned());
        match (kind, line) {
            (_, b"ERROR") => return Ok(Some((refused(), after))),
            (_, line) if line.starts_with(b"SERVER_ERROR") || line.starts_with(b"CLIENT_ERROR") => {
                return Ok(Some((refused(), after)));
            }
            (Kind::Set(_), b"STORED") => return Ok(Some((Answer::Right, after))),
            (Kind::Set(_), b"NOT_STORED") | (Kind::Get(_), b"END") => {
                return Ok(Some((refused(), after)));
            }
            _ => {}
        }
        let (Kind::Get(key), Some(length)) = (kind, value_length(kind, line)) else {
            return Err(out_of_step(bytes));
        };
        let tail = b"\r\nEND\r\n";
        let whole = after + length + tail.len();
        if bytes.len() < whole {
            return Ok(None);
        }
        if &bytes[after + length..whole] != tail {
            return Err(out_of_step(&bytes[after + length..]));
        }
        let right = &bytes[after..after + length] == self.of(key);
        Ok(Some((if right { Answer::Right } else { Answer::Corrupt }, whole)))
    }
}

fn value(key: u32) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    StdRng::seed_from_u64(key.into()).fill_bytes(&mut value);
    value
}

/// The length that `VALUE k7 0 1000` announces, if it is about the key that was asked for.
fn value_length(kind: Kind, line: &[u8]) -> Option<usize> {
    let Kind::Get(key) = kind else { return None };
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    let ["VALUE", name, _, length] = words.as_slice() else { return None };
    let length = length.parse().ok()?;
    (*name == format!("k{key}") && length <= 2 * VALUE_BYTES).then_some(length)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let near = &bytes[..bytes.len().min(LINE_BYTES_MAX + what.len())];
    near.windows(what.len()).position(|window| window == what)
}

fn out_of_step(bytes: &[u8]) -> OutOfStep {
    let start = &bytes[..bytes.len().min(40)];
    OutOfStep(format!("'{}' answers nothing that was asked", start.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(key: u32, value: &[u8]) -> Vec<u8> {
        let header = format!("VALUE k{key} 0 {}\r\n", value.len());
        [header.as_bytes(), value, b"\r\nEND\r\n"].concat()
    }

    #[test]
    fn every_answer_is_recognised_in_whatever_pieces_it_comes() {
        let values = Values::new();
        let mut wrong = value(7);
        wrong[999] ^= 1;
        let refused = |text: &str| Answer::Refused(text.to_owned());
        for (kind, bytes, expected) in [
            (Kind::Get(7), got(7, &value(7)), Answer::Right),
            (Kind::Get(7), got(7, &wrong), Answer::Corrupt),
            (Kind::Get(7), got(7, b"short"), Answer::Corrupt),
            (Kind::Get(7), b"END\r\n".to_vec(), refused("END")),
            (Kind::Set(7), b"STORED\r\n".to_vec(), Answer::Right),
            (Kind::Set(7), b"SERVER_ERROR oom\r\n".to_vec(), refused("SERVER_ERROR oom")),
            (Kind::Get(7), b"ERROR\r\n".to_vec(), refused("ERROR")),
        ] {
            for length in 0..bytes.len() {
                assert_eq!(values.answer(kind, &bytes[..length]), Ok(None), "{kind:?} {length}");
            }
            let used = bytes.len();
            let and_more = [&bytes[..], b"VALUE"].concat();
            assert_eq!(values.answer(kind, &and_more), Ok(Some((expected, used))));
        }
    }

    #[test]
    fn an_answer_to_something_else_is_noticed() {
        let values = Values::new();
        for (kind, bytes) in [
            (Kind::Set(7), got(7, &value(7))),
            (Kind::Get(7), got(8, &value(8))),
            (Kind::Get(7), b"STORED\r\n".to_vec()),
            (Kind::Get(7), b"VALUE k7 0 99999999999\r\n".to_vec()),
            (Kind::Get(7), [b"VALUE k7 0 1\r\nxy".as_slice(), &[b'z'; 20]].concat()),
            (Kind::Get(7), vec![b'x'; 2000]),
        ] {
            assert!(values.answer(kind, &bytes).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn requests_are_written_as_the_protocol_says() {
        let values = Values::new();
        let mut bytes = Vec::new();
        values.request(Kind::Get(1999), &mut bytes);
        assert_eq!(bytes, b"get k1999\r\n");
        bytes.clear();
        values.request(Kind::Set(3), &mut bytes);
        assert!(bytes.starts_with(b"set k3 0 0 1000\r\n") && bytes.ends_with(LINE_END));
        assert_eq!(bytes.len(), 17 + VALUE_BYTES + 2);
        assert_ne!(value(1), value(2));
    }
}
