//! Journals of simulated runs in which everything goes wrong come back from the file as they were.

use droveway_sim::FaultSchedule;
use droveway_store::Store;

const SEEDS: u64 = 40;

#[test]
fn journals_of_faulty_runs_replay_to_the_state_that_the_controller_held() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("journal.db")).unwrap();
    let mut adopted = 0;
    for seed in 0..SEEDS {
        let left = FaultSchedule::of(seed).run(None).unwrap().left;
        let mut key = store.begin(&left.header).unwrap();
        store.append(&mut key, &left.journal).unwrap();
        let read = store.run(&left.header.id).unwrap().expect("the run is on file");
        assert_eq!(read.entries, left.journal, "seed {seed}");
        assert_eq!(read.state(), left.state, "seed {seed}");
        adopted += left.adopted;
    }
    assert!(adopted > 0, "some of them were taken over");
}
