//! Moves that are under way when the play begins.

use super::*;

fn begun(at: BegunAt, left: f64, sent: f64) -> Start {
    Start::Begun { window: 0, so_far: Begun { at, left, sent } }
}

/// A play that begins in the middle ends when the whole one does.
#[test]
fn what_is_taken_up_in_the_middle_ends_like_the_whole() {
    let vms = || vec![vm(0, 20.0), vm(0, 30.0)];
    for technique in [Technique::PreCopy, Technique::Hybrid, Technique::PostCopy] {
        let starts = || (0..2).map(|vm| step(vm, technique, Start::InWindow(0))).collect();
        let whole = gang(vms(), vec![], starts());
        let (course, trace) = Fluid::default().trace(&whole);
        // Half a second into the first one, and in its last but one second.
        let ends = course.moves[0].end_seconds;
        for at in [0.5, 0.4 * ends, ends - 1.0] {
            let phase = trace.moves[0]
                .phases
                .iter()
                .rfind(|phase| phase.from_seconds <= at && at < phase.to_seconds)
                .unwrap();
            let sent = at * R;
            let passes = trace.moves[0].phases.iter().filter(|p| p.to_seconds <= at).count();
            let passes = u32::try_from(passes).unwrap();
            // Nothing but passes and post-copy lasts so long here.
            let (standing, left) = if phase.stage == Stage::PostCopy {
                (BegunAt::PostCopy, (phase.to_seconds - at) * R)
            } else {
                let seconds = at - phase.from_seconds;
                let began = if passes == 0 {
                    2048.0
                } else {
                    let before = &trace.moves[0].phases[passes as usize - 1];
                    let slack = 0.3 * R;
                    let dirtied =
                        whole.vms[0].curve.unique_bytes(before.to_seconds - before.from_seconds);
                    dirtied + slack
                };
                (BegunAt::Pass { passes, seconds }, began - seconds * R)
            };
            let mut rest = whole.clone();
            rest.moves[0].start = begun(standing, left, sent);
            if standing == BegunAt::PostCopy {
                rest.moves[0].technique = Technique::PostCopy;
            }
            let taken_up = Fluid::default().play(&rest);
            near(taken_up.total_seconds + at, course.total_seconds, 0.01);
        }
    }
}

/// The VM runs at the target already, so its traffic meets the stream there.
#[test]
fn who_is_post_copied_is_at_the_target_from_the_first_instant_on() {
    let flow = |from, to| FlowModel { from, to, demand: f64::INFINITY, weight: 1.0 };
    let moving = step(0, Technique::PostCopy, begun(BegunAt::PostCopy, 1_120.0, 928.0));
    let against =
        gang(vec![vm(0, 1.0)], vec![flow(End::Outside, End::Vm(0))], vec![moving.clone()]);
    let free = gang(vec![vm(0, 1.0)], vec![flow(End::Vm(0), End::Outside)], vec![moving]);
    let took = |gang: &Gang| Fluid::default().play(gang).total_seconds;
    near(took(&against), 20.0, 0.01);
    near(took(&free), 10.0, 0.01);
}

#[test]
fn who_is_under_way_has_its_place_in_the_window() {
    let moves = vec![
        step(0, Technique::PreCopy, Start::InWindow(0)),
        step(
            1,
            Technique::PreCopy,
            begun(BegunAt::Pass { passes: 0, seconds: 9.0 }, 1_040.0, 1_008.0),
        ),
    ];
    let gang = gang(vec![vm(0, 1.0), vm(0, 1.0)], vec![], moves);
    let course = Fluid::default().play(&gang);
    assert!(course.moves[0].start_seconds >= course.moves[1].end_seconds - 1e-9, "{course:?}");
}

/// One that is told to switch in the middle of a pass sends what is left of the pass and what was dirtied since it began.
#[test]
fn a_pass_can_be_broken_off_by_a_switch() {
    let at = BegunAt::Pass { passes: 0, seconds: 10.0 };
    let gang = gang(
        vec![vm(0, 20.0)],
        vec![],
        vec![step(0, Technique::PostCopy, begun(at, 928.0, 1_120.0))],
    );
    let course = Fluid::default().play(&gang).moves[0];
    near(course.duration_seconds(), (928.0 + 200.0) / R, 0.01);
    near(course.exposure_seconds, (928.0 + 200.0) / R, 0.01);
}
