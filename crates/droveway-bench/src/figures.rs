//! Figures, as SVG with plotters: each with a title, a caption that says what is shown, and colours that are told apart with
//! every kind of colour vision. Nothing is drawn of which there are no data.

mod forecast;
mod over_time;
mod panel;
mod pareto;
mod rows;
mod scaling;
mod techniques;

use crate::{
    cells::Cell,
    compare::{Analysis, Bench},
};
use droveway_fleet::RunReport;
pub use over_time::wanted;

/// A picture and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// A name for its file.
    pub name: String,
    /// What it is.
    pub title: String,
    /// What is shown, and how to read it.
    pub caption: String,
    /// The picture, a document of its own.
    pub svg: String,
}

/// Why a picture could not be drawn: a fault of ours.
pub type Failed = Box<dyn std::error::Error>;

/// Every figure that the data allow. `reports` are those of the cells that [`wanted`] names.
///
/// # Errors
/// Where the drawing library fails.
pub fn all(
    bench: &Bench,
    analysis: &Analysis,
    reports: &[(Cell, RunReport)],
) -> Result<Vec<Figure>, Failed> {
    let mut figures = Vec::new();
    figures.extend(rows::arms(analysis)?);
    figures.extend(pareto::overall(analysis)?);
    figures.extend(pareto::by_scenario(bench, analysis)?);
    figures.extend(techniques::all(bench, analysis)?);
    figures.extend(over_time::figure(bench, reports)?);
    figures.extend(rows::distributions(bench, analysis)?);
    figures.extend(forecast::figure(bench)?);
    figures.extend(scaling::all(bench, analysis)?);
    Ok(figures)
}

#[cfg(test)]
mod tests;
