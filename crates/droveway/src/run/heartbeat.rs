//! The heartbeat between a run's two hosts while the memory of any of its VMs is split between them.

use super::Run;
use droveway_drive::Beat;
use droveway_fleet::Timestamp;
use droveway_host::{heartbeat::Heartbeat, netns::Netns};

/// Opened when it is needed first.
#[derive(Debug, Default)]
pub(super) struct Heart {
    /// `None` inside: it cannot be had, which was said.
    open: Option<Option<Heartbeat>>,
}

impl Heart {
    /// One beat, if it is of use: it is sent, and what came back is told.
    pub(super) fn beat(&mut self, now: Timestamp, run: &mut Run) {
        if !run.gang.depends_on_path() {
            return;
        }
        let opened = self.open.get_or_insert_with(|| {
            let pair = run.pairs.values().next()?;
            let netns = |index: usize| Netns::of(pair.netns[index].as_deref());
            let opened = netns(0).and_then(|source| Ok((source, netns(1)?)));
            let opened = opened
                .map_err(anyhow::Error::from)
                .and_then(|(from, to)| Ok(Heartbeat::open(&from, &to, pair.address)?));
            opened.inspect_err(|error| tracing::warn!("no heartbeat: {error:#}")).ok()
        });
        let Some(heartbeat) = opened else { return };
        if heartbeat.beat() {
            run.gang.handle_beat(now, Beat::Answered);
        }
        run.gang.handle_beat(now, Beat::Sent);
    }
}
