//! `cargo xtask test`: every test of the workspace, with what the lab's tests need. A test that cannot run says why; the
//! reasons are counted here, and in CI one is a failure.

use crate::{guest_image, prerequisites, run as run_program, target_dir, tidy, workspace_root};
use anyhow::{Context as _, Result, bail};
use std::{fs, process::Command};

/// In CI property tests try the same cases each time, so that a red run speaks of the change and not of the day; everywhere
/// else they look for new ones.
const PROPERTY_SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "20251124");

pub(crate) fn run(yes: bool) -> Result<()> {
    let root = workspace_root();
    prerequisites::ensure(yes)?;
    let image = guest_image(&root)?;
    tidy::run(&root)?;
    let skips = target_dir(&root).join("skipped-tests.log");
    let _ = fs::remove_file(&skips);
    let in_ci = std::env::var_os("CI").is_some();
    let mut tests = Command::new(env!("CARGO"));
    tests
        .current_dir(&root)
        .args(["test", "--workspace", "--locked"])
        .env("DROVEWAY_GUEST_IMAGE", &image)
        .env("DROVEWAY_SKIP_LOG", &skips);
    if in_ci {
        tests.env("DROVEWAY_REQUIRE_LAB", "1");
        if std::env::var_os(PROPERTY_SEED.0).is_none() {
            tests.env(PROPERTY_SEED.0, PROPERTY_SEED.1);
        }
    }
    let outcome = run_program(&mut tests);
    let skipped = if skips.exists() {
        fs::read_to_string(&skips).with_context(|| format!("reading {}", skips.display()))?
    } else {
        String::new()
    };
    let count = skipped.lines().count();
    println!("\n{count} tests were skipped{}", if count == 0 { "" } else { ":" });
    for line in skipped.lines() {
        println!("  {line}");
    }
    outcome?;
    if in_ci && count > 0 {
        bail!("in CI every test must run");
    }
    Ok(())
}
