//! The report for people: Markdown, a summary for the terminal, several runs side by side, and the picture. Pure: a report
//! in, text out.

mod compare;
mod markdown;
mod terminal;
mod timeline;
mod words;

pub(crate) use compare::side_by_side;
pub(crate) use markdown::markdown;
pub(crate) use terminal::terminal;
pub(crate) use timeline::timeline;

#[cfg(test)]
mod tests;
