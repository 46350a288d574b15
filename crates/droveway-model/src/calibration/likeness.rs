//! Which past errors a forecast listens to: those of moves that were like it.
//!
//! What a model gets wrong is not the same everywhere. Measured: downtimes of pre-copies were a quarter longer than played at
//! 1 Gbit/s and a sixth shorter at 400 Mbit/s; where streams share a port they scatter twice as much. One median of all would
//! be wrong on both sides, and classes of their own would each be known by a handful of moves. So every past error counts,
//! the less the more its move differed, and how many count in effect says how far to trust what they say.

use crate::fluid::{End, Gang, MoveModel, Start};
use serde::{Deserialize, Serialize};

/// What the errors of a move, or of a gang, depend on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// What the slower of the two ports carries, bytes per second.
    pub rate: f64,
    /// Streams that share the ports.
    pub streams: f64,
    /// The part of source TX or target RX, whichever is more, that applications would take.
    pub contended: f64,
    /// The ports keep promises to migration.
    pub held: bool,
    /// The VM writes memory of some size while it moves.
    pub writes: bool,
}

/// A rate that is so many times another is as unlike it as one stream is unlike two.
const RATE_FACTOR: f64 = 2.0;
/// A port full of applications is so unlike an empty one.
const CONTENTION_WEIGHT: f64 = 1.5;
/// Twice as many streams are so unlike: who is first and who waits behind whom differs each time.
const STREAMS_WEIGHT: f64 = 2.0;
/// More streams than these differ no more.
const STREAMS_MOST: f64 = 4.0;
/// A guest that dirties more than this in a second writes; less is what an idle one does.
const WRITES_BYTES: f64 = 2.0 * 1_048_576.0;

impl Case {
    /// Of one of the gang's moves.
    #[must_use]
    pub fn of(gang: &Gang, step: &MoveModel) -> Case {
        let source = gang.vms[step.vm].host;
        let (from, to) = (&gang.ports[source], &gang.ports[step.target]);
        let rate = from.tx.min(to.rx).max(1.0);
        let at = |end: End, host: usize| match end {
            End::Vm(vm) => gang.vms[vm].host == host,
            End::Host(other) => other == host,
            End::Outside => false,
        };
        let moves =
            |end: End| matches!(end, End::Vm(vm) if gang.moves.iter().any(|other| other.vm == vm));
        let (mut sent, mut received) = (0.0, 0.0);
        for flow in &gang.flows {
            let demand = flow.demand.min(rate);
            if at(flow.from, source) && !at(flow.to, source) {
                sent += demand;
            }
            // What a moved VM receives, it receives at the target.
            if at(flow.to, step.target) || (moves(flow.to) && !at(flow.from, step.target)) {
                received += demand;
            }
        }
        let streams = match step.start {
            Start::InWindow(window) => gang.windows[window].min(gang.moves.len()),
            _ => gang.moves.len(),
        };
        #[expect(clippy::cast_precision_loss, reason = "some moves")]
        let streams = streams.max(1) as f64;
        Case {
            rate,
            streams,
            contended: (sent.max(received) / rate).clamp(0.0, 1.0),
            held: from.shaped,
            writes: gang.vms[step.vm].curve.unique_bytes(1.0) > WRITES_BYTES,
        }
    }

    /// Of the whole gang: its first move's; `None` if nothing moves.
    #[must_use]
    pub fn of_gang(gang: &Gang) -> Option<Case> {
        let writes = |case: Case| {
            let any = gang.moves.iter().any(|step| Case::of(gang, step).writes);
            Case { writes: any, ..case }
        };
        gang.moves.first().map(|step| writes(Case::of(gang, step)))
    }

    /// How much an error of the other speaks for this one: 1 if they are alike.
    fn weight(&self, other: &Case) -> f64 {
        let rate = (self.rate / other.rate).ln().abs() / RATE_FACTOR.ln();
        let streams = |case: &Case| case.streams.min(STREAMS_MOST).log2();
        let streams = STREAMS_WEIGHT * (streams(self) - streams(other)).abs();
        let contended = CONTENTION_WEIGHT * (self.contended - other.contended).abs();
        let held = f64::from(u8::from(self.held != other.held));
        let writes = f64::from(u8::from(self.writes != other.writes));
        (-(rate + streams + contended + held + writes)).exp()
    }
}

