//! Builds what the lab's guests boot: a kernel and an initial ramdisk.
//!
//! The kernel comes from the distribution's package for virtual machines, which is downloaded and unpacked
//! but never installed. The ramdisk holds `droveway-guest` as `/init`, the few kernel modules that a virtio
//! card needs, busybox, and the programs that scenarios run (iperf3, memcached, sysbench) with their
//! libraries, taken from this system. A key over all inputs is kept in `image.json`: while it stays the
//! same, nothing is built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

/// Part of the key: raise it whenever this file changes what goes into the image.
const BUILDER_VERSION: u32 = 1;

/// The guest is built for this target, statically, because the ramdisk has no C library for it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Program, and the Debian (and Ubuntu) package that has it.
const PROGRAMS: [(&str, &str); 4] = [
    ("busybox", "busybox-static"),
    ("iperf3", "iperf3"),
    ("memcached", "memcached"),
    ("sysbench", "sysbench"),
];

/// What busybox is called as in the guest: `ip` by the guest's init, the rest by people who look inside.
const BUSYBOX_NAMES: [&str; 17] = [
    "sh", "ip", "ps", "top", "cat", "free", "dmesg", "ls", "mount", "umount", "ping", "kill",
    "grep", "head", "tail", "sleep", "uptime",
];

/// Kernel modules that a guest needs, with whatever they depend on; those built in are left out.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Packages that depend on the newest kernel for virtual machines: Debian's and Ubuntu's.
const KERNEL_META_PACKAGES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-virtual"];

/// Directories where programs are looked for, beside those of `PATH`, which often lacks `sbin`.
const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// A directory with `vmlinuz`, `initrd.gz` and `image.json` (what went into them).
#[derive(Debug)]
pub(crate) struct GuestImage {
    pub(crate) dir: PathBuf,
}

