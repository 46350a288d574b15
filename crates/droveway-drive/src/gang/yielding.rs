//! Streams of low urgency yield on ports that were left as they are.
//!
//! Where ports are shaped the kernel does it: the migration's class borrows last. Elsewhere streams and applications are equals,
//! and one that takes what it gets takes half of a port from a single connection. So what both ports carry beside the streams is
//! looked at some times a second, and the streams are paced:
//!
//! ```text
//!  nobody else is there     no pace
//!  the port is full         a quarter of it, at once
//!  it is not                what is left of it, less a margin that keeps its queue empty
//! ```
//!
//! Somebody is there who is seen in two windows without a common look. What a port sent and what of it was acknowledged are two
//! readings: a stream that has just overrun a queue has acknowledgements outstanding until its holes are filled, and a busy host
//! reads the one later than the other. Either looks like somebody else for one window, and is made good in the next.
//!
//! The quarter is what the finish bound of low urgency asks for: four times the shortest time. A run with a deadline does not
//! yield: its plan says what the deadline leaves for the applications.

use super::{GangAction, GangDriver};
use crate::record::Decision;
use droveway_fleet::{Bandwidth, Bytes, RateLimit, Timestamp, Urgency, VmId};
use droveway_plan::reserve::{NOBODY_RATIO, YIELDING_RATIO};
use std::{collections::VecDeque, time::Duration};

/// Rates are taken over so long: TCP's bursts even out, and two looks still fall into the half second that yielding may take.
const WINDOW: Duration = Duration::from_millis(400);
/// A port that carries this share of its rate is full: somebody may be waiting.
const FULL: f64 = 0.9;
/// What streams keep however much others want: low urgency ends within four times the shortest time.
const LEAST: f64 = 0.25;
/// A port has to have room for so long before more of it is taken back: applications pause between requests.
const ROOM_LASTS: Duration = Duration::from_millis(600);
/// Smaller changes of pace are not worth one.
const STEP: f64 = 0.05;
/// Ethernet, IP and TCP beside 1,448 bytes of payload: what a port counts of a stream, over what was acknowledged.
const WIRE: f64 = 1_514.0 / 1_448.0;

/// What was carried since whenever, at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortsSeen {
    /// Sent by the source's port, wire bytes.
    pub source_tx: Bytes,
    /// Received by the target's port, wire bytes.
    pub target_rx: Bytes,
    /// Acknowledged of the run's streams, payload.
    pub streams: Bytes,
}

/// How much all streams together may take.
#[derive(Debug)]
pub(super) struct Yielding {
    /// Source TX, target RX.
    capacity: [Bandwidth; 2],
    looks: VecDeque<(Timestamp, PortsSeen)>,
    allowed: RateLimit,
    /// Since when somebody else has been there, while nobody is held back.
    others_since: Option<Timestamp>,
    /// Since when there has been more room than is allowed.
    room_since: Option<Timestamp>,
}

impl Yielding {
    pub(super) const fn new(capacity: [Bandwidth; 2]) -> Self {
        Yielding {
            capacity,
            looks: VecDeque::new(),
            allowed: RateLimit::Unlimited,
            others_since: None,
            room_since: None,
        }
    }

    /// Nothing is held back any more.
    fn forget(&mut self) {
        *self = Yielding::new(self.capacity);
    }

    fn least(&self) -> Bandwidth {
        self.capacity[0].min(self.capacity[1]).scaled(LEAST)
    }

