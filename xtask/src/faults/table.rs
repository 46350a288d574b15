//! The trials as rows: a line each as they go, a file, and a matrix of faults and techniques at the end.

use super::{
    case::{Case, Fault, Technique},
    judge::End,
};
use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use std::{collections::BTreeMap, fmt::Write as _};

/// The first line of the file.
pub(super) const HEADER: &str =
    "fault,technique,number,at_s,phases,what,exit,run_s,results,back_after_s,lost_after_s,end";
const COLUMNS: usize = 12;
/// How a trial ended that did not hold.
const FAILED: &str = "FAILED";
/// Between these lines of a page the table stands.
const BEGIN: &str = "<!-- cargo xtask faults: begin -->";
const END: &str = "<!-- cargo xtask faults: end -->";

/// One trial, as far as it came.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    /// When the fault happened, seconds from the drain's start.
    pub(super) at: f64,
    /// What the run said of its VMs then.
    pub(super) phases: String,
    /// It had said something.
    pub(super) known: bool,
    /// What was hit, and how hard.
    pub(super) what: String,
    pub(super) code: i32,
    pub(super) seconds: f64,
    /// What the report says of each VM.
    pub(super) results: Vec<String>,
    /// How long after the link's return a post-copy was still seen to be broken.
    pub(super) back_after: Option<f64>,
    /// How long after the fault a VM was called lost.
    pub(super) lost_after: Option<f64>,
    /// How it ended, if all was well.
    pub(super) end: Option<End>,
}

impl Row {
    /// Its line of the file.
    pub(super) fn csv(&self, case: &Case, failed: bool) -> String {
        let seconds = |it: Option<f64>| it.map_or_else(String::new, |it| format!("{it:.2}"));
        let end = if failed { FAILED } else { self.end.map_or(FAILED, End::name) };
        [
            case.fault.name(),
            case.technique.name(),
            case.number.to_string(),
            format!("{:.3}", self.at),
            self.phases.clone(),
            self.what.replace(',', ";"),
            self.code.to_string(),
            format!("{:.2}", self.seconds),
            self.results.join("+"),
            seconds(self.back_after),
            seconds(self.lost_after),
            end.to_owned(),
        ]
        .join(",")
    }

    /// Its line for who watches.
    pub(super) fn line(&self, case: &Case, failed: bool) -> String {
        let end = if failed { FAILED } else { self.end.map_or(FAILED, End::name) };
        let mut line = format!(
            "{:<16} {:<13} {:>2}  {:>6.2} s  {:<26} {:<9} exit {:>3}  {:>5.1} s  {}",
            case.fault.name(),
            case.technique.name(),
            case.number,
            self.at,
            self.phases,
            end,
            self.code,
            self.seconds,
            self.what
        );
        for (what, after) in [("back", self.back_after), ("called lost", self.lost_after)] {
            if let Some(after) = after {
                let _ = write!(line, "; {what} after {after:.2} s");
            }
        }
        line
    }
}

/// How all trials ended: by fault and technique, in the words of the file's last column.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Matrix {
    cells: BTreeMap<(String, String), BTreeMap<String, u32>>,
    /// The longest time after a link's return, and until a loss was told.
    back: Option<f64>,
    lost: Option<f64>,
}

impl Matrix {
    /// From the file's text.
    pub(super) fn read(text: &str) -> Result<Self> {
        let mut matrix = Matrix::default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split(',').collect();
            ensure!(columns.len() == COLUMNS, "a line of {} columns: {line}", columns.len());
            let longest = |so_far: Option<f64>, column: &str| {
                so_far.into_iter().chain(column.parse().ok()).reduce(f64::max)
            };
            matrix.back = longest(matrix.back, columns[9]);
            matrix.lost = longest(matrix.lost, columns[10]);
            let key = (columns[0].to_owned(), columns[1].to_owned());
            *matrix.cells.entry(key).or_default().entry(columns[11].to_owned()).or_default() += 1;
        }
        Ok(matrix)
    }

    fn count(&self, wanted: impl Fn(&str) -> bool) -> u32 {
        let cells = self.cells.values().flatten();
        cells.filter(|(end, _)| wanted(end)).map(|(_, count)| count).sum()
    }

    pub(super) fn failed(&self) -> u32 {
        self.count(|end| end == FAILED)
    }

    /// As a table in Markdown, with what it comes to beneath.
    pub(super) fn table(&self) -> String {
        let techniques = Technique::value_variants().iter().map(|it| it.name());
        let techniques: Vec<String> = techniques.collect();
        let mut text = format!("| fault | {} |\n", techniques.join(" | "));
        text += &format!("| --- |{}\n", " --- |".repeat(techniques.len()));
        for fault in Fault::value_variants().iter().map(|it| it.name()) {
            let row: Vec<String> = techniques.iter().map(|it| self.cell(&fault, it)).collect();
            if row.iter().any(|cell| cell != "-") {
                let _ = writeln!(text, "| `{fault}` | {} |", row.join(" | "));
            }
        }
        let all = self.count(|_| true);
        let _ = writeln!(text, "\n{} of {all} trials kept every promise.", all - self.failed());
        if let Some(back) = self.back {
            let _ = writeln!(
                text,
                "A broken post-copy went on {back:.2} s after its link's return at the latest."
            );
        }
        if let Some(lost) = self.lost {
            let _ = writeln!(
                text,
                "A VM that a killed QEMU took was called lost {lost:.2} s later at the latest."
            );
        }
        text
    }

    fn cell(&self, fault: &str, technique: &str) -> String {
        let Some(ends) = self.cells.get(&(fault.to_owned(), technique.to_owned())) else {
            return "-".to_owned();
        };
        let order = End::ALL.map(End::name).into_iter().chain([FAILED]);
        let of = |end: &'static str| ends.get(end).map(|count| format!("{count} {end}"));
        order.filter_map(of).collect::<Vec<_>>().join(", ")
    }
}