/// Builds the image in `out_dir`, unless one of the same inputs is there. Downloads are kept beside it.
pub(crate) fn ensure(
    workspace_root: &Path,
    out_dir: &Path,
    log: impl Fn(&str),
) -> Result<GuestImage> {
    ensure!(
        cfg!(all(target_arch = "x86_64", target_os = "linux")),
        "the guest image can only be built on x86-64 Linux"
    );
    fs::create_dir_all(out_dir).with_context(|| format!("cannot create {}", out_dir.display()))?;
    // Absolute, because tools are started in other directories.
    let out_dir = out_dir.canonicalize()?;
    let cache_dir = out_dir.parent().unwrap_or(&out_dir).join("guest-image-cache");
    fs::create_dir_all(&cache_dir)
        .with_context(|| format!("cannot create {}", cache_dir.display()))?;
    // Two builds at once would mix their files; the second waits and then finds the first one's image.
    let lock = fs::File::create(cache_dir.join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("cannot lock the guest image's cache")?;

    log("guest image: building the guest's init");
    let init = build_guest(workspace_root)?;
    let userland = Userland::collect()?;
    let kernel = KernelPackage::find()?;
    let key = key(&init, &userland, &kernel);
    let image = GuestImage { dir: out_dir };
    if image.is_current(&key) {
        log("guest image: up to date");
        return Ok(image);
    }

    log(&format!("guest image: fetching {} {}", kernel.image.name, kernel.image.version));
    let kernel_files = KernelFiles::fetch(&kernel, &cache_dir)?;
    log(&format!("guest image: packing for kernel {}", kernel_files.release));
    let ramdisk = ramdisk(init, &userland, &kernel_files);
    image.write(&key, &ramdisk, &userland, &kernel, &kernel_files)?;
    log(&format!("guest image: written to {}", image.dir.display()));
    Ok(image)
}

impl GuestImage {
    fn is_current(&self, key: &str) -> bool {
        let complete = ["vmlinuz", "initrd.gz"].iter().all(|name| self.dir.join(name).is_file());
        let recorded = fs::read(self.dir.join("image.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        complete && recorded.is_some_and(|image| image["key"] == key)
    }

    /// Replaces each file at once; `image.json` goes first and comes last, so that it never vouches for
    /// half an image. Guests that are running keep the files they have opened.
    fn write(
        &self,
        key: &str,
        ramdisk: &Ramdisk,
        userland: &Userland,
        kernel: &KernelPackage,
        kernel_files: &KernelFiles,
    ) -> Result<()> {
        let archive = ramdisk.archive().context("cannot pack the ramdisk")?;
        // Measured: level 9 gains half a percent and takes three times as long as level 6.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(6));
        gzip.write_all(&archive)?;
        let initrd = gzip.finish()?;
        let description = json!({
            "key": key,
            "builder": BUILDER_VERSION,
            "kernel": {
                "release": kernel_files.release,
                "package": kernel.image.name,
                "version": kernel.image.version,
            },
            "modules": kernel_files.modules.iter().map(|module| &module.file_name).collect::<Vec<_>>(),
            "packages": userland.packages,
            "initrdBytes": initrd.len(),
            "unpackedBytes": archive.len(),
        });
        let record = self.dir.join("image.json");
        if record.exists() {
            fs::remove_file(&record)?;
        }
        self.replace("vmlinuz", &kernel_files.vmlinuz)?;
        self.replace("initrd.gz", &initrd)?;
        self.replace("image.json", format!("{description:#}\n").as_bytes())
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let partial = self.dir.join(format!("{name}.partial"));
        let path = self.dir.join(name);
        fs::write(&partial, content)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Names what an image is made of. Libraries are covered by their content, so that an upgrade of any of
/// them makes a new image.
fn key(init: &[u8], userland: &Userland, kernel: &KernelPackage) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.write_usize(bytes.len());
        hasher.write(bytes);
    };
    add(init);
    for (path, content) in &userland.files {
        add(path.as_bytes());
        add(content);
    }
    for (package, version) in &userland.packages {
        add(package.as_bytes());
        add(version.as_bytes());
    }
    format!(
        "{BUILDER_VERSION}/{}={}/{:016x}",
        kernel.image.name,
        kernel.image.version,
        hasher.finish()
    )
}

/// Builds the static `/init` in a target directory of its own: its flags would otherwise rebuild the whole
/// workspace each time.
fn build_guest(workspace_root: &Path) -> Result<Vec<u8>> {
    let target_dir = workspace_root.join("target/guest-build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace_root)
        .args(["build", "--quiet", "--release", "--package", "droveway-guest", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        // Would win over RUSTFLAGS.
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut command, "cargo").context(
        "cannot build the guest's init (Debian packages: gcc, libc6-dev; Rust's own standard library)",
    )?;
    let binary = target_dir.join(TARGET).join("release/droveway-guest");
    fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))
}

/// Programs and libraries of this system, by their path in the guest.
#[derive(Debug)]
struct Userland {
    files: BTreeMap<String, Vec<u8>>,
    /// Versions, by package.
    packages: BTreeMap<String, String>,
    busybox: String,
}

impl Userland {
    fn collect() -> Result<Self> {
        let mut paths = BTreeSet::new();
        let mut packages = BTreeMap::new();
        let mut busybox = String::new();
        for (program, package) in PROGRAMS {
            let path = find_program(program, package)?;
            paths.extend(libraries(&path)?);
            packages.insert(package.to_owned(), installed_version(package));
            if program == "busybox" {
                busybox.clone_from(&path);
            }
            paths.insert(path);
        }
        let files = paths
            .into_iter()
            .map(|path| {
                let content = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
                Ok((path, content))
            })
            .collect::<Result<_>>()?;
        Ok(Self { files, packages, busybox })
    }
}

fn find_program(program: &str, package: &str) -> Result<String> {
    let on_path = std::env::var("PATH").unwrap_or_default();
    PROGRAM_DIRS
        .into_iter()
        .chain(on_path.split(':'))
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0))
        .and_then(|path| path.to_str().map(str::to_owned))
        .with_context(|| format!("{program} is missing: install the Debian package {package}"))
}

/// Unknown versions don't matter much: the content is part of the key.
fn installed_version(package: &str) -> String {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${Version}", package]);
    run(&mut command, "dpkg").unwrap_or_else(|_| "unknown".to_owned())
}

/// The libraries and the loader of a program; none if it is static.
fn libraries(program: &str) -> Result<BTreeSet<String>> {
    // `ldd` fails for static programs, and says so; anything else it cannot do shows when the guest boots.
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot run ldd: install the Debian package libc-bin")?;
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("cannot find the libraries of {program}"))
}

fn parse_ldd(output: &str) -> Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    for line in output.lines().map(str::trim) {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        if place == "not found" {
            bail!("library not found: {line}");
        }
        if let Some((path, _)) = place.split_once(" (0x").filter(|(path, _)| path.starts_with('/'))
        {
            paths.insert(path.to_owned());
        }
    }
    Ok(paths)
}

