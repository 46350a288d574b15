//! Placeholder until the renderer's file replaces it.
use droveway_fleet::RunReport;
pub(crate) fn markdown(_r: &RunReport) -> String {
    String::new()
}
pub(crate) fn terminal(r: &RunReport, _c: bool) -> String {
    serde_json::to_string_pretty(&r.vms).unwrap()
}
pub(crate) fn side_by_side(_r: &[RunReport]) -> String {
    String::new()
}
pub(crate) fn timeline(_r: &RunReport) -> Result<String, String> {
    Ok(String::new())
}
