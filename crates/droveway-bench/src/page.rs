//! The report: one self-contained HTML page (pictures inline, no script) and the same as Markdown. What was found stands
//! first, and of that where ours loses.

mod applications;
mod blocks;
mod faults;
mod influence;
mod words;

use crate::{
    compare::{Analysis, Bench},
    figures::Figure,
};
use blocks::Block;

/// The report as one HTML page.
#[must_use]
pub fn html(bench: &Bench, analysis: &Analysis, figures: &[Figure]) -> String {
    blocks::html(&title(bench), &blocks(bench, analysis, figures))
}

/// The report as Markdown; its pictures are `figures/NAME.svg` beside it.
#[must_use]
pub fn markdown(bench: &Bench, analysis: &Analysis, figures: &[Figure]) -> String {
    blocks::markdown(&title(bench), &blocks(bench, analysis, figures))
}

fn title(bench: &Bench) -> String {
    format!("Bench: {}", bench.resolved.suite.metadata.name)
}

fn blocks<'a>(bench: &Bench, analysis: &Analysis, figures: &'a [Figure]) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    blocks.extend(bench.resolved.suite.spec.question.clone().map(Block::Text));
    blocks.push(Block::Heading("Summary".to_owned()));
    blocks.push(Block::List(words::summary(bench, analysis)));
    blocks.push(Block::Heading("Where ours loses".to_owned()));
    blocks.push(Block::List(words::losses(analysis)));
    if !analysis.targets.is_empty() {
        blocks.push(Block::Heading("Against the targets".to_owned()));
        blocks.push(Block::Text(words::HOW_AIMED.to_owned()));
        blocks.push(words::targets(analysis));
    }
    if let Some(table) = faults::table(bench, analysis) {
        blocks.push(Block::Heading("What faults cost".to_owned()));
        blocks.push(Block::Text(faults::HOW.to_owned()));
        blocks.push(table);
    }
    blocks.push(Block::Heading("Arms".to_owned()));
    blocks.extend(words::uneven(bench, analysis).map(Block::Text));
    blocks.push(words::arms(analysis));
    if !analysis.comparisons.is_empty() {
        blocks.push(Block::Heading("Ours against each".to_owned()));
        blocks.push(Block::Text(words::HOW_COMPARED.to_owned()));
        blocks.push(words::comparisons(&analysis.comparisons));
    }
    if !analysis.ablations.is_empty() {
        blocks.push(Block::Heading("What each lever is worth".to_owned()));
        blocks.push(Block::Text(words::HOW_ABLATED.to_owned()));
        blocks.push(words::comparisons(&analysis.ablations));
    }
    if let Some(table) = applications::table(bench, analysis) {
        blocks.push(Block::Heading("What applications kept".to_owned()));
        blocks.push(Block::Text(applications::HOW.to_owned()));
        blocks.push(table);
    }
    if !analysis.influences.is_empty() {
        blocks.push(Block::Heading("What tells how a migration will go".to_owned()));
        blocks.push(Block::Text(influence::HOW.to_owned()));
        blocks.push(influence::table(analysis));
    }
    blocks.push(Block::Heading("By scenario".to_owned()));
    blocks.push(words::scenarios(bench, analysis));
    if !figures.is_empty() {
        blocks.push(Block::Heading("Figures".to_owned()));
        blocks.extend(figures.iter().map(Block::Picture));
    }
    blocks.push(Block::Heading("What was run".to_owned()));
    blocks.push(Block::List(words::environment(bench, analysis)));
    blocks.push(words::policies(bench));
    blocks
}

#[cfg(test)]
mod tests;