/// A package in a version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

/// The kernel, and its modules where they are packaged apart (Ubuntu).
#[derive(Debug)]
struct KernelPackage {
    image: Package,
    modules: Option<Package>,
}

impl KernelPackage {
    fn find() -> Result<Self> {
        let known = KERNEL_META_PACKAGES.into_iter().find_map(|meta| {
            let stanzas = apt_show(meta).ok()?;
            preferred(&stanzas, is_debian_12()).cloned()
        });
        let meta = known.with_context(|| {
            format!(
                "apt knows no kernel package ({}): run `apt-get update` first",
                KERNEL_META_PACKAGES.join(", ")
            )
        })?;
        let image = meta.dependency("linux-image-")?.context("the meta package has no kernel")?;
        let details = apt_show(&format!("{}={}", image.name, image.version))?;
        let details = details.first().context("apt knows nothing about the kernel package")?;
        Ok(Self { modules: details.dependency("linux-modules-")?, image })
    }
}

/// One version of a package, as `apt-cache show` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stanza {
    version: String,
    depends: String,
}

impl Stanza {
    /// The first dependency whose name starts so, in the version asked for, else in the candidate's.
    fn dependency(&self, prefix: &str) -> Result<Option<Package>> {
        let Some((name, version)) = dependency(&self.depends, prefix) else {
            return Ok(None);
        };
        let version = match version {
            Some(version) => version,
            None => {
                apt_show(&name)?
                    .into_iter()
                    .next()
                    .with_context(|| format!("apt knows no package {name}"))?
                    .version
            }
        };
        Ok(Some(Package { name, version }))
    }
}

/// In a `Depends:` line, the first package whose name starts so and, if it says `(= VERSION)`, the version.
fn dependency(depends: &str, prefix: &str) -> Option<(String, Option<String>)> {
    depends.split([',', '|']).map(str::trim).find(|word| word.starts_with(prefix)).map(|word| {
        let (name, rest) = word.split_once(' ').unwrap_or((word, ""));
        let version = rest.trim().strip_prefix("(=").and_then(|rest| rest.strip_suffix(')'));
        (name.to_owned(), version.map(|version| version.trim().to_owned()))
    })
}

fn apt_show(package: &str) -> Result<Vec<Stanza>> {
    let output = run(Command::new("apt-cache").args(["show", package]), "apt")?;
    Ok(parse_stanzas(&output))
}

fn parse_stanzas(output: &str) -> Vec<Stanza> {
    let field = |stanza: &str, key: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
    };
    output
        .split("\n\n")
        .filter_map(|stanza| {
            let version = field(stanza, "Version:")?;
            Some(Stanza { version, depends: field(stanza, "Depends:").unwrap_or_default() })
        })
        .collect()
}

/// Debian 12's own kernel is 6.1; the one from its backports boots with fewer modules. Elsewhere the newest.
fn preferred(stanzas: &[Stanza], backports: bool) -> Option<&Stanza> {
    let own = |stanza: &&Stanza| stanza.version.contains("~bpo") == backports;
    stanzas.iter().find(own).or(stanzas.first())
}

fn is_debian_12() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    ["ID=debian", "VERSION_ID=\"12\""].iter().all(|line| release.lines().any(|have| have == *line))
}

/// What the guest needs of an unpacked kernel package.
#[derive(Debug)]
struct KernelFiles {
    release: String,
    vmlinuz: Vec<u8>,
    /// In the order in which they have to be loaded.
    modules: Vec<Module>,
}

#[derive(Debug)]
struct Module {
    file_name: String,
    content: Vec<u8>,
}

impl KernelFiles {
    fn fetch(kernel: &KernelPackage, cache_dir: &Path) -> Result<Self> {
        let image = unpack(&kernel.image, cache_dir)?;
        let modules = match &kernel.modules {
            Some(package) => unpack(package, cache_dir)?,
            None => image.clone(),
        };
        let (release, vmlinuz) = find_vmlinuz(&image)?;
        let tree = ["lib/modules", "usr/lib/modules"]
            .map(|dir| modules.join(dir).join(&release))
            .into_iter()
            .find(|dir| dir.is_dir())
            .with_context(|| format!("the kernel package has no modules of {release}"))?;
        Ok(Self {
            vmlinuz: fs::read(&vmlinuz)
                .with_context(|| format!("cannot read {}", vmlinuz.display()))?,
            modules: ModuleTree::read(&tree)?.resolve(&MODULES)?,
            release,
        })
    }
}

