//! Layer normalisation over the features of panels: Ba, Kiros, Hinton, "Layer normalization", 2016,
//! <https://arxiv.org/abs/1607.06450>.

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::maps::LANES;
use crate::panels::{Panels, even};
use crate::simd::{Kernel, Lanes, Level};

/// Pixels at a time, whose features the second cache holds.
const PIXELS: usize = 13;
/// Features that are summed alone before they are added to the rest: a long chain of additions would round in the same
/// direction for all features of a token.
const CHAIN: usize = 16;

/// The output of a normalisation and what its backward pass needs.
pub struct Normal {
    /// The output.
    pub output: Buffer,
    /// The mean of each vector of 16 rows, and the reciprocal of its deviation.
    pub statistics: Buffer,
}

/// Gradients of a normalisation.
pub struct Gradients {
    /// That of the input.
    pub x: Buffer,
    /// That of the scale.
    pub gamma: Vec<f32>,
    /// That of the shift.
    pub beta: Vec<f32>,
}

/// Normalises each row of `x` to mean 0 and variance 1, multiplies by `gamma` and adds `beta`.
///
/// # Panics
///
/// Panics if a length is not that of the shape.
pub fn forward(panels: Panels, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> Normal {
    let features = gamma.len();
    assert_eq!(beta.len(), features, "a shift for each scale");
    assert_eq!(x.len(), panels.len(features), "panels of {features} features");
    let level = Level::current();
    let mut output = Buffer::any(x.len());
    let mut statistics = Buffer::any(panels.len(2));
    let (panel, plane) = (features * panels.plane(), panels.plane());
    let tasks = output.par_chunks_mut(panel).zip(statistics.par_chunks_mut(2 * plane)).zip(x.par_chunks(panel));
    tasks.for_each(|((output, statistics), x)| {
        level.run(Forward { x, gamma, beta, epsilon, output, statistics });
    });
    Normal { output, statistics }
}

/// Returns the gradients, given that of the output.
///
/// # Panics
///
/// Panics if a length is not that of the shape.
pub fn backward(panels: Panels, x: &[f32], gamma: &[f32], statistics: &[f32], gradient: &[f32]) -> Gradients {
    let features = gamma.len();
    assert_eq!(x.len(), panels.len(features), "panels of {features} features");
    assert_eq!(gradient.len(), x.len(), "a gradient for each number");
    assert_eq!(statistics.len(), panels.len(2), "statistics of each row");
    let level = Level::current();
    let mut of_x = Buffer::any(x.len());
    let (panel, plane) = (features * panels.plane(), panels.plane());
    let inputs = x.par_chunks(panel).zip(gradient.par_chunks(panel)).zip(statistics.par_chunks(2 * plane));
    let tasks = of_x.par_chunks_mut(panel).zip(inputs);
    let run = |(of_x, ((x, gradient), statistics))| level.run(Backward { x, gamma, statistics, gradient, of_x });
    let parts: Vec<[Vec<f32>; 2]> = tasks.map(run).collect();
    // In the order of panels, whichever thread was first.
    let [mut of_gamma, mut of_beta] = [vec![0.0; features], vec![0.0; features]];
    for [gamma, beta] in parts {
        of_gamma.iter_mut().zip(gamma).for_each(|(sum, part)| *sum += part);
        of_beta.iter_mut().zip(beta).for_each(|(sum, part)| *sum += part);
    }
    Gradients { x: of_x, gamma: of_gamma, beta: of_beta }
}

/// A panel.
struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    output: &'a mut [f32],
    statistics: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let plane = self.statistics.len() / 2;
        let share = 1.0 / self.gamma.len() as f32;
        for (first, count) in even(plane / LANES, PIXELS) {
            for lane in (0..LANES).step_by(L::WIDTH) {
                let at = |pixel: usize| (first + pixel) * LANES + lane;
                let mut mean = [L::splat(0.0); PIXELS];
                for chain in self.x.chunks(CHAIN * plane) {
                    let mut part = [L::splat(0.0); PIXELS];
                    for x in chain.chunks_exact(plane) {
                        for pixel in 0..count {
                            part[pixel] = part[pixel].plus(L::read(&x[at(pixel)..]));
                        }
                    }
                    mean.iter_mut().zip(part).for_each(|(mean, part)| *mean = mean.plus(part));
                }
                mean.iter_mut().for_each(|mean| *mean = mean.times(L::splat(share)));
                let mut squares = [L::splat(0.0); PIXELS];
                for chain in self.x.chunks(CHAIN * plane) {
                    let mut part = [L::splat(0.0); PIXELS];
                    for x in chain.chunks_exact(plane) {
                        for pixel in 0..count {
                            let distance = L::read(&x[at(pixel)..]).minus(mean[pixel]);
                            part[pixel] = distance.mul_add(distance, part[pixel]);
                        }
                    }
                    squares.iter_mut().zip(part).for_each(|(sum, part)| *sum = sum.plus(part));
                }
                for pixel in 0..count {
                    let statistics = &mut self.statistics[(first + pixel) * 2 * LANES + lane..];
                    mean[pixel].write(statistics);
                    squares[pixel].write(&mut statistics[LANES..]);
                    for square in &mut statistics[LANES..LANES + L::WIDTH] {
                        *square = 1.0 / (*square * share + self.epsilon).sqrt();
                    }
                    squares[pixel] = L::read(&statistics[LANES..]);
                }
                let planes = self.x.chunks_exact(plane).zip(self.output.chunks_exact_mut(plane));
                for ((x, y), (gamma, beta)) in planes.zip(self.gamma.iter().zip(self.beta)) {
                    let (gamma, beta) = (L::splat(*gamma), L::splat(*beta));
                    for pixel in 0..count {
                        let normal = L::read(&x[at(pixel)..]).minus(mean[pixel]).times(squares[pixel]);
                        normal.mul_add(gamma, beta).write(&mut y[at(pixel)..]);
                    }
                }
            }
        }
    }
}

