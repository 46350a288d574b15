//! Lines on the console. The lab waits for one of them and shows the rest when a guest does not come up.

use std::io::Write;

/// Prints one line, in one write, so that lines of several threads do not mix.
pub(crate) fn say(message: &str) {
    let line = format!("droveway-guest: {message}\n");
    // Nobody could be told that the console is gone.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
