//! What a guest keeps in its memory, and whether it is still there: a client of its memcached, over one TCP connection that
//! outlives every move.

use super::case::HOSTS;
use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// A guest that is silent for longer is not coming back.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Values that are kept: 12 MiB, beside some 90 MiB that a guest has anyway.
const VALUES: usize = 12 * 1024;
const VALUE_LEN: usize = 1024;
/// Values that are asked for at once: a round trip each would take most of the time under emulation.
const AT_ONCE: usize = 64;

/// A connection to the memcached of one VM.
#[derive(Debug)]
pub(super) struct Cache {
    stream: BufReader<TcpStream>,
    /// Values differ from VM to VM: one guest's memory is not another's.
    salt: u64,
}

/// The value that belongs to a key: no two alike, none compressible.
fn value(salt: u64, key: usize) -> Vec<u8> {
    let mut state = (key as u64 + (salt << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..VALUE_LEN)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'!' + u8::try_from(state % 90).unwrap_or(0)
        })
        .collect()
}

impl Cache {
    /// Connects from the client's namespace, and has the VM keep its values.
    pub(super) fn fill(lab: &str, index: usize) -> Result<Self> {
        let address = format!("10.77.1.{}:11211", index + 1);
        let stream = in_namespace(&format!("dw-{lab}_client"), || TcpStream::connect(&address))?
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let mut cache = Cache { stream: BufReader::new(stream), salt: index as u64 + 1 };
        for first in (0..VALUES).step_by(AT_ONCE) {
            let mut request = Vec::with_capacity(AT_ONCE * (VALUE_LEN + 32));
            for key in first..first + AT_ONCE {
                request.extend(format!("set k{key} 0 0 {VALUE_LEN}\r\n").into_bytes());
                request.extend(value(cache.salt, key));
                request.extend(b"\r\n");
            }
            cache.stream.get_mut().write_all(&request)?;
            for _ in 0..AT_ONCE {
                let said = cache.line()?;
                ensure!(said == "STORED", "memcached says '{said}'");
            }
        }
        Ok(cache)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).context("memcached does not answer")?;
        ensure!(length > 0, "the connection to memcached has ended");
        Ok(line.trim_end().to_owned())
    }

    /// Reads every value back, over the same connection, and compares it byte by byte.
    pub(super) fn verify(&mut self) -> Result<()> {
        for first in (0..VALUES).step_by(AT_ONCE) {
            let keys: Vec<String> = (first..first + AT_ONCE).map(|key| format!("k{key}")).collect();
            let request = format!("get {}\r\n", keys.join(" "));
            self.stream
                .get_mut()
                .write_all(request.as_bytes())
                .context("memcached reads nothing")?;
            for (key, name) in (first..).zip(&keys) {
                let (said, wanted) = (self.line()?, format!("VALUE {name} 0 {VALUE_LEN}"));
                ensure!(said == wanted, "key {key} is lost: memcached says '{said}'");
                let mut found = vec![0; VALUE_LEN + 2];
                self.stream.read_exact(&mut found).context("memcached does not answer")?;
                let same = found[..VALUE_LEN] == value(self.salt, key);
                ensure!(same, "the value of key {key} has changed");
            }
            let said = self.line()?;
            ensure!(said == "END", "memcached says '{said}'");
        }
        Ok(())
    }
}

/// Does something in a named network namespace, on a thread of its own: a socket that it opens belongs there for good.
fn in_namespace<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(format!("/run/netns/{name}"))
        .with_context(|| format!("opening network namespace '{name}'"))?;
    std::thread::scope(|scope| {
        let inside = || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering network namespace '{name}'"))?;
            Ok(work())
        };
        scope.spawn(inside).join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
    })
}

/// Every queueing discipline of the hosts' ports, and of the wires between them.
pub(super) fn disciplines(lab: &str) -> Result<Vec<String>> {
    crate::lab::queues(lab, &[HOSTS[0], HOSTS[1], "_switch"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_values_are_alike() {
        let values: std::collections::BTreeSet<Vec<u8>> =
            (1..=2).flat_map(|salt| (0..500).map(move |key| value(salt, key))).collect();
        assert_eq!(values.len(), 1_000);
        assert!(values.iter().all(|it| it.iter().all(u8::is_ascii_graphic)));
    }

    #[test]
    fn values_are_asked_for_in_whole_handfuls() {
        assert_eq!(VALUES % AT_ONCE, 0);
    }
}