    /// Takes a look; what all streams together may take from now on.
    fn observe(&mut self, now: Timestamp, seen: PortsSeen) -> RateLimit {
        self.looks.push_back((now, seen));
        while self.looks.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.looks.pop_front();
        }
        let Some((from, before)) = self.looks.front().copied() else { return self.allowed };
        let time = now.since(from);
        if time < WINDOW {
            return self.allowed;
        }
        let rate = |of: fn(&PortsSeen) -> Bytes| {
            Bandwidth::of(of(&seen).saturating_sub(of(&before)), time)
        };
        let streams = rate(|seen| seen.streams).scaled(WIRE);
        let ends = [rate(|seen| seen.source_tx), rate(|seen| seen.target_rx)];
        let wanted = ends.iter().zip(self.capacity).map(|(carried, capacity)| {
            let others = *carried - streams;
            if others <= capacity.scaled(NOBODY_RATIO) {
                RateLimit::Unlimited
            } else if *carried >= capacity.scaled(FULL) {
                RateLimit::At(self.least())
            } else {
                let left = capacity.scaled(YIELDING_RATIO) - others;
                RateLimit::At(left.max(self.least()))
            }
        });
        let wanted = wanted.fold(RateLimit::Unlimited, RateLimit::at_most);
        let step = self.capacity[0].scaled(STEP);
        match (self.allowed.bandwidth(), wanted.bandwidth()) {
            (None, None) => self.others_since = None,
            // Less: as soon as somebody is surely there,
            (None, Some(_)) => {
                let since = *self.others_since.get_or_insert(now);
                if since + WINDOW <= now {
                    (self.allowed, self.others_since) = (wanted, None);
                }
            }
            // and then at once.
            (Some(now_allowed), Some(wants)) if wants + step < now_allowed => {
                (self.allowed, self.room_since) = (wanted, None);
            }
            // More: when there has been room for a while.
            (Some(now_allowed), wants) if wants.is_none_or(|wants| wants > now_allowed + step) => {
                let since = *self.room_since.get_or_insert(now);
                if since + ROOM_LASTS <= now {
                    (self.allowed, self.room_since) = (wanted, None);
                }
            }
            (Some(_), _) => self.room_since = None,
        }
        self.allowed
    }
}

impl GangDriver {
    /// The same, whose streams yield to applications at low urgency where ports have no classes. `capacity`: what the source's
    /// port sends and the target's receives.
    #[must_use]
    pub fn yielding(mut self, capacity: [Bandwidth; 2]) -> Self {
        self.yielding = Some(Yielding::new(capacity));
        self
    }

    /// Takes what the ports carried. To be called some times a second.
    pub fn handle_ports(&mut self, now: Timestamp, seen: PortsSeen) {
        let has_deadline = self.has_deadline();
        let applies =
            self.plan.urgency == Urgency::Low && self.plan.reservations.is_empty() && !has_deadline;
        let streams = self.drivers.values().filter(|driver| driver.uses_port()).count();
        let Some(yielding) = &mut self.yielding else { return };
        let all = if applies && streams > 0 {
            yielding.observe(now, seen)
        } else {
            yielding.forget();
            RateLimit::Unlimited
        };
        let count = u32::try_from(streams).unwrap_or(u32::MAX).max(1);
        let each = match all {
            RateLimit::Unlimited => RateLimit::Unlimited,
            RateLimit::At(rate) => RateLimit::At(rate.divided(count)),
        };
        if each == self.yields_to {
            return;
        }
        let before = std::mem::replace(&mut self.yields_to, each);
        self.actions.push_back(GangAction::Yield { each });
        let (was, is) = (before.bandwidth().is_some(), each.bandwidth().is_some());
        if was != is {
            let choice = if is {
                format!("streams yield: {all} for all of them at first")
            } else {
                "streams take what they get again".to_owned()
            };
            self.decisions.push_back(Decision {
                at: now,
                vm: None,
                reason: "applications come first at low urgency".to_owned(),
                inputs: format!("{streams} streams on ports without classes"),
                choice,
                runner_up: None,
                margin: None,
                adopted: true,
            });
        }
    }

    /// True while streams are held back for the applications' sake.
    pub(super) fn is_yielding(&self) -> bool {
        self.yields_to.bandwidth().is_some()
    }

