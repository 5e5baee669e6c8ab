//! Several devices: each computes the gradients of a part of every batch, and the first takes the step.
//!
//! This is what burn-train's multi-device strategy does, with the optimizer on the main device, in a plain loop: gradients come
//! there and weights go back by burn's own `to_device`, which copies through the host unless the devices have a transport of
//! their own (CUDA's NCCL). Masks, moments, scheduler and running statistics exist once, on the first device; what the others
//! compute with are its masked weights of the same step. Weights and gradients travel as one tensor each. burn's `all_reduce`,
//! which would spare the way there and back, exists for CUDA alone.

use std::ops::Range;

use bonsai_models::{Architecture, Network};
use burn::tensor::{Device, Tensor};

use crate::parameters::{self, Gradients};
use crate::resident::Resident;
use crate::trainee::Trainee;

/// A further device, with autodiff.
pub(crate) struct Replica {
    device: Device,
    /// The structure of the network there; its values are those of the step before.
    network: Network,
    pub(crate) resident: Option<Resident>,
}

/// A device at work on a step.
pub(crate) struct Place<'a> {
    pub network: Network,
    pub device: &'a Device,
    pub resident: Option<&'a Resident>,
}

impl Replica {
    fn new(network: &Network, architecture: &Architecture, device: Device) -> Self {
        let fresh = Network::new(architecture, 0, &device).expect("the network was built on the first device");
        Self { network: parameters::with_ids_of(fresh, network), device, resident: None }
    }
}

impl Trainee {
    /// Has parts of every batch computed on further devices too; images that stay on the device come after.
    pub fn replicate(&mut self, devices: &[Device]) {
        let replica = |device: &Device| Replica::new(&self.network, &self.architecture, device.clone().autodiff());
        self.replicas = devices.iter().map(replica).collect();
    }

    /// Follows a change of the network's shape.
    pub(crate) fn rebuild_replicas(&mut self) {
        let Self { replicas, network, architecture, .. } = self;
        for replica in replicas {
            let resident = replica.resident.take();
            *replica = Replica { resident, ..Replica::new(network, architecture, replica.device.clone()) };
        }
    }

    /// Brings the network that is in use to all devices, the first one's first.
    pub(crate) fn places(&self) -> Vec<Place<'_>> {
        let network = self.effective();
        let values = (!self.replicas.is_empty()).then(|| parameters::all(&network));
        let mut places = vec![Place { network, device: &self.device, resident: self.resident.as_ref() }];
        for replica in &self.replicas {
            let values = values.clone().expect("there are replicas").to_device(&replica.device.clone().inner());
            let network = parameters::with_values(replica.network.clone(), &values);
            places.push(Place { network, device: &replica.device, resident: replica.resident.as_ref() });
        }
        places
    }
}

/// Shares records out over devices, and what each gets over pieces: the number of the device, and a range of records.
pub(crate) fn pieces(records: usize, devices: usize, of_each: usize) -> Vec<(usize, Range<usize>)> {
    let share = records.div_ceil(devices);
    let mut pieces = Vec::new();
    for device in 0..devices {
        let own = (device * share).min(records)..((device + 1) * share).min(records);
        let piece = own.len().div_ceil(of_each.max(1)).max(1);
        let range = |start: usize| (device, start..own.end.min(start + piece));
        pieces.extend(own.clone().step_by(piece).map(range));
    }
    pieces
}

