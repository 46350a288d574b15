//! Looking for one connection of a migration, and tuning both its ends.

use super::{SourceEnd, Tuned, Which};
use crate::run::Input;
use anyhow::Context as _;
use droveway_fleet::RateLimit;
use droveway_host::{
    netns::Netns,
    qemu as process,
    shaping::{STREAM, URGENT},
    sockets::{SocketFinder, Tuning},
    tcp_info::{Connection, TcpDiag},
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Between two looks for a connection that is due: a page fault takes as long on a slow port.
const PERIOD: Duration = Duration::from_millis(4);
/// The stream's connection is made before `migrate` is answered.
const STREAM_LIMIT: Duration = Duration::from_secs(2);
/// A source looks whether it is to switch between two slices of its pass, each 50 ms; on a busy machine later.
const URGENT_LIMIT: Duration = Duration::from_secs(10);

/// A connection whose path was away tries again so soon after its return: a guest that waits for the last bytes of its post-copy
/// waits no longer than one whose path is renewed. The least that a kernel takes.
const AGAIN_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Search {
    /// The monitors' sockets, by which the processes are found.
    pub(super) sockets: [PathBuf; 2],
    pub(super) netns: [Option<String>; 2],
    /// Where the target listens.
    pub(super) port: u16,
    pub(super) which: Which,
    pub(super) classes: bool,
    /// What may wait unsent at the stream's source.
    pub(super) unsent_max: u32,
}

impl Search {
    pub(super) fn run(&self, inbox: &mpsc::Sender<Input>) -> anyhow::Result<Tuned> {
        let limit = match self.which {
            Which::Stream => STREAM_LIMIT,
            Which::Urgent { .. } => URGENT_LIMIT,
        };
        let deadline = Instant::now() + limit;
        let mut source = self.finder(0)?;
        let mut target = self.finder(1)?;
        // A migration that is over has no connection any more, and the search for a second one has an end.
        while Instant::now() < deadline && !inbox.is_closed() {
            let wanted = |one: &Connection| match self.which {
                Which::Stream => true,
                Which::Urgent { beside } => one.local.port() != beside,
            };
            if let Some((number, connection)) = source.find(None, Some(self.port), wanted)? {
                let source_port = connection.local.port();
                let theirs = target.find(Some(self.port), Some(source_port), |_| true)?;
                if let Some((other_number, other)) = theirs {
                    // At the source the stream is data; at the target it only answers.
                    let of_source = if self.which == Which::Stream { STREAM } else { URGENT };
                    source.take(number, &connection)?.tune(&self.tuning(of_source))?;
                    target.take(other_number, &other)?.tune(&self.tuning(URGENT))?;
                    let source = Box::new(SourceEnd { finder: source, number, connection });
                    return Ok(Tuned::Both { which: self.which, source });
                }
            }
            std::thread::sleep(PERIOD);
        }
        let which = match self.which {
            Which::Stream => "the stream's connection",
            Which::Urgent { .. } => "the connection for requested pages",
        };
        Ok(Tuned::Not(format!("{which} was not found in {limit:?}")))
    }

    fn tuning(&self, class: u32) -> Tuning {
        Tuning {
            no_delay: true,
            priority: if self.classes { class } else { 0 },
            pacing: RateLimit::Unlimited,
            unsent_limit: (class == STREAM).then_some(self.unsent_max),
            again_within: Some(AGAIN_WITHIN),
        }
    }

    fn finder(&self, side: usize) -> anyhow::Result<SocketFinder> {
        let name = ["source", "target"][side];
        let pid = process::find_by_qmp_socket(&self.sockets[side])
            .with_context(|| format!("the {name}'s QEMU process was not found"))?;
        let netns = Netns::of(self.netns[side].as_deref())?;
        let finder = SocketFinder::open(pid, TcpDiag::open(&netns)?)?;
        finder.with_context(|| format!("the {name}'s QEMU process {pid} is gone"))
    }
}