/// A panel.
struct Backward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    statistics: &'a [f32],
    gradient: &'a [f32],
    of_x: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    /// The gradients of scale and shift.
    type Output = [Vec<f32>; 2];

    #[inline(always)]
    fn run<L: Lanes>(self) -> [Vec<f32>; 2] {
        let plane = self.statistics.len() / 2;
        let features = self.gamma.len();
        let share = L::splat(1.0 / features as f32);
        let mut of_gamma = vec![[0.0f32; LANES]; features];
        let mut of_beta = vec![[0.0f32; LANES]; features];
        for (first, count) in even(plane / LANES, PIXELS) {
            for lane in (0..LANES).step_by(L::WIDTH) {
                let at = |pixel: usize| (first + pixel) * LANES + lane;
                let mut mean = [L::splat(0.0); PIXELS];
                let mut deviation = [L::splat(0.0); PIXELS];
                for pixel in 0..count {
                    let statistics = &self.statistics[(first + pixel) * 2 * LANES + lane..];
                    (mean[pixel], deviation[pixel]) = (L::read(statistics), L::read(&statistics[LANES..]));
                }
                // The means over features of the normalised input's gradient, alone and times the normalised input.
                let mut alone = [L::splat(0.0); PIXELS];
                let mut times = [L::splat(0.0); PIXELS];
                let planes = self.x.chunks_exact(plane).zip(self.gradient.chunks_exact(plane));
                let parameters = self.gamma.iter().zip(of_gamma.iter_mut().zip(of_beta.iter_mut()));
                for ((x, gradient), (gamma, (of_gamma, of_beta))) in planes.zip(parameters) {
                    let gamma = L::splat(*gamma);
                    let (mut sum_gamma, mut sum_beta) = (L::read(&of_gamma[lane..]), L::read(&of_beta[lane..]));
                    for pixel in 0..count {
                        let normal = L::read(&x[at(pixel)..]).minus(mean[pixel]).times(deviation[pixel]);
                        let gradient = L::read(&gradient[at(pixel)..]);
                        sum_gamma = gradient.mul_add(normal, sum_gamma);
                        sum_beta = sum_beta.plus(gradient);
                        let part = gradient.times(gamma);
                        alone[pixel] = alone[pixel].plus(part);
                        times[pixel] = part.mul_add(normal, times[pixel]);
                    }
                    sum_gamma.write(&mut of_gamma[lane..]);
                    sum_beta.write(&mut of_beta[lane..]);
                }
                alone.iter_mut().chain(&mut times).for_each(|sum| *sum = sum.times(share));
                let planes = self.x.chunks_exact(plane).zip(self.gradient.chunks_exact(plane));
                let outputs = self.gamma.iter().zip(self.of_x.chunks_exact_mut(plane));
                for ((x, gradient), (gamma, of_x)) in planes.zip(outputs) {
                    let gamma = L::splat(*gamma);
                    for pixel in 0..count {
                        let normal = L::read(&x[at(pixel)..]).minus(mean[pixel]).times(deviation[pixel]);
                        let rest = L::read(&gradient[at(pixel)..]).times(gamma).minus(alone[pixel]);
                        rest.minus(normal.times(times[pixel])).times(deviation[pixel]).write(&mut of_x[at(pixel)..]);
                    }
                }
            }
        }
        [of_gamma, of_beta].map(|vectors| vectors.iter().map(|lanes| lanes.iter().sum()).collect())
    }
}
