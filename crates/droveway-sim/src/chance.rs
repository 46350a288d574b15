//! Chance from a seed: the same seed, the same run, on every machine and with every release.

/// A stream of random numbers (SplitMix64; Steele, Lea and Flood 2014).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform between two numbers.
    pub(crate) fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.unit() * (most - least).max(0.0)
    }

    /// A whole number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
        let found = ((u128::from(self.next()) * end as u128) >> 64) as usize;
        found
    }

    /// A word whose bits are set with this probability each, to a part in 16 million. From the lowest binary digit up, each
    /// digit halves what is there and adds half if it is set.
    pub(crate) fn bits(&mut self, probability: f64) -> u64 {
        const DIGITS: u32 = 24;
        let whole = f64::from(1_u32 << DIGITS);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between zero and 2^24"
        )]
        let digits = (probability.clamp(0.0, 1.0) * whole).round() as u32;
        if digits == 1 << DIGITS {
            return u64::MAX;
        }
        (digits.trailing_zeros().min(DIGITS)..DIGITS).fold(0, |word, place| {
            let fresh = self.next();
            if (digits >> place) & 1 == 1 { word | fresh } else { word & fresh }
        })
    }

    /// A normal deviate (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_as_often_as_asked() {
        let mut chance = Chance::new(3);
        assert_eq!((chance.bits(0.0), chance.bits(1.0)), (0, u64::MAX));
        for probability in [0.001, 0.1, 0.25, 0.5, 0.9, 0.999] {
            let set: u32 = (0..20_000).map(|_| chance.bits(probability).count_ones()).sum();
            let found = f64::from(set) / 1_280_000.0;
            let error = (probability * (1.0 - probability) / 1_280_000.0).sqrt();
            assert!((found - probability).abs() < 5.0 * error, "{found}, not {probability}");
        }
        assert!((0..1_000).all(|_| chance.below(7) < 7));
    }

    #[test]
    fn normal_deviates_have_mean_zero_and_variance_one() {
        let mut chance = Chance::new(1);
        let drawn: Vec<f64> = (0..20_000).map(|_| chance.normal()).collect();
        let mean = drawn.iter().sum::<f64>() / 20_000.0;
        let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
