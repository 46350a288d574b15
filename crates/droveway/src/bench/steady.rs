//! Whether a laboratory's applications do what they usually do.
//!
//! iperf3 keeps a limited TCP flow's mean since its beginning: after a silence it sends as fast as it can until it has made up for it. A run
//! that began then would take that for usual, and count as lost what nobody sends twice. A post-copy of stock sockets leaves a flow some
//! ten seconds behind.

use droveway_fleet::{
    RateLimit,
    fleet::Application,
    log::{ApplicationSample, amount_between},
    scenario::{ScenarioSpec, TrafficKind},
};
use std::{path::Path, time::Duration};

/// How long is looked back.
const SPAN: Duration = Duration::from_secs(1);
/// Whoever is above its rate by more than this still makes up for something.
const ABOVE: f64 = 1.15;

/// The first of `applications` that sends more than its scenario asks for.
pub(super) fn behind(applications: &[Application], scenario: &ScenarioSpec) -> Option<String> {
    let is_behind = |application: &&Application| {
        let of = scenario.traffic.iter().find(|it| it.name == application.name);
        let of = of.filter(|it| it.kind == TrafficKind::Tcp);
        let Some(asked) = of.and_then(|it| it.rate).and_then(RateLimit::bandwidth) else {
            return false;
        };
        let log = droveway_lab::runner::read_log(Path::new(&application.log));
        let rate = log.ok().and_then(|samples| bits_per_second(&samples));
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let most = ABOVE * asked.bits_per_second() as f64;
        rate.is_some_and(|rate| rate > most)
    };
    applications.iter().find(is_behind).map(|application| application.name.to_string())
}

/// Of the last samples.
fn bits_per_second(samples: &[ApplicationSample]) -> Option<f64> {
    let end = samples.last()?.end;
    let (amount, covered) = amount_between(samples, end - SPAN, end);
    (!covered.is_zero()).then(|| 8.0 * amount / covered.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::{Timestamp, document, fleet::ApplicationUnit};

    fn sample(at_ms: u64, amount: u64) -> ApplicationSample {
        let at = Timestamp::from_millis;
        ApplicationSample {
            start: at(at_ms),
            end: at(at_ms + 200),
            amount,
            failed: 0,
            latencies_us: Vec::new(),
        }
    }

    fn scenario() -> ScenarioSpec {
        let text = "apiVersion: droveway/v1\nkind: Scenario\nmetadata: { name: demo }\nspec:\n  \
                    link: { rate: 1Gbit/s }\n  hosts: [ { name: alpha }, { name: beta } ]\n  vms: []\n  traffic:\n    \
                    - { name: a, from: alpha, to: beta, kind: tcp, rate: 8Mbit/s }\n    \
                    - { name: b, from: alpha, to: beta, kind: tcp, rate: unlimited }\n";
        document::parse::<ScenarioSpec>(text, "test").expect("a scenario").spec
    }

    #[test]
    fn who_sends_more_than_is_asked_for_makes_up_for_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let application = |name: &str, amounts: &[u64]| {
            let log = folder.path().join(name);
            let line = |(index, amount): (usize, &u64)| {
                let at = 200 * u64::try_from(index).expect("few");
                serde_json::to_string(&sample(at, *amount)).expect("a line") + "\n"
            };
            let text: String = amounts.iter().enumerate().map(line).collect();
            std::fs::write(&log, text).expect("written");
            Application {
                name: name.parse().expect("a name"),
                kind: "tcp".to_owned(),
                from: "alpha".parse().expect("a name"),
                to: "beta".parse().expect("a name"),
                unit: ApplicationUnit::Bytes,
                log: log.display().to_string(),
            }
        };
        // 8 Mbit/s are 200 kB in 200 ms. What was long ago does not count.
        let steady = [&[0, 0, 900_000, 900_000][..], &[200_000; 6]].concat();
        let scenario = scenario();
        let elastic = application("b", &[9_000_000; 8]);
        assert_eq!(behind(&[application("a", &steady), elastic.clone()], &scenario), None);
        let hurries = [&steady[..], &[300_000; 3]].concat();
        let hurries = application("a", &hurries);
        assert_eq!(behind(&[elastic, hurries], &scenario), Some("a".to_owned()));
        assert_eq!(behind(&[application("a", &[])], &scenario), None, "nothing was seen yet");
    }
}
