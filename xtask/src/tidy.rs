//! What no compiler checks: that the pure crates are pure, and that files stay readable.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// The crates above the line: no clock, entropy, socket, file, thread or async runtime.
const PURE: [&str; 5] =
    ["droveway-fleet", "droveway-model", "droveway-plan", "droveway-drive", "droveway-sim"];

/// Everything that the pure crates may depend on, themselves and at any depth. A new name here is a decision: it must not
/// touch the world.
const PURE_DEPENDENCIES: &[&str] = &[
    "ahash",
    "annotate-snippets",
    "anstyle",
    "arraydeque",
    "autocfg",
    "base64",
    "cfg-if",
    "core_detect",
    "dyn-clone",
    "encoding_rs",
    "encoding_rs_io",
    "granit-parser",
    "itoa",
    "memchr",
    "multiversion_no_op",
    "nohash-hasher",
    "num-traits",
    "proc-macro2",
    "quote",
    "ref-cast",
    "ref-cast-impl",
    "ryu",
    "schemars",
    "schemars_derive",
    "scopeguard",
    "serde",
    "serde-saphyr",
    "serde_core",
    "serde_derive",
    "serde_derive_internals",
    "serde_json",
    "serde_path_to_error",
    "simdutf8",
    "smallvec",
    "strsim",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "unicode-width",
    "zmij",
];

/// What the source of a pure crate never says, tests aside.
const BANNED: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
    "std::os",
    "tokio",
    "async fn",
    "rand::",
    "thread_rng",
    "RandomState",
    "HashMap",
    "HashSet",
    "unsafe ",
];

/// A file this long hides a second idea.
const LINES_MAX: usize = 800;

pub(crate) fn run(root: &Path) -> Result<()> {
    let mut findings = impure_dependencies(root)?;
    for name in PURE {
        for file in sources(&root.join("crates").join(name).join("src"))? {
            findings.extend(banned_words(&file)?);
        }
    }
    for folder in ["crates", "xtask"] {
        for file in sources(&root.join(folder))? {
            let lines = fs::read_to_string(&file)?.lines().count();
            if lines > LINES_MAX {
                findings.push(format!("{}: {lines} lines, at most {LINES_MAX}", file.display()));
            }
        }
    }
    if findings.is_empty() {
        println!("tidy: {} pure crates are pure, no file is over {LINES_MAX} lines", PURE.len());
        return Ok(());
    }
    bail!("tidy found:\n  {}", findings.join("\n  "))
}

/// The dependency closure of the pure crates, development and build dependencies aside, against the allowed names.
fn impure_dependencies(root: &Path) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .context("starting cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut names = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if let (Some(id), Some(name)) = (package["id"].as_str(), package["name"].as_str()) {
            names.insert(id, name);
        }
    }
    let mut graph: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let Some(id) = node["id"].as_str() else { continue };
        let normal = |dependency: &&Value| {
            dependency["dep_kinds"].as_array().into_iter().flatten().any(|k| k["kind"].is_null())
        };
        let dependencies = node["deps"].as_array().into_iter().flatten().filter(normal);
        graph.insert(id, dependencies.filter_map(|d| d["pkg"].as_str()).collect());
    }
    let mut findings = Vec::new();
    for pure in PURE {
        let Some((root_id, _)) = names.iter().find(|(_, name)| **name == pure) else {
            bail!("there is no crate {pure}");
        };
        let mut seen = BTreeSet::new();
        let mut open = vec![*root_id];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(graph.get(id).into_iter().flatten());
            }
        }
        let used = seen.iter().filter_map(|id| names.get(id)).copied();
        for name in used.filter(|name| !PURE.contains(name) && !PURE_DEPENDENCIES.contains(name)) {
            findings.push(format!("{pure} depends on {name}, which is not known to be pure"));
        }
    }
    Ok(findings)
}

fn banned_words(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let is_test = file.components().any(|part| part.as_os_str() == "tests")
        || file.file_name().is_some_and(|name| name == "tests.rs");
    if is_test {
        return Ok(Vec::new());
    }
    // Unit tests stand at the end of a file, behind this line.
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(&text);
    let mut findings = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let statement = line.split("//").next().unwrap_or(line);
        for word in BANNED.iter().filter(|word| statement.contains(**word)) {
            findings.push(format!("{}:{}: {word} in a pure crate", file.display(), index + 1));
        }
    }
    Ok(findings)
}

fn sources(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pure_crates_are_pure() {
        run(&crate::workspace_root()).unwrap();
    }

    #[test]
    fn an_impure_line_is_found() {
        let folder = std::env::temp_dir().join(format!("droveway-tidy-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("impure.rs");
        fs::write(&file, "// std::fs is fine here\nfn now() { std::time::Instant::now(); }\n")
            .unwrap();
        let findings = banned_words(&file).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("impure.rs:2"));
    }
}
