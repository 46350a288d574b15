//! Placeholder until the traffic engineer's file replaces it.
pub fn run(_f: &std::path::Path) -> anyhow::Result<()> { Ok(()) }
pub fn read_log<T>(_p: &std::path::Path) -> std::io::Result<Vec<T>> { Ok(vec![]) }
