//! Running `ip`, `tc`, `nft` and `ethtool`: shelling out is right here, since they try what the kernel has and say what it lacks.

use crate::{
    error::LabError,
    layout::{LAB_VARIABLE, Layout},
};
use droveway_host::Netns;
use std::{
    io::{self, Write},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
};

/// A program that the lab runs, and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const IP: Tool = Tool { program: "ip", package: "iproute2" };
pub(crate) const TC: Tool = Tool { program: "tc", package: "iproute2" };
pub(crate) const NFT: Tool = Tool { program: "nft", package: "nftables" };
pub(crate) const ETHTOOL: Tool = Tool { program: "ethtool", package: "ethtool" };
pub(crate) const IPERF3: Tool = Tool { program: "iperf3", package: "iperf3" };
pub(crate) const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };

impl Tool {
    /// Whether it is installed.
    pub(crate) fn check(self) -> Result<(), LabError> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&paths).any(|dir| dir.join(self.program).is_file()) {
            Ok(())
        } else {
            Err(self.missing())
        }
    }

    fn missing(self) -> LabError {
        LabError::MissingProgram { program: self.program.to_owned(), package: self.package }
    }

    /// Runs it for a lab in a namespace; its complaint is the error.
    pub(crate) fn run(
        self,
        layout: &Layout,
        netns: &Netns,
        arguments: &[&str],
    ) -> Result<(), LabError> {
        self.feed(layout, netns, arguments, "")
    }

    /// Runs `-batch` with these commands, one a line, until one fails.
    pub(crate) fn batch(
        self,
        layout: &Layout,
        netns: &Netns,
        commands: &str,
    ) -> Result<(), LabError> {
        if commands.is_empty() {
            return Ok(());
        }
        self.feed(layout, netns, &["-batch", "-"], commands)
    }

    /// Runs `-f` with this text: all of it is done, or nothing.
    pub(crate) fn read(self, layout: &Layout, netns: &Netns, text: &str) -> Result<(), LabError> {
        self.feed(layout, netns, &["-f", "-"], text)
    }

    fn feed(
        self,
        layout: &Layout,
        netns: &Netns,
        arguments: &[&str],
        input: &str,
    ) -> Result<(), LabError> {
        let mut command = netns.command(self.program);
        // Marked as the lab's: a batch that outlives a killed `up` must not go on behind the back of `down`.
        command.args(arguments).env(LAB_VARIABLE, &layout.name);
        let (succeeded, complaint) = output(command, input).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return self.missing();
            }
            let action = format!("run {}", self.program);
            LabError::Tool { action, said: error.to_string() }
        })?;
        if succeeded {
            return Ok(());
        }
        let failed = failed_line(&complaint).and_then(|number| input.lines().nth(number - 1));
        let what = failed.map_or_else(|| arguments.join(" "), str::to_owned);
        // One line, and not a program of classic BPF.
        let what: String = what.chars().take(200).collect();
        Err(LabError::Tool {
            action: format!("run '{} {what}' in {netns}", self.program),
            said: first_words(&complaint),
        })
    }
}

fn output(mut command: Command, input: &str) -> io::Result<(bool, String)> {
    end_with_parent(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A tool that stops at an error reads no further: its complaint says more than the broken pipe.
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let output = child.wait_with_output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    })
}

/// A tool ends with the program that runs it: one that goes on after a killed `up` would build while `down` removes, and is
/// not to be found between its fork, when it still has our environment, and its exec.
fn end_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let end = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::Error::other("orphaned")) }
    };
    // SAFETY: between fork and exec it makes two system calls and touches no memory of ours.
    unsafe { command.pre_exec(end) };
}

/// The line that `-batch` stopped at: `Command failed -:7`.
fn failed_line(complaint: &str) -> Option<usize> {
    let line = complaint.lines().find_map(|line| line.strip_prefix("Command failed -:"))?;
    line.trim().parse().ok().filter(|number| *number > 0)
}

fn first_words(complaint: &str) -> String {
    let line = complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    line.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_failed_command_is_named() {
        let complaint = "RTNETLINK answers: File exists\nCommand failed -:2\n";
        assert_eq!(failed_line(complaint), Some(2));
        assert_eq!(first_words(complaint), "RTNETLINK answers: File exists");
        assert_eq!(failed_line("Error: unknown"), None);
        assert_eq!(first_words("\n"), "it says nothing");
    }

    #[test]
    fn a_missing_tool_says_where_it_comes_from() {
        let layout = Layout::new(Path::new("/run/x"), "demo");
        let tool = Tool { program: "droveway-nothing", package: "nothing-utils" };
        let error = tool.run(&layout, &Netns::own(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "droveway-nothing not found: apt-get install nothing-utils");
        assert_eq!(error.exit_code(), 4);
        assert!(tool.check().is_err());
    }
}