/// A past error: the logarithm of outcome over play, and of what it was one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What it was.
    pub case: Case,
    /// The logarithm.
    pub log: f64,
}

/// What past errors say of a case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spoken {
    /// Their weighted median.
    pub(super) bias: f64,
    /// Their standard deviation around it: from the middle, or from what one in ten exceeds if that is more.
    pub(super) spread: f64,
    /// So many alike errors would say as much.
    pub(super) count: f64,
}

/// Median absolute deviation to standard deviation, for a normal distribution.
const MAD_TO_SD: f64 = 1.4826;
/// Four in five are within so many standard deviations.
const P80_TO_SD: f64 = 1.2816;

/// Listens to `samples`; `None` if there are none.
pub(super) fn listen(samples: &[Sample], case: &Case) -> Option<Spoken> {
    if samples.is_empty() {
        return None;
    }
    let weighted: Vec<(f64, f64)> =
        samples.iter().map(|sample| (sample.log, case.weight(&sample.case))).collect();
    let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let squares: f64 = weighted.iter().map(|(_, weight)| weight * weight).sum();
    let bias = quantile(weighted.clone(), 0.5);
    let away: Vec<(f64, f64)> =
        weighted.iter().map(|(log, weight)| ((log - bias).abs(), *weight)).collect();
    let spread = (MAD_TO_SD * quantile(away.clone(), 0.5)).max(quantile(away, 0.8) / P80_TO_SD);
    // One that is hardly like it says little however many there are.
    let count = (sum * sum / squares).min(sum);
    Some(Spoken { bias, spread, count })
}

/// A quantile of weighted values, between two of them in proportion.
fn quantile(mut values: Vec<(f64, f64)>, share: f64) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: f64 = values.iter().map(|(_, weight)| weight).sum();
    // Each value stands at the middle of its weight.
    let (mut below, mut before) = (0.0, None::<(f64, f64)>);
    for (value, weight) in values {
        let place = (below + 0.5 * weight) / all;
        if place >= share {
            return match before {
                Some((last, at)) if place > at => {
                    last + (value - last) * (share - at) / (place - at)
                }
                _ => value,
            };
        }
        below += weight;
        before = Some((value, place));
    }
    before.map_or(0.0, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(rate: f64, streams: f64) -> Case {
        Case { rate, streams, contended: 0.0, held: false, writes: false }
    }

    fn samples(of: &[(Case, f64)]) -> Vec<Sample> {
        of.iter().map(|(case, log)| Sample { case: *case, log: *log }).collect()
    }

    #[test]
    fn what_is_alike_is_listened_to() {
        let (slow, fast) = (case(50e6, 1.0), case(1000e6, 1.0));
        let past = samples(&[(slow, 0.2), (slow, 0.2), (slow, 0.2), (fast, -0.3), (fast, -0.3)]);
        let of = |case: &Case| listen(&past, case).unwrap();
        assert!((of(&slow).bias - 0.2).abs() < 0.02, "{:?}", of(&slow));
        assert!((of(&fast).bias + 0.3).abs() < 0.02, "{:?}", of(&fast));
        assert!((2.9..3.2).contains(&of(&slow).count), "{:?}", of(&slow));
    }

    #[test]
    fn who_knows_nothing_alike_trusts_little() {
        let past = samples(&[(case(50e6, 1.0), 0.2); 10]);
        let far = Case { contended: 1.0, held: true, ..case(50e6, 4.0) };
        let heard = listen(&past, &far).unwrap();
        assert!(heard.count < 0.5 && (heard.bias - 0.2).abs() < 1e-9, "{heard:?}");
        assert_eq!(listen(&[], &far), None);
    }

    #[test]
    fn a_spread_is_that_of_most() {
        let alike = case(50e6, 1.0);
        let past: Vec<Sample> =
            (-10..=10).map(|n| Sample { case: alike, log: 0.1 * f64::from(n) }).collect();
        let heard = listen(&past, &alike).unwrap();
        assert!(heard.bias.abs() < 1e-9 && (0.6..0.8).contains(&heard.spread), "{heard:?}");
    }
}
