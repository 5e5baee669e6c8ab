//! Looks where the time of training steps goes: four steps an epoch, each a row of `steps.csv`.
//!
//! On our own kernels a sampled step is recorded part by part, which reads clocks and nothing else. On other devices the work
//! is only queued, so that the device is waited for before the step, after its backward pass and after its update: twelve times an
//! epoch. Neither changes a result.

use std::time::{Duration, Instant};

use bonsai_kernels::is_timed;
use bonsai_kernels::profile::{Part, Profile, Recording};
use burn::tensor::Device;

use crate::records::StepRow;

/// Steps of an epoch that are looked at.
const PER_EPOCH: usize = 4;

/// Says whether a batch of an epoch is one of those that are looked at: in the middle of each quarter.
pub(crate) fn is_due(batch: usize, batches: usize) -> bool {
    (0..PER_EPOCH).any(|quarter| (2 * quarter + 1) * batches / (2 * PER_EPOCH) == batch)
}

/// A step that is being looked at.
pub(crate) struct Sample {
    waited: Duration,
    looking: Looking,
}

enum Looking {
    /// Part by part.
    Parts(Recording),
    /// At a device that only says when it is done.
    Whole { began: Instant, passed: Option<Duration> },
}

impl Sample {
    /// Begins with a step that has `waited` for its batch; `None` where another run of this process is being looked at.
    pub fn start(device: &Device, waited: Duration) -> Option<Self> {
        let looking = if is_timed(device) {
            Looking::Parts(Recording::try_start()?)
        } else {
            device.sync().ok()?;
            Looking::Whole { began: Instant::now(), passed: None }
        };
        Some(Self { waited, looking })
    }

    /// Says that the backward pass has been asked for.
    pub fn passes_end(&mut self, device: &Device) {
        if let Looking::Whole { began, passed } = &mut self.looking {
            *passed = device.sync().ok().map(|()| began.elapsed());
        }
    }

    /// Ends with the step `iteration`; `None` where the device failed, which the next use of it will tell.
    pub fn finish(self, device: &Device, epoch: u64, iteration: u64) -> Option<StepRow> {
        let row = match self.looking {
            Looking::Parts(recording) => parts(&recording.finish()),
            Looking::Whole { began, passed } => {
                let passes = passed?;
                device.sync().ok()?;
                let update = began.elapsed() - passes;
                StepRow { passes: milliseconds(passes), update: milliseconds(update), ..StepRow::default() }
            }
        };
        let row = StepRow { epoch, iteration, loader: milliseconds(self.waited), ..row };
        Some(StepRow { milliseconds: rounded(row.parts().iter().sum()), ..row })
    }
}

/// Shares the time of a recorded step out.
fn parts(profile: &Profile) -> StepRow {
    let of_threads = |time: Duration| milliseconds(time / profile.threads as u32);
    let mut row = StepRow { other: of_threads(profile.other()), ..StepRow::default() };
    for part in Part::ALL {
        let place = match part {
            Part::ForwardDense => &mut row.forward_dense,
            Part::DataDense => &mut row.data_gradient_dense,
            Part::WeightDense => &mut row.weight_gradient_dense,
            Part::ForwardSparse => &mut row.forward_sparse,
            Part::DataSparse => &mut row.data_gradient_sparse,
            Part::WeightSparse => &mut row.weight_gradient_sparse,
            Part::Depthwise => &mut row.depthwise,
            Part::Normalisation => &mut row.batch_norm,
            Part::Pooling => &mut row.pooling,
            Part::Layout => &mut row.layout,
            Part::Linear => &mut row.linear,
            Part::Attention => &mut row.attention,
            Part::LayerNorm => &mut row.layer_norm,
            Part::Gelu => &mut row.gelu,
            Part::Loss | Part::Accuracy => &mut row.loss,
            Part::Optimizer => &mut row.optimizer,
            Part::Masks => &mut row.masks,
            Part::Data => &mut row.data,
            Part::Around => &mut row.around,
            Part::Waiting => &mut row.waiting,
        };
        *place += of_threads(profile.parts[part as usize]);
    }
    row
}

fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// To a microsecond, beyond which the digits say nothing.
fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_steps_are_spread_over_an_epoch() {
        let due = |batches: usize| (0..batches).filter(|batch| is_due(*batch, batches)).collect::<Vec<_>>();
        assert_eq!(due(352), [44, 132, 220, 308]);
        assert_eq!(due(8), [1, 3, 5, 7]);
        assert_eq!(due(2), [0, 1]);
        assert_eq!(due(1), [0]);
        assert_eq!(due(0), [0usize; 0]);
    }

    #[test]
    fn the_parts_of_a_recorded_step_add_up_to_it() {
        let mut times = [Duration::ZERO; Part::ALL.len()];
        (times[Part::ForwardSparse as usize], times[Part::Masks as usize]) = (ms(6), ms(2));
        let profile = Profile { wall: ms(10), threads: 2, parts: times, convolutions: Vec::new() };
        let row = parts(&profile);
        assert_eq!((row.forward_sparse, row.masks, row.other), (3.0, 1.0, 6.0));
        assert_eq!(row.parts().iter().sum::<f64>(), 10.0);
    }

    #[test]
    fn a_device_that_tells_no_parts_has_two() {
        let device = Device::flex();
        let mut sample = Sample { waited: ms(1), looking: Looking::Whole { began: Instant::now(), passed: None } };
        std::thread::sleep(ms(4));
        sample.passes_end(&device);
        std::thread::sleep(ms(2));
        let row = sample.finish(&device, 1, 9).unwrap();
        assert_eq!((row.epoch, row.iteration, row.loader), (1, 9, 1.0));
        assert!(row.passes >= 4.0 && row.update >= 2.0 && row.forward_dense == 0.0, "{row:?}");
        assert!((row.milliseconds - row.loader - row.passes - row.update).abs() < 1e-6, "{row:?}");
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }
}
