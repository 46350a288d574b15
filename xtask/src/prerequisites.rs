//! What the lab needs from the system, and how to get it. Prints what is missing and how it will be installed; asks first
//! when a person sits at the terminal.

use crate::run;
use anyhow::{Context as _, Result, bail};
use std::{
    fmt, fs,
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::Command,
};

/// The oldest QEMU whose post-copy has the preempt channel and whose events we know.
const QEMU_MAJOR_MIN: u32 = 8;

const BACKPORTS_LIST: &str = "/etc/apt/sources.list.d/droveway-backports.list";

/// The task needs root and does not have it.
#[derive(Debug)]
pub(crate) struct NotRoot;

impl fmt::Display for NotRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "root is needed for network namespaces and packages: run it as root, for example with \
             `sudo -E env PATH=\"$PATH\" cargo xtask ..`"
        )
    }
}

impl std::error::Error for NotRoot {}

/// A program and the package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("iperf3", "iperf3"),
    ("sysbench", "sysbench"),
    ("memcached", "memcached"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("dpkg-deb", "dpkg"),
    ("cc", "gcc"),
];

/// What the machine is, as far as it matters for packages.
struct System {
    id: String,
    codename: String,
}

impl System {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        Ok(System { id: field("ID"), codename: field("VERSION_CODENAME") })
    }

    fn is_bookworm(&self) -> bool {
        self.id == "debian" && self.codename == "bookworm"
    }
}

/// A real terminal without a screen, and a font that has every sign of ours.
pub(crate) const TERMINAL: &[(&str, &str)] = &[
    ("Xvfb", "xvfb"),
    ("xterm", "xterm"),
    ("/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf", "fonts-dejavu-core"),
];

/// Installs what is missing of what the lab needs.
pub(crate) fn ensure(yes: bool) -> Result<()> {
    ensure_with(yes, &[])
}

/// The same, and what a task needs beside: programs, or files by their path, and the packages that bring them.
pub(crate) fn ensure_with(yes: bool, more: &[(&'static str, &'static str)]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(NotRoot.into());
    }
    let system = System::read()?;
    let plain = missing_packages(more);
    let qemu = qemu_missing();
    // The guest's kernel comes from backports there too: it has virtio built in.
    let backports = system.is_bookworm() && !has_backports();
    if plain.is_empty() && qemu.is_none() && !backports {
        return Ok(());
    }
    if which("apt-get").is_none() {
        bail!(
            "missing: {}; only Debian and Ubuntu are installed automatically, please install these \
             with your package manager",
            plain
                .iter()
                .copied()
                .chain(qemu.iter().map(|_| "qemu-system-x86 (8 or newer)"))
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    println!("Missing on this machine:");
    if backports {
        println!("  the package source bookworm-backports ({BACKPORTS_LIST})");
    }
    for package in &plain {
        println!("  {package}");
    }
    if let Some(reason) = &qemu {
        println!("  qemu-system-x86 ({reason})");
    }
    agreed(yes)?;
    if backports {
        fs::write(BACKPORTS_LIST, "deb http://deb.debian.org/debian bookworm-backports main\n")
            .with_context(|| format!("writing {BACKPORTS_LIST}"))?;
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    if !plain.is_empty() {
        apt_install(&plain, None)?;
    }
    if qemu.is_some() {
        let release = system.is_bookworm().then_some("bookworm-backports");
        apt_install(&["qemu-system-x86"], release)?;
    }
    let still = missing_packages(more);
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(", "));
    }
    match qemu_missing() {
        Some(reason) => bail!("qemu-system-x86 is still missing after the installation: {reason}"),
        None => Ok(()),
    }
}

/// Installs what gives a program another wall clock than the machine's, if it is missing: few tasks need it.
pub(crate) fn ensure_clock(yes: bool) -> Result<()> {
    const PACKAGE: &str = "libfaketime";
    if crate::faults::clock_library().is_ok() {
        return Ok(());
    }
    if which("apt-get").is_none() {
        bail!("missing: {PACKAGE}; please install it with your package manager");
    }
    println!("Missing on this machine:\n  {PACKAGE}");
    agreed(yes)?;
    run(Command::new("apt-get").args(["update", "-q"]))?;
    apt_install(&[PACKAGE], None)?;
    crate::faults::clock_library().map(drop)
}

fn missing_packages(more: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<_> = PROGRAMS
        .iter()
        .chain(more)
        .filter(|(program, _)| which(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !has_static_busybox() {
        packages.push("busybox-static");
    }
    if !Path::new("/usr/lib/x86_64-linux-gnu/libc.a").exists() {
        packages.push("libc6-dev");
    }
    packages.dedup();
    packages
}

fn has_static_busybox() -> bool {
    ["/bin/busybox", "/usr/bin/busybox"].iter().any(|path| {
        // A program without an interpreter is static.
        fs::read(path).is_ok_and(|bytes| !bytes.windows(11).any(|part| part == b"/ld-linux-x"))
    })
}

/// Why QEMU must be installed, if it must.
fn qemu_missing() -> Option<String> {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().ok();
    let Some(output) = output else { return Some("not installed".to_owned()) };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let major = text
        .split("version ")
        .nth(1)
        .and_then(|rest| rest.split('.').next())
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= QEMU_MAJOR_MIN => None,
        Some(major) => Some(format!("version {major} is too old, {QEMU_MAJOR_MIN} is needed")),
        None => Some("its version cannot be read".to_owned()),
    }
}

fn has_backports() -> bool {
    let listed = |path: &Path| {
        fs::read_to_string(path).is_ok_and(|text| {
            text.lines().any(|line| {
                !line.trim_start().starts_with('#') && line.contains("bookworm-backports")
            })
        })
    };
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    listed(Path::new("/etc/apt/sources.list")) || parts.into_iter().any(|part| listed(&part.path()))
}

fn agreed(yes: bool) -> Result<()> {
    if yes || !std::io::stdin().is_terminal() {
        println!("Installing with apt-get.");
        return Ok(());
    }
    print!("Install with apt-get? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was installed; install the packages above yourself, or answer y");
    }
    Ok(())
}

fn apt_install(packages: &[&str], release: Option<&str>) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["install", "-y", "-q", "--no-install-recommends"]);
    if let Some(release) = release {
        command.args(["-t", release]);
    }
    run(command.args(packages))
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].into_iter().map(std::path::PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|p| p.exists())
}
