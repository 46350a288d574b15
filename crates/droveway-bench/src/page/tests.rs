use crate::compare::{
    analyse,
    tests::{bench, with_ours},
};

#[test]
fn the_summary_stands_first_and_says_where_ours_loses() {
    let bench = with_ours(bench(|arm, repeat| {
        let scale = f64::from(repeat);
        if arm.starts_with("ours") { (10.0 + scale, 50_000_000) } else { (6.0 + scale, 0) }
    }));
    let analysis = analyse(&bench);
    let figures = crate::figures::all(&bench, &analysis, &[]).unwrap();
    let (html, markdown) =
        (super::html(&bench, &analysis, &figures), super::markdown(&bench, &analysis, &figures));
    for page in [&html, &markdown] {
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("'{text}' is missing"));
        assert!(at("Summary") < at("Where ours loses"));
        assert!(at("Where ours loses") < at("Figures"));
        assert!(page.contains("is worse than solive@medium in total time"), "{page}");
        assert!(page.contains("is behind pre-copy-serial@medium in time, loss and silence"));
        assert!(page.contains("adaptive@soon"));
    }
    assert!(html.contains("<svg") && !html.contains("<script") && !html.contains("src="));
    assert!(markdown.contains("](figures/arms.svg)"));
}

#[test]
fn names_end_no_element() {
    let mut bench = bench(|_, _| (5.0, 0));
    bench.resolved.suite.spec.question = Some("a < b & <script>".to_owned());
    let html = super::html(&bench, &analyse(&bench), &[]);
    assert!(html.contains("a &lt; b &amp; &lt;script&gt;") && !html.contains("<script>"));
}

#[test]
fn few_pairs_are_called_few() {
    let mut bench = with_ours(bench(|_, _| (5.0, 0)));
    bench.results.retain(|it| it.cell.repeat == 1 && it.cell.scenario == "a");
    let markdown = super::markdown(&bench, &analyse(&bench), &[]);
    assert!(markdown.contains("too few to call anything better or worse"), "{markdown}");
}
