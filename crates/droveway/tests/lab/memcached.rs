//! A client of a guest's memcached over one TCP connection that is meant to outlive every move.

use crate::harness::Lab;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// A guest that is silent for longer is not coming back.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const VALUE_LEN: usize = 1024;

pub(crate) struct Cache {
    stream: BufReader<TcpStream>,
}

/// The value that belongs to a key: no two alike, none compressible.
fn value(key: usize) -> Vec<u8> {
    let mut state = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..VALUE_LEN)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'!' + u8::try_from(state % 90).expect("below 90")
        })
        .collect()
}

impl Cache {
    /// Connects from the client's namespace.
    pub(crate) fn connect(lab: &Lab, vm: &str) -> Cache {
        let fleet = lab.fleet();
        let index = fleet.spec.vms.iter().position(|v| v.name.as_str() == vm).expect("the VM");
        let address = format!("10.77.1.{}:11211", index + 1);
        let stream = lab
            .client()
            .run(|| TcpStream::connect(&address))
            .expect("the namespace")
            .expect("memcached answers");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("a time-out");
        Cache { stream: BufReader::new(stream) }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("memcached answers");
        line.trim_end().to_owned()
    }

    /// Stores `count` values of 1 KiB.
    pub(crate) fn fill(&mut self, count: usize) {
        for key in 0..count {
            let mut request = format!("set k{key} 0 0 {VALUE_LEN}\r\n").into_bytes();
            request.extend(value(key));
            request.extend(b"\r\n");
            self.stream.get_mut().write_all(&request).expect("memcached reads");
            assert_eq!(self.line(), "STORED");
        }
    }

    /// Reads every value back and compares it byte by byte.
    pub(crate) fn verify(&mut self, count: usize) {
        for key in 0..count {
            let request = format!("get k{key}\r\n");
            self.stream.get_mut().write_all(request.as_bytes()).expect("memcached reads");
            assert_eq!(self.line(), format!("VALUE k{key} 0 {VALUE_LEN}"), "key {key} is lost");
            let mut found = vec![0; VALUE_LEN + 2];
            self.stream.read_exact(&mut found).expect("memcached answers");
            assert!(found[..VALUE_LEN] == value(key), "the value of key {key} has changed");
            assert_eq!(self.line(), "END");
        }
    }
}