    fn has_deadline(&self) -> bool {
        let measured = self.adapter.as_ref().map(|adapter| adapter.deadlines());
        let own = |vm: &VmId| {
            let asked = self.wishes.deadline_of(vm);
            asked.unwrap_or_else(|| measured.and_then(|all| all.get(vm).copied())).is_some()
        };
        let open = self.drivers.iter().filter(|(_, driver)| driver.outcome().is_none());
        self.plan.deadline.is_some() || open.map(|(vm, _)| vm).any(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 100;

    /// A port of 100 Mbit/s on which applications want so much, second by second, and the streams take what is left, or what
    /// they may. What streams and applications have in each fifth of a second.
    fn played(wants: &[u64], elastic: bool) -> Vec<(u64, u64)> {
        let mbit = |rate: u64| Bandwidth::from_bits_per_second(rate * 1_000_000);
        let mut yielding = Yielding::new([mbit(CAPACITY); 2]);
        let (mut carried, mut acked) = (0, 0);
        let mut had = Vec::new();
        for (second, wanted) in wants.iter().enumerate() {
            for fifth in 0..5 {
                let at = Timestamp::from_millis(second as u64 * 1_000 + fifth * 200);
                let seen = PortsSeen {
                    source_tx: Bytes::new(carried),
                    target_rx: Bytes::new(carried),
                    streams: Bytes::new(acked),
                };
                let allowed = yielding.observe(at, seen);
                let may =
                    allowed.bandwidth().map_or(CAPACITY, |it| it.bits_per_second() / 1_000_000);
                // Equals share by halves; who wants less than that has it.
                let half = CAPACITY / 2;
                let wants_now = if elastic && *wanted > 0 { CAPACITY } else { *wanted };
                let streams = may.min(CAPACITY - wants_now.min(half)).min(CAPACITY);
                let streams = if wants_now > half {
                    streams.min(half.max(CAPACITY - wants_now))
                } else {
                    streams
                };
                let applications = wants_now.min(CAPACITY - streams);
                // 200 ms of 1 Mbit/s are 25,000 bytes.
                carried += (streams + applications) * 25_000;
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small"
                )]
                {
                    acked += (streams as f64 * 25_000.0 / WIRE) as u64;
                }
                had.push((streams, applications));
            }
        }
        had
    }

    #[test]
    fn alone_nobody_is_held_back() {
        assert!(played(&[0; 6], false).iter().all(|(streams, _)| *streams == CAPACITY));
        // Acknowledgements are nobody.
        assert!(played(&[3; 6], false).iter().all(|(streams, _)| *streams == CAPACITY - 3));
    }

    #[test]
    fn acknowledgements_that_come_late_are_nobody() {
        let mbit = |rate: u64| Bandwidth::from_bits_per_second(rate * 1_000_000);
        let mut yielding = Yielding::new([mbit(CAPACITY); 2]);
        for step in 0..20_u64 {
            // A fifth of a second of the port's, all of the streams; the queue was overrun from the fourth look to the seventh,
            // and what is behind the hole is acknowledged at once when it is filled.
            let carried = step * 2_500_000;
            let acked = if (4..7).contains(&step) { carried - 1_250_000 } else { carried };
            let seen = PortsSeen {
                source_tx: Bytes::new(carried),
                target_rx: Bytes::new(carried),
                streams: Bytes::new(acked * 1_448 / 1_514),
            };
            let allowed = yielding.observe(Timestamp::from_millis(step * 200), seen);
            assert_eq!(allowed, RateLimit::Unlimited, "look {step}");
        }
    }

    #[test]
    fn applications_that_come_have_the_port_within_a_second_and_give_it_back() {
        let had = played(&[0, 0, 100, 100, 100, 0, 0, 0], true);
        assert_eq!(had[10], (50, 50), "equals at first: {had:?}");
        for step in 14..25 {
            assert_eq!(had[step], (25, 75), "step {step}: {had:?}");
        }
        assert_eq!(had[34], (100, 0), "two seconds after they went: {had:?}");
    }

    #[test]
    fn beside_steady_applications_streams_fill_what_is_left_and_do_not_swing() {
        let had = played(&[40; 12], false);
        let settled = &had[10..];
        assert!(settled.iter().all(|(_, applications)| *applications == 40), "{had:?}");
        let (least, most) = (settled.iter().min().unwrap().0, settled.iter().max().unwrap().0);
        assert!(least >= 40 && most <= 50 && most - least <= 5, "{had:?}");
    }

    #[test]
    fn a_pause_between_requests_is_no_room() {
        // Every other second half of it: the streams do not jump up and down.
        let had = played(&[90, 90, 90, 90, 90], false);
        assert!(had[4..].iter().all(|(streams, _)| *streams == 25 || *streams <= 25), "{had:?}");
    }
}
