//! `fuzzy-cluster` (Cui and Zhu 2020): VMs fall into those that mostly send and those that mostly receive; the former are
//! post-copied. Fuzzy c-means with two clusters.

use super::{Subject, ascending};

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// The fuzzifier `m`, above 1: the larger, the softer the clusters. Not published; ours.
    pub fuzzifier: f64,
    /// Done when no membership changes by as much. Not published; ours.
    pub tolerance: f64,
    /// Rounds at most. Not published; ours.
    pub max_rounds: u32,
    /// A VM that belongs to neither cluster by as much is ambiguous. Not published; ours.
    pub membership_min: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { fuzzifier: 2.0, tolerance: 1e-4, max_rounds: 100, membership_min: 0.6 }
    }
}

/// The two clusters. Centres are TX and RX as shares of the largest in the gang.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// The centre of those that mostly send.
    pub outbound_centre: [f64; 2],
    /// The centre of those that mostly receive.
    pub inbound_centre: [f64; 2],
    /// By VM, how much it belongs to those that mostly send, 0 to 1; the rest belongs to the others.
    pub outbound: Vec<f64>,
}

/// What the clusters say of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It mostly receives.
    PreCopy,
    /// It mostly sends.
    PostCopy,
    /// Neither: pre-copy, or leave it to a policy that looks at the gang.
    Ambiguous,
}

/// Clusters the VMs. Without any VM the centres are zero.
#[must_use]
pub fn clusters(subjects: &[Subject], parameters: &Parameters) -> Clusters {
    let points = normalised(subjects);
    // From the most outbound and the most inbound VM.
    let order = ascending(subjects, |vm| -lean(points[vm]));
    let (Some(first), Some(last)) = (order.first(), order.last()) else {
        let origin = [0.0; 2];
        return Clusters { outbound_centre: origin, inbound_centre: origin, outbound: Vec::new() };
    };
    let mut centres = [points[*first], points[*last]];
    let mut outbound = memberships(&points, centres, parameters.fuzzifier);
    for _ in 0..parameters.max_rounds {
        centres = [
            centre(&points, outbound.iter().map(|u| u.powf(parameters.fuzzifier))),
            centre(&points, outbound.iter().map(|u| (1.0 - u).powf(parameters.fuzzifier))),
        ];
        let before = outbound;
        outbound = memberships(&points, centres, parameters.fuzzifier);
        let changes = outbound.iter().zip(&before).map(|(now, before)| (now - before).abs());
        if changes.fold(0.0, f64::max) < parameters.tolerance {
            break;
        }
    }
    let [outbound_centre, inbound_centre] = centres;
    // The centres may have changed sides on the way.
    if lean(inbound_centre) > lean(outbound_centre) {
        return Clusters {
            outbound_centre: inbound_centre,
            inbound_centre: outbound_centre,
            outbound: outbound.iter().map(|u| 1.0 - u).collect(),
        };
    }
    Clusters { outbound_centre, inbound_centre, outbound }
}

/// What each VM's membership says.
#[must_use]
pub fn verdicts(clusters: &Clusters, parameters: &Parameters) -> Vec<Verdict> {
    let verdict = |outbound: &f64| {
        if *outbound >= parameters.membership_min {
            Verdict::PostCopy
        } else if 1.0 - outbound >= parameters.membership_min {
            Verdict::PreCopy
        } else {
            Verdict::Ambiguous
        }
    };
    clusters.outbound.iter().map(verdict).collect()
}

/// Each VM's TX and RX as shares of the largest.
fn normalised(subjects: &[Subject]) -> Vec<[f64; 2]> {
    let largest = |of: fn(&Subject) -> f64| {
        let largest = subjects.iter().map(of).fold(0.0, f64::max);
        // Nobody sends: all are the same then.
        if largest > 0.0 { largest } else { 1.0 }
    };
    let (tx, rx) = (largest(|subject| subject.tx), largest(|subject| subject.rx));
    subjects.iter().map(|subject| [subject.tx / tx, subject.rx / rx]).collect()
}

/// How much more is sent than received.
fn lean([tx, rx]: [f64; 2]) -> f64 {
    tx - rx
}

/// How much each point belongs to the first of two centres.
fn memberships(points: &[[f64; 2]], centres: [[f64; 2]; 2], fuzzifier: f64) -> Vec<f64> {
    let membership = |point: &[f64; 2]| {
        let [own, other] = centres.map(|centre| squared_distance(*point, centre));
        // A point on both centres belongs to both.
        if own <= 0.0 && other <= 0.0 {
            return 0.5;
        }
        1.0 / (1.0 + (own / other).powf(1.0 / (fuzzifier - 1.0)))
    };
    points.iter().map(membership).collect()
}

fn squared_distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

/// The weighted mean of the points.
fn centre(points: &[[f64; 2]], weights: impl Iterator<Item = f64>) -> [f64; 2] {
    let (mut sum, mut total) = ([0.0; 2], 0.0);
    for (point, weight) in points.iter().zip(weights) {
        sum = [sum[0] + weight * point[0], sum[1] + weight * point[1]];
        total += weight;
    }
    sum.map(|sum| sum / f64::max(total, f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{goldens, subject};
    use super::*;
    use Verdict::{Ambiguous, PostCopy, PreCopy};

    fn gang(traffic: &[(f64, f64)]) -> Vec<Subject> {
        traffic.iter().map(|(tx, rx)| subject(2048.0, 5.0, *tx, *rx)).collect()
    }

    fn verdicts_of(traffic: &[(f64, f64)]) -> Vec<Verdict> {
        let parameters = Parameters::default();
        verdicts(&clusters(&gang(traffic), &parameters), &parameters)
    }

    #[test]
    fn senders_are_post_copied() {
        let traffic =
            [(20.0, 1.0), (18.0, 3.0), (2.0, 19.0), (1.0, 22.0), (10.0, 9.0), (9.0, 11.0)];
        let got = clusters(&gang(&traffic), &Parameters::default());
        goldens(&got.outbound_centre, &[0.823, 0.186], 0.001);
        goldens(&got.inbound_centre, &[0.136, 0.859], 0.001);
        goldens(&got.outbound, &[0.965, 0.992, 0.001, 0.021, 0.685, 0.489], 0.001);
        let expected = [PostCopy, PostCopy, PreCopy, PreCopy, PostCopy, Ambiguous];
        assert_eq!(verdicts_of(&traffic), expected);
    }

    #[test]
    fn two_vms_are_a_cluster_each() {
        assert_eq!(verdicts_of(&[(1.0, 20.0), (20.0, 1.0)]), [PreCopy, PostCopy]);
    }

    #[test]
    fn vms_without_a_difference_are_ambiguous() {
        assert_eq!(verdicts_of(&[]), []);
        assert_eq!(verdicts_of(&[(20.0, 1.0)]), [Ambiguous]);
        assert_eq!(verdicts_of(&[(0.0, 0.0); 3]), [Ambiguous; 3]);
        assert_eq!(verdicts_of(&[(7.0, 3.0); 4]), [Ambiguous; 4]);
    }
}
