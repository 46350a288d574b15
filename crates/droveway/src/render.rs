//! The report for people: Markdown, a summary for the terminal, several runs side by side, and the pictures of a run and of
//! a plan. Pure: data in, text out.

mod compare;
mod markdown;
mod plan;
mod svg;
mod terminal;
mod timeline;
mod words;

pub(crate) use compare::side_by_side;
pub(crate) use markdown::markdown;
pub(crate) use plan::{PlanPicture, plan_picture};
pub(crate) use terminal::terminal;
pub(crate) use timeline::timeline;

#[cfg(test)]
mod tests;
