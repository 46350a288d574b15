use super::*;
use crate::{
    compare::{
        analyse,
        tests::{bench, with_ours},
    },
    result::tests::report,
};

/// Attributes of all elements of a kind.
fn attributes<'a>(svg: &'a str, element: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    let start = format!("<{element} ");
    let attribute = format!(" {name}=\"");
    svg.split('<').filter_map(move |part| {
        let part = format!("<{part}");
        let rest =
            part.starts_with(&start).then(|| part.split_once(&attribute)).flatten()?.1.to_owned();
        rest.split_once('"')?.0.parse().ok()
    })
}

#[test]
fn every_figure_is_drawn_inside_its_picture() {
    let mut bench = with_ours(bench(|arm, repeat| {
        let scale = f64::from(repeat);
        (5.0 * scale + f64::from(u32::try_from(arm.len()).unwrap()), 1_000_000 * u64::from(repeat))
    }));
    for (index, scenario) in bench.resolved.suite.spec.scenarios.iter_mut().enumerate() {
        scenario.labels.insert("axis".to_owned(), "VMs".to_owned());
        scenario.labels.insert("value".to_owned(), (10 * (index + 1)).to_string());
    }
    let analysis = analyse(&bench);
    let cells = wanted(&bench);
    assert_eq!(cells.len(), 9, "two others and ours, of three scenarios: {cells:?}");
    assert!(cells.iter().skip(2).step_by(3).all(|cell| cell.policy == "adaptive"), "{cells:?}");
    let reports: Vec<(Cell, RunReport)> =
        cells.into_iter().map(|cell| (cell, report(9.0, 1_000_000))).collect();
    let figures = all(&bench, &analysis, &reports).unwrap();
    let names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "arms",
            "pareto",
            "pareto-by-scenario",
            "techniques",
            "over-time",
            "downtime-outage",
            "forecast",
            "scaling-vms",
        ]
    );
    for figure in &figures {
        let svg = &figure.svg;
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{}", figure.name);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", figure.name);
        let (width, height) = (
            attributes(svg, "svg", "width").next().unwrap(),
            attributes(svg, "svg", "height").next().unwrap(),
        );
        for (name, most) in [("x", width), ("y", height)] {
            let outside: Vec<f64> =
                attributes(svg, "text", name).filter(|at| !(0.0..=most).contains(at)).collect();
            assert!(outside.is_empty(), "{}: text at {outside:?} of {most}", figure.name);
        }
        assert!(figure.caption.ends_with('.'), "{}", figure.caption);
    }
}

#[test]
fn without_data_nothing_is_drawn() {
    let mut bench = bench(|_, _| (5.0, 0));
    bench.results.clear();
    let analysis = analyse(&bench);
    assert!(wanted(&bench).is_empty());
    assert!(all(&bench, &analysis, &[]).unwrap().is_empty());
}
