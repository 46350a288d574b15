//! Promise: a guest's memory and its connections survive every technique.

use crate::{
    harness::{Lab, TestVm},
    memcached::Cache,
};
use droveway_fleet::report::MoveResult;

/// 32 MiB of known values.
const VALUES: usize = 32 * 1024;
const MOVES: usize = 20;

#[test]
fn twenty_moves_keep_every_byte_and_the_connection() {
    let vm = TestVm { name: "cache", more: "services: [ memcached ]" };
    let Some(lab) = Lab::up("t-memory", "1Gbit/s", &[vm]) else { return };
    let mut cache = Cache::connect(&lab, "cache");
    cache.fill(VALUES);
    let policies = ["pre-copy-serial", "post-copy-serial", "hybrid-serial", "stop-and-copy"];
    for number in 0..MOVES {
        let target = if number % 2 == 0 { "beta" } else { "alpha" };
        // Each technique goes both ways: the fifth move of a round begins one later.
        let policy = policies[(number + number / policies.len()) % policies.len()];
        let (code, report) = lab.moves(&["migrate", "cache", "--to", target, "--policy", policy]);
        assert_eq!(code, 0, "move {number} by {policy}: {:?}", report.vms);
        assert_eq!(report.vms[0].result, MoveResult::Completed);
        assert_eq!(lab.place("cache"), (target.to_owned(), "running".to_owned()));
        // A part after each move says which technique broke what; all of it at the end.
        cache.verify(if number + 1 == MOVES { VALUES } else { VALUES / 16 });
    }
}