/// Downloads a package and unpacks it in the cache, unless it is there already.
fn unpack(package: &Package, cache_dir: &Path) -> Result<PathBuf> {
    let done = cache_dir.join(format!("{}_{}", package.name, package.version));
    if done.is_dir() {
        return Ok(done);
    }
    let partial = cache_dir.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let wanted = format!("{}={}", package.name, package.version);
    let mut download = Command::new("apt-get");
    // Without the option, root's download warns that the user _apt cannot write here.
    download.args(["-q", "-o", "APT::Sandbox::User=root", "download", &wanted]);
    run(download.current_dir(&partial), "apt")
        .with_context(|| format!("cannot download {wanted} (stale lists? run `apt-get update`)"))?;
    let deb = fs::read_dir(&partial)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no package for {wanted}"))?;
    let root = partial.join("root");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root), "dpkg")?;
    fs::rename(&root, &done)?;
    fs::remove_dir_all(&partial)?;
    Ok(done)
}

fn find_vmlinuz(image: &Path) -> Result<(String, PathBuf)> {
    let boot = image.join("boot");
    fs::read_dir(&boot)
        .with_context(|| format!("cannot read {}", boot.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find_map(|path| {
            let release = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
            Some((release, path))
        })
        .context("the kernel package has no boot/vmlinuz-*")
}

/// The modules of one kernel. Dependencies are read from the modules themselves: packages have no
/// `modules.dep`, which only an installation makes.
#[derive(Debug)]
struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl ModuleTree {
    fn read(dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in
                fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?
            {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    pending.push(entry.path());
                } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
                    files.insert(name, entry.path());
                }
            }
        }
        let built_in = fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
        let built_in =
            built_in.lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect();
        Ok(Self { files, built_in })
    }

    fn resolve(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        for name in wanted {
            self.add(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Depth first: what a module depends on is loaded before it.
    fn add(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("the kernel has no module {name}, nor is it built in"))?;
        let content = read_module(path)?;
        for dependency in module_dependencies(&content) {
            self.add(&dependency, seen, order)?;
        }
        order.push(Module { file_name: format!("{name}.ko"), content });
        Ok(())
    }
}

/// `virtio-rng.ko.xz` is module `virtio_rng`.
fn module_name(file_name: &str) -> Option<String> {
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .into_iter()
        .find_map(|suffix| file_name.strip_suffix(suffix))?;
    Some(stem.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let (tool, package) = match extension {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    run_for_bytes(Command::new(tool).arg("-dc").arg(path), package)
}

/// The `depends=` entry of a module's information section, a list of `key=value` strings, each closed by
/// a zero byte.
fn module_dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// The files of the ramdisk, by path without the leading slash; parents are added when it is packed.
#[derive(Debug, Default)]
struct Ramdisk(BTreeMap<String, Node>);

#[derive(Debug)]
enum Node {
    Dir,
    File { content: Vec<u8>, mode: u32 },
    Link { to: String },
    CharDevice { major: u32, minor: u32 },
}

fn ramdisk(init: Vec<u8>, userland: &Userland, kernel: &KernelFiles) -> Ramdisk {
    let mut ramdisk = Ramdisk::default();
    ramdisk.add("init", Node::File { content: init, mode: 0o755 });
    for (path, content) in &userland.files {
        ramdisk.add(path, Node::File { content: content.clone(), mode: 0o755 });
    }
    for name in BUSYBOX_NAMES {
        ramdisk.add(&format!("bin/{name}"), Node::Link { to: userland.busybox.clone() });
    }
    let mut order = String::new();
    for module in &kernel.modules {
        order.push_str(&module.file_name);
        order.push('\n');
        let path = format!("modules/{}", module.file_name);
        ramdisk.add(&path, Node::File { content: module.content.clone(), mode: 0o644 });
    }
    for (path, content) in [
        ("modules/order", order.as_str()),
        // memcached looks its user up.
        ("etc/passwd", "root:x:0:0:root:/:/bin/sh\n"),
        ("etc/group", "root:x:0:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
    ] {
        ramdisk.add(path, Node::File { content: content.into(), mode: 0o644 });
    }
    for path in ["dev", "proc", "sys", "tmp", "run"] {
        ramdisk.add(path, Node::Dir);
    }
    // The kernel opens it for /init before /init can mount anything.
    ramdisk.add("dev/console", Node::CharDevice { major: 5, minor: 1 });
    ramdisk
}

impl Ramdisk {
    fn add(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Dir);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// The newc archive. Sorted by path, so that a directory comes before what is in it; without times, so
    /// that the same inputs give the same bytes.
    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (number, (path, node)) in (1_u32..).zip(&self.0) {
            let entry = cpio::newc::Builder::new(path).ino(number);
            let (entry, content) = match node {
                Node::Dir => (entry.mode(0o040_755).nlink(2), [].as_slice()),
                Node::File { content, mode } => (entry.mode(0o100_000 | mode), content.as_slice()),
                Node::Link { to } => (entry.mode(0o120_777), to.as_bytes()),
                Node::CharDevice { major, minor } => {
                    (entry.mode(0o020_600).rdev_major(*major).rdev_minor(*minor), [].as_slice())
                }
            };
            let size =
                u32::try_from(content.len()).with_context(|| format!("{path} is too big"))?;
            let mut writer = entry.write(&mut archive, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        cpio::newc::trailer(&mut archive)?;
        Ok(archive)
    }
}

fn run(command: &mut Command, package: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&run_for_bytes(command, package)?).into_owned())
}

/// Runs a tool and returns what it printed; its failure carries what it complained about.
fn run_for_bytes(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {tool}: install the Debian package {package}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!("{tool} failed ({}): {}", output.status, complaint.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_read_from_ldd() {
        let output = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f1)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let paths: Vec<String> = parse_ldd(output).expect("valid").into_iter().collect();
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(parse_ldd("\tnot a dynamic executable\n").expect("static").is_empty());
        let error = parse_ldd("\tlibx.so.1 => not found\n").expect_err("missing").to_string();
        assert!(error.contains("libx.so.1"), "{error}");
    }

    const STANZAS: &str = "Package: linux-image-cloud-amd64\nVersion: 6.12.9-1~bpo12+1\n\
        Depends: linux-image-6.12.9-cloud-amd64 (= 6.12.9-1~bpo12+1)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\n\
        Depends: initramfs-tools, linux-image-6.1.0-56-cloud-amd64\n";

    #[track_caller]
    fn check_kernel(backports: bool, name: &str, version: Option<&str>) {
        let stanzas = parse_stanzas(STANZAS);
        let chosen = preferred(&stanzas, backports).expect("two");
        let found = dependency(&chosen.depends, "linux-image-").expect("a kernel");
        assert_eq!(found, (name.to_owned(), version.map(str::to_owned)));
    }

    #[test]
    fn backports_are_taken_where_they_are_preferred() {
        check_kernel(true, "linux-image-6.12.9-cloud-amd64", Some("6.12.9-1~bpo12+1"));
        check_kernel(false, "linux-image-6.1.0-56-cloud-amd64", None);
        assert_eq!(dependency("libc6 (>= 2.3)", "linux-modules-"), None);
        assert_eq!(preferred(&[], true), None);
    }

    #[test]
    fn module_names_and_dependencies_are_normalised() {
        assert_eq!(module_name("virtio-rng.ko.xz").as_deref(), Some("virtio_rng"));
        assert_eq!(module_name("failover.ko").as_deref(), Some("failover"));
        assert_eq!(module_name("modules.order"), None);
        let module = b"ELF\0license=GPL\0depends=net_failover,virtio-ring\0name=virtio_net\0";
        assert_eq!(module_dependencies(module), ["net_failover", "virtio_ring"]);
        assert!(module_dependencies(b"\0depends=\0name=failover\0").is_empty());
    }

    #[test]
    fn the_archive_has_parents_before_children() {
        let mut ramdisk = Ramdisk::default();
        ramdisk.add("/usr/bin/x", Node::File { content: b"12345".to_vec(), mode: 0o755 });
        ramdisk.add("bin/sh", Node::Link { to: "/usr/bin/x".to_owned() });
        let archive = ramdisk.archive().expect("packed");
        let mut rest = archive.as_slice();
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(rest).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            names.push(format!("{:o} {}", reader.entry().mode(), reader.entry().name()));
            rest = reader.finish().expect("its end");
        }
        assert_eq!(
            names,
            ["40755 bin", "120777 bin/sh", "40755 usr", "40755 usr/bin", "100755 usr/bin/x"]
        );
    }
}