/// A page with a new table in the place of the one that it has.
pub(super) fn with_table(page: &str, table: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("no line '{BEGIN}'"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line '{END}'"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// Whether a line of the file is of a trial in which all held.
pub(super) fn kept_promises(line: &str) -> bool {
    let columns: Vec<&str> = line.split(',').collect();
    columns.len() == COLUMNS && columns[11] != FAILED
}

/// The trials of a file in which all held: fault, technique and number.
pub(super) fn done(text: &str) -> Vec<(String, String, String)> {
    let rows = text.lines().skip(1).filter(|line| kept_promises(line));
    rows.map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>())
        .map(|columns| (columns[0].clone(), columns[1].clone(), columns[2].clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(fault: Fault, number: u32) -> Case {
        Case::draw(1, fault, Technique::PostCopy, number, 5)
    }

    fn row(end: Option<End>) -> Row {
        Row {
            at: 1.25,
            phases: "post-copy+ready".to_owned(),
            known: true,
            what: "one, two".to_owned(),
            code: 7,
            seconds: 6.5,
            results: vec!["lost".to_owned(), "completed".to_owned()],
            back_after: Some(0.75),
            lost_after: Some(0.125),
            end,
        }
    }

    fn file() -> String {
        let rows = [
            row(Some(End::Lost)).csv(&case(Fault::KillTarget, 1), false),
            row(Some(End::Moved)).csv(&case(Fault::KillTarget, 2), false),
            row(Some(End::Moved)).csv(&case(Fault::Loss, 1), true),
            row(None).csv(&case(Fault::Loss, 2), false),
        ];
        format!("{HEADER}\n{}\n", rows.join("\n"))
    }

    #[test]
    fn rows_have_the_columns_of_their_header() {
        assert_eq!(HEADER.split(',').count(), COLUMNS);
        let text = file();
        assert!(text.lines().all(|line| line.split(',').count() == COLUMNS), "{text}");
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line,
            "kill-target,post-copy,1,1.250,post-copy+ready,one; two,7,6.50,lost+completed,0.75,0.12,lost"
        );
    }

    #[test]
    fn the_matrix_counts_and_says_what_failed() {
        let matrix = Matrix::read(&file()).unwrap();
        assert_eq!(matrix.failed(), 2);
        let table = matrix.table();
        assert!(table.contains("| `kill-target` | - | 1 moved, 1 lost | - | - |"), "{table}");
        assert!(table.contains("| `loss` | - | 2 FAILED | - | - |"), "{table}");
        assert!(!table.contains("`freeze`"), "{table}");
        assert!(table.contains("2 of 4 trials kept every promise."), "{table}");
        assert!(table.contains("0.75 s after its link's return"), "{table}");
        assert!(Matrix::read("a\nb,c\n").is_err());
    }

    #[test]
    fn what_failed_is_not_done() {
        let found: Vec<_> = done(&file()).into_iter().map(|(fault, _, n)| (fault, n)).collect();
        let kill = |n: &str| ("kill-target".to_owned(), n.to_owned());
        assert_eq!(found, [kill("1"), kill("2")]);
    }

    #[test]
    fn a_page_gets_its_table() {
        let page = format!("above\n{BEGIN}\nold\n{END}\nbelow\n");
        let wanted = format!("above\n{BEGIN}\n| new |\n{END}\nbelow\n");
        assert_eq!(with_table(&page, "| new |\n").unwrap(), wanted);
        assert!(with_table("nothing", "").is_err());
    }
}
