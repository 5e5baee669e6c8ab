//! The same masks and nearly the same numbers on a CPU and on wgpu.

use bonsai_pruning::clock::{Clock, Horizon};
use bonsai_training::meter::Meter;
use bonsai_training::parameters;
use burn::tensor::Device;

use crate::{batch, schedulers, trainee, wgpu};

const HORIZON: Horizon = Horizon { iterations_per_epoch: 10, epochs: 2 };

#[test]
fn stored_weights_and_gradients_give_the_same_masks_and_weights_on_cpu_and_wgpu() {
    let Some(wgpu) = wgpu() else { return };
    // Made on one device, then stored and put on both: the devices' own arithmetic must not decide.
    let mut source = trainee("name = 'dense'", HORIZON, &Device::flex());
    let gradients = source.gradients(&batch(20, 1), true, &mut Meter::default());
    source.step(gradients.clone(), 0.1);
    let gradients: Vec<_> = gradients.into_iter().map(|(name, values)| (name, parameters::to_host(values))).collect();
    let (tensors, _) = source.save();

    for scheduler in &schedulers() {
        let [cpu, gpu] = [&Device::flex(), &wgpu].map(|device| {
            let mut trainee = trainee(scheduler, HORIZON, device);
            trainee.begin();
            let (_, state) = trainee.save();
            trainee.restore(tensors.clone(), state).unwrap();
            let dense = (gradients.iter())
                .map(|(name, values)| (name.clone(), parameters::to_device(values.clone(), device)))
                .collect();
            let mut masks = vec![trainee.engine.masks().to_vec()];
            for iteration in 1..=20 {
                let clock = Clock { iteration, horizon: HORIZON, lr: 0.1 };
                if let Some(event) = trainee.engine.due(&clock) {
                    trainee.event(&clock, &event, Some(&dense));
                    masks.push(trainee.engine.masks().to_vec());
                }
            }
            (masks, trainee.save().0)
        });
        assert!(cpu == gpu, "{scheduler}: CPU and wgpu differ");
    }
}

#[test]
fn a_step_on_wgpu_is_close_to_one_on_the_cpu() {
    let Some(wgpu) = wgpu() else { return };
    let scheduler = "name = 'static'\nsparsity = 0.5";
    let [cpu, gpu] = [&Device::flex(), &wgpu].map(|device| {
        let mut trainee = trainee(scheduler, HORIZON, device);
        trainee.begin();
        let mut meter = Meter::default();
        for iteration in 1..=3 {
            let gradients = trainee.gradients(&batch(20, iteration), false, &mut meter);
            trainee.step(gradients, 0.02);
        }
        meter.read();
        (meter.totals(), parameters::weights(&trainee.network, trainee.engine.layers()))
    });
    assert!((cpu.0.mean_loss() - gpu.0.mean_loss()).abs() < 1e-4 * cpu.0.mean_loss(), "{:?} {:?}", cpu.0, gpu.0);
    for (a, b) in cpu.1.iter().flatten().zip(gpu.1.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
        assert_eq!(*a == 0.0, *b == 0.0);
    }
}
