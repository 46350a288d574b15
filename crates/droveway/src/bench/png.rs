//! Figures as PNG, for those who cannot show SVG. Letters come from the machine's own fonts; where there are none, no PNG
//! is made, and that is said.

use anyhow::Context as _;
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{self, fontdb},
};

/// Pixels of a PNG for one of the SVG: sharp on dense screens, and in print.
const SCALE: f32 = 2.0;
/// More pixels than this are no figure: 400 MB of them.
const PIXELS_MAX: f32 = 1e8;
/// The fonts that figures are laid out for come first: no letter of them is wider than what the layout expects.
const FONTS: [&str; 5] = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial", "Helvetica"];

/// What makes PNGs.
pub(super) struct Painter {
    options: usvg::Options<'static>,
}

impl Painter {
    /// `None`: this machine has no font.
    pub(super) fn new() -> Option<Self> {
        let mut options = usvg::Options::default();
        let fonts = options.fontdb_mut();
        fonts.load_system_fonts();
        let family = family(fonts)?;
        fonts.set_sans_serif_family(family);
        Some(Painter { options })
    }

    /// The picture of an SVG document, as a PNG file.
    ///
    /// # Errors
    /// When it is no SVG document, or one without or beyond all size.
    pub(super) fn paint(&self, svg: &str) -> anyhow::Result<Vec<u8>> {
        let tree = usvg::Tree::from_str(svg, &self.options).context("reading the figure's SVG")?;
        let [width, height] =
            [tree.size().width(), tree.size().height()].map(|side| (SCALE * side).ceil());
        anyhow::ensure!(width * height <= PIXELS_MAX, "a figure of {width} x {height} pixels");
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "above zero, and bounded"
        )]
        let mut pixels = Pixmap::new(width as u32, height as u32).context("an empty figure")?;
        resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
        pixels.encode_png().context("encoding a PNG")
    }
}

/// The family to write with: a usual one, else any.
fn family(fonts: &fontdb::Database) -> Option<String> {
    let families: Vec<&str> =
        fonts.faces().filter_map(|face| Some(face.families.first()?.0.as_str())).collect();
    let usual = FONTS.into_iter().find(|name| families.contains(name));
    usual.or_else(|| families.first().copied()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SVG: &str = r##"<svg width="120" height="40" xmlns="http://www.w3.org/2000/svg">
        <rect x="0" y="0" width="120" height="40" fill="#FFFFFF"/>
        <rect x="0" y="0" width="10" height="10" fill="#0072B2"/>
        <text x="20" y="25" font-family="sans-serif" font-size="16" fill="#000000">total</text></svg>"##;

    #[test]
    fn a_figure_becomes_a_png_of_twice_its_size_with_its_letters() {
        let Some(painter) = Painter::new() else {
            assert!(std::env::var_os("CI").is_none(), "CI has fonts");
            eprintln!("skip: this machine has no font");
            return;
        };
        let png = painter.paint(SVG).unwrap();
        let pixels = Pixmap::decode_png(&png).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (240, 80));
        let of = |x, y| pixels.pixel(x, y).map(|it| (it.red(), it.green(), it.blue())).unwrap();
        assert_eq!(of(4, 4), (0, 0x72, 0xB2));
        let dark = (30..240).flat_map(|x| (0..80).map(move |y| of(x, y))).filter(|it| it.0 < 100);
        assert!(dark.count() > 50, "letters are drawn");
    }

    #[test]
    fn what_is_no_figure_is_refused() {
        let Some(painter) = Painter::new() else { return };
        assert!(painter.paint("<html>").is_err());
        let huge = SVG.replace("120", "200000").replace("\"40\"", "\"20000\"");
        assert!(painter.paint(&huge).unwrap_err().to_string().contains("pixels"));
    }
}
