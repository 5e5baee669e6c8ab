//! Layer normalisation over the features of panels: Ba, Kiros, Hinton, "Layer normalization", 2016,
//! <https://arxiv.org/abs/1607.06450>.

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::maps::LANES;
use crate::panels::{Panels, even};
use crate::simd::{Kernel, Lanes, Level};

/// Pixels at a time, whose features the second cache holds.
const PIXELS: usize = 13;

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

type Vectors = [[f32; LANES]; PIXELS];

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let plane = self.statistics.len() / 2;
        let share = 1.0 / self.gamma.len() as f32;
        for (first, count) in even(plane / LANES, PIXELS) {
            let range = first * LANES..(first + count) * LANES;
            let mut mean: Vectors = [[0.0; LANES]; PIXELS];
            for x in self.x.chunks_exact(plane) {
                each(&mut mean, &x[range.clone()], |sum, x| *sum += x);
            }
            mean.iter_mut().flatten().for_each(|mean| *mean *= share);
            let mut deviation: Vectors = [[0.0; LANES]; PIXELS];
            for x in self.x.chunks_exact(plane) {
                for ((sum, mean), x) in deviation.iter_mut().zip(&mean).zip(x[range.clone()].chunks_exact(LANES)) {
                    for lane in 0..LANES {
                        let distance = x[lane] - mean[lane];
                        sum[lane] += distance * distance;
                    }
                }
            }
            let epsilon = self.epsilon;
            deviation.iter_mut().flatten().for_each(|sum| *sum = 1.0 / (*sum * share + epsilon).sqrt());
            for pixel in 0..count {
                let at = (first + pixel) * 2 * LANES;
                self.statistics[at..at + LANES].copy_from_slice(&mean[pixel]);
                self.statistics[at + LANES..at + 2 * LANES].copy_from_slice(&deviation[pixel]);
            }
            let planes = self.x.chunks_exact(plane).zip(self.output.chunks_exact_mut(plane));
            for ((x, y), (gamma, beta)) in planes.zip(self.gamma.iter().zip(self.beta)) {
                let vectors = x[range.clone()].chunks_exact(LANES).zip(y[range.clone()].chunks_exact_mut(LANES));
                for ((x, y), (mean, deviation)) in vectors.zip(mean.iter().zip(&deviation)) {
                    for lane in 0..LANES {
                        y[lane] = (x[lane] - mean[lane]) * deviation[lane] * gamma + beta;
                    }
                }
            }
        }
    }
}

/// Calls `add` with each float of `sums` and the one of `floats`.
#[inline(always)]
fn each(sums: &mut Vectors, floats: &[f32], add: impl Fn(&mut f32, f32)) {
    for (sums, floats) in sums.iter_mut().zip(floats.chunks_exact(LANES)) {
        for lane in 0..LANES {
            add(&mut sums[lane], floats[lane]);
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
        let share = 1.0 / features as f32;
        let mut of_parameters = [vec![[0.0f32; LANES]; features], vec![[0.0f32; LANES]; features]];
        let [of_gamma, of_beta] = &mut of_parameters;
        for (first, count) in even(plane / LANES, PIXELS) {
            let range = first * LANES..(first + count) * LANES;
            let mut mean: Vectors = [[0.0; LANES]; PIXELS];
            let mut deviation: Vectors = [[0.0; LANES]; PIXELS];
            for pixel in 0..count {
                let at = (first + pixel) * 2 * LANES;
                mean[pixel].copy_from_slice(&self.statistics[at..at + LANES]);
                deviation[pixel].copy_from_slice(&self.statistics[at + LANES..at + 2 * LANES]);
            }
            // The means over features of the normalised input's gradient, alone and times the normalised input.
            let mut alone: Vectors = [[0.0; LANES]; PIXELS];
            let mut times: Vectors = [[0.0; LANES]; PIXELS];
            let planes = self.x.chunks_exact(plane).zip(self.gradient.chunks_exact(plane));
            let parameters = self.gamma.iter().zip(of_gamma.iter_mut().zip(of_beta.iter_mut()));
            for ((x, gradient), (gamma, (of_gamma, of_beta))) in planes.zip(parameters) {
                let (x, gradient) = (&x[range.clone()], &gradient[range.clone()]);
                for pixel in 0..count {
                    let x = &x[pixel * LANES..][..LANES];
                    let gradient = &gradient[pixel * LANES..][..LANES];
                    for lane in 0..LANES {
                        let normal = (x[lane] - mean[pixel][lane]) * deviation[pixel][lane];
                        let part = gradient[lane] * normal;
                        of_gamma[lane] += part;
                        of_beta[lane] += gradient[lane];
                        alone[pixel][lane] += gamma * gradient[lane];
                        times[pixel][lane] += gamma * part;
                    }
                }
            }
            alone.iter_mut().chain(&mut times).flatten().for_each(|sum| *sum *= share);
            let planes = self.x.chunks_exact(plane).zip(self.gradient.chunks_exact(plane));
            for ((x, gradient), (gamma, of_x)) in planes.zip(self.gamma.iter().zip(self.of_x.chunks_exact_mut(plane))) {
                let (x, gradient, of_x) = (&x[range.clone()], &gradient[range.clone()], &mut of_x[range.clone()]);
                for pixel in 0..count {
                    let x = &x[pixel * LANES..][..LANES];
                    let gradient = &gradient[pixel * LANES..][..LANES];
                    let of_x = &mut of_x[pixel * LANES..][..LANES];
                    for lane in 0..LANES {
                        let normal = (x[lane] - mean[pixel][lane]) * deviation[pixel][lane];
                        let rest = gamma * gradient[lane] - alone[pixel][lane] - normal * times[pixel][lane];
                        of_x[lane] = deviation[pixel][lane] * rest;
                    }
                }
            }
        }
        of_parameters.map(|vectors| vectors.iter().map(|lanes| lanes.iter().sum()).collect())
    }
}