/// Adds the gradients of all devices up on `device`, which is the first one's, without autodiff.
pub(crate) fn summed(mut of_devices: Vec<Gradients>, device: &Device) -> Gradients {
    let others = of_devices.split_off(1);
    let mut sum = of_devices.pop().unwrap_or_default();
    for gradients in others {
        let (names, values): (Vec<String>, Vec<Tensor<1>>) = gradients.into_iter().unzip();
        if values.is_empty() {
            continue;
        }
        let lengths: Vec<usize> = values.iter().map(|values| values.dims()[0]).collect();
        let all = Tensor::cat(values, 0).to_device(device);
        let mut start = 0;
        for (name, length) in names.into_iter().zip(lengths) {
            let gradient = all.clone().narrow(0, start, length);
            start += length;
            let gradient = match sum.remove(&name) {
                Some(earlier) => earlier + gradient,
                None => gradient,
            };
            sum.insert(name, gradient);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bonsai_data::Batch;
    use bonsai_pruning::clock::Clock;

    use super::*;
    use crate::experiment::Experiment;
    use crate::meter::Meter;
    use crate::setup::trainee;

    const SMALL: &str = "model = 'resnet20'\ndata = 'shapes10'\ntrain_records = 80\nepochs = 2\nbatch_size = 16\n\
        [optimizer]\nname = 'sgd'\nlr = 0.1\nmomentum = 0.9\n[lr]\nschedule = 'constant'\n";
    const GRANET: &str =
        "[scheduler]\nname = 'granet'\nsparsity = 0.9\ninitial_sparsity = 0.5\nend_epoch = 1\nevery = 2\n";
    const CHANNELS: &str = "[scheduler]\nname = 'group-magnitude'\nmacs = 0.5\nend_epoch = 1\nevery = 2\n";

    fn small(scheduler: &str, assignments: &[&str]) -> (Experiment, Trainee) {
        let assignments: Vec<String> = assignments.iter().map(|&one| one.to_string()).collect();
        let experiment = Experiment::with_overrides(&format!("{SMALL}{scheduler}"), "small", &assignments).unwrap();
        let trainee = trainee(&experiment, experiment.records(), &Device::flex()).unwrap();
        (experiment, trainee)
    }

    fn batch(key: u32) -> Batch {
        let value = |i: u32| (i.wrapping_add(key << 20).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        let images: Vec<f32> = (0..16 * 3 * 32 * 32).map(value).collect();
        Batch { images, labels: (0..16).map(|i| i % 10).collect(), shape: [16, 3, 32, 32], ..Batch::default() }
    }

    /// Trains for some steps with their events, and returns the loss and what a checkpoint would hold.
    fn trained(experiment: &Experiment, trainee: &mut Trainee) -> (f64, BTreeMap<String, Vec<u8>>) {
        trainee.begin();
        let (horizon, mut meter) = (experiment.horizon(experiment.records()), Meter::default());
        for iteration in 1..=6 {
            let clock = Clock { iteration, horizon, lr: 0.1 };
            let event = trainee.engine.due(&clock);
            let dense = event.as_ref().is_some_and(|event| event.dense_gradients);
            let gradients = trainee.gradients(&batch(iteration as u32), dense, &mut meter);
            let seen = dense.then(|| gradients.clone());
            trainee.step(gradients, &clock);
            if let Some(event) = event {
                trainee.event(&clock, &event, seen.as_ref());
            }
        }
        let bytes = |tensor: &crate::tensors::HostTensor| match tensor.as_f32() {
            Ok(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Err(_) => tensor.as_bytes().unwrap().to_vec(),
        };
        let saved = trainee.save().0.iter().map(|(name, tensor)| (name.clone(), bytes(tensor))).collect();
        (meter.read().loss, saved)
    }

    #[test]
    fn records_are_shared_out_without_gaps() {
        assert_eq!(pieces(10, 1, 1), [(0, 0..10)]);
        assert_eq!(pieces(10, 1, 3), [(0, 0..4), (0, 4..8), (0, 8..10)]);
        assert_eq!(pieces(10, 2, 2), [(0, 0..3), (0, 3..5), (1, 5..8), (1, 8..10)]);
        assert_eq!(pieces(3, 2, 1), [(0, 0..2), (1, 2..3)]);
        // The last batch of an epoch may leave a device nothing to do.
        assert_eq!(pieces(1, 3, 2), [(0, 0..1)]);
    }

    #[test]
    fn two_devices_train_as_two_pieces_on_one_do_and_draw_the_same_masks() {
        for scheduler in [GRANET, CHANNELS] {
            let (experiment, mut one) = small(scheduler, &["optimizer.accumulate=2"]);
            let (of_two, mut two) = small(scheduler, &[]);
            two.replicate(&[Device::flex()]);
            let ((loss, one), (same, saved)) = (trained(&experiment, &mut one), trained(&of_two, &mut two));
            // Statistics of normalisation are those of the first device's records, of all pieces on one.
            let plain = |(name, _): &(&String, &Vec<u8>)| !name.contains("running");
            assert!(one.iter().filter(plain).eq(saved.iter().filter(plain)), "{scheduler}");
            assert_eq!(loss, same);
            // Every replica computes with masked weights, in the shape of now.
            let [first, second] = &two.places()[..] else { panic!("two devices") };
            let values = |place: &Place| parameters::to_host(parameters::all(&place.network));
            assert_eq!(values(first), values(second), "{scheduler}");
            let layers = two.engine.layers();
            for ((layer, weights), mask) in
                layers.iter().zip(parameters::weights(&second.network, layers)).zip(two.engine.masks())
            {
                let mut removed = (0..mask.len()).filter(|&at| !mask.get(at));
                assert!(removed.all(|at| weights[at] == 0.0), "{}", layer.name);
            }
        }
    }
}
