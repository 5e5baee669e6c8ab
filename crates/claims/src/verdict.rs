//! Whether our runs bear a claim out.
//!
//! The rule. A claim is a mean `c` and a standard deviation `s`; where the paper gives none, that of our own seeds stands
//! for it. Ours is the mean `m` of `n` seeds under the paper's own selection rule, with its 95 % interval `m ± h`,
//! `h = t(n − 1) · s_ours / √n`. A verdict needs [`SEEDS`] seeds, `h` of at most [`WIDEST`] points, and nothing that makes
//! the two incomparable. Then
//!
//! ```text
//! reproduced          [m − h, m + h] meets [c − s − margin, c + s + margin]      margin: MARGIN points
//! not reproduced      it does not, above or below
//! ```
//!
//! A wide interval cannot reproduce anything: without the limit on `h`, two seeds that disagree would bear every claim out.

use std::fmt;

use bonsai_report::statistics::Sample;

/// Seeds below which no verdict is given.
pub const SEEDS: usize = 3;
/// The widest half of a 95 % interval with which a verdict is given, in points.
pub const WIDEST: f64 = 1.0;
/// What a claim may be missed by beyond both spreads, in points.
pub const MARGIN: f64 = 0.1;

/// What a paper claims, in per cent or points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Claim {
    /// The mean.
    pub mean: f64,
    /// The standard deviation that the paper gives.
    pub std: Option<f64>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Our interval meets the claimed one.
    Reproduced,
    /// It does not; ours is higher by so many points.
    NotReproduced(f64),
    /// There are runs, and these reasons not to compare them.
    NotComparable(Vec<String>),
    /// There are no runs, and this is why.
    NotRun(String),
}

impl Verdict {
    /// The verdict without its reasons.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Reproduced => "reproduced",
            Verdict::NotReproduced(_) => "not reproduced",
            Verdict::NotComparable(_) => "not comparable",
            Verdict::NotRun(_) => "not run",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Verdict::Reproduced => Ok(()),
            Verdict::NotReproduced(above) if *above < 0.0 => write!(f, ": {:.2} points below", -above),
            Verdict::NotReproduced(above) => write!(f, ": {above:.2} points above"),
            Verdict::NotComparable(reasons) => write!(f, ": {}", reasons.join("; ")),
            Verdict::NotRun(why) if why.is_empty() => Ok(()),
            Verdict::NotRun(why) => write!(f, ": {why}"),
        }
    }
}

/// Judges our figures against a claim; `reasons` are those that were found against comparing them at all.
pub fn judge(claim: Option<Claim>, ours: Option<Sample>, mut reasons: Vec<String>) -> Verdict {
    if claim.is_none() {
        reasons.push("the paper's figure is not known".to_string());
    }
    let half = ours.as_ref().and_then(|sample| sample.half);
    match (&ours, half) {
        (Some(sample), _) if sample.n < SEEDS => {
            reasons.push(format!("{} of {SEEDS} seeds", sample.n));
        }
        (Some(_), Some(half)) if half > WIDEST => {
            reasons.push(format!("our 95 % interval of ± {half:.2} points is wider than ± {WIDEST:.0}"));
        }
        (Some(_), _) => {}
        (None, _) if reasons.is_empty() => reasons.push("no figure under the paper's selection rule".to_string()),
        (None, _) => {}
    }
    let (Some(claim), Some(sample), Some(half), true) = (claim, ours, half, reasons.is_empty()) else {
        return Verdict::NotComparable(reasons);
    };
    let spread = claim.std.or(sample.std).unwrap_or(0.0) + MARGIN;
    let above = sample.mean - claim.mean;
    // A hair more than the sum, since decimal figures such as 0.3 are no binary ones.
    if above.abs() <= half + spread + 1e-9 { Verdict::Reproduced } else { Verdict::NotReproduced(above) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(mean: f64, std: f64) -> Option<Claim> {
        Some(Claim { mean, std: Some(std) })
    }

    /// Three figures around `mean` whose interval is ± `half`: they lie `d` apart, so that s = d and h = 4.303 d / √3.
    fn three(mean: f64, half: f64) -> Option<Sample> {
        let d = half * 3.0_f64.sqrt() / 4.302_653;
        Sample::of(&[mean - d, mean, mean + d])
    }

    #[test]
    fn intervals_that_meet_are_reproduced() {
        // 93.66 ± 0.07 with a margin of 0.1 reaches down to 93.49.
        assert_eq!(judge(claim(93.66, 0.07), three(93.29, 0.201), vec![]), Verdict::Reproduced);
        let missed = judge(claim(93.66, 0.07), three(93.28, 0.2), vec![]);
        assert!(matches!(missed, Verdict::NotReproduced(above) if (above + 0.38).abs() < 1e-9), "{missed}");
        assert_eq!(missed.to_string(), "not reproduced: 0.38 points below");
    }

    #[test]
    fn better_than_claimed_is_not_reproduced_either() {
        assert_eq!(judge(claim(90.0, 0.1), three(92.0, 0.2), vec![]).to_string(), "not reproduced: 2.00 points above");
    }

    #[test]
    fn a_wide_interval_reproduces_nothing() {
        let verdict = judge(claim(93.0, 0.1), three(93.0, 1.2), vec![]);
        assert_eq!(verdict.to_string(), "not comparable: our 95 % interval of ± 1.20 points is wider than ± 1");
    }

    #[test]
    fn too_few_seeds_and_every_reason_are_said() {
        let two = Sample::of(&[93.0, 93.1]);
        let verdict = judge(claim(93.0, 0.1), two, vec!["embedded data".to_string()]);
        assert_eq!(verdict.to_string(), "not comparable: embedded data; 2 of 3 seeds");
        let verdict = judge(None, three(93.0, 0.1), vec![]);
        assert_eq!(verdict.to_string(), "not comparable: the paper's figure is not known");
    }

    #[test]
    fn without_a_claimed_spread_ours_stands_for_it() {
        let lone = Some(Claim { mean: 93.77, std: None });
        // s = 0.2 · √3 / 4.303 = 0.0805, so that the reach is 0.2 + 0.0805 + 0.1.
        assert_eq!(judge(lone, three(93.39, 0.2), vec![]), Verdict::Reproduced);
        assert!(matches!(judge(lone, three(93.38, 0.2), vec![]), Verdict::NotReproduced(_)));
    }
}
