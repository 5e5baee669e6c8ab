//! Batches that are cut out of images on a device equal those of the host, bit by bit.

use std::sync::Arc;

use bonsai_data::{Augmentation, Images, Loader, Padding};
use bonsai_training::resident::Resident;
use burn::tensor::Device;
use rand_chacha::rand_core::Rng;

use crate::wgpu;

/// Eleven records of noise, whose bytes do not fill the last word on the device.
fn loader(shape: [usize; 3], augmentation: &Option<Augmentation>) -> Loader {
    let mut stream = bonsai_random::stream(0, "resident", 1);
    let records = 11;
    let pixels = (0..records * shape.iter().product::<usize>()).map(|_| stream.next_u32() as u8).collect();
    let images = Images { pixels, labels: (0..records as u8).collect(), shape, classes: 11 };
    let (mean, std) = ([0.49, 0.44, 0.1], [0.2, 0.3, 0.7]);
    Loader::new(Arc::new(images), 4, &mean[..shape[0]], &std[..shape[0]], augmentation.clone(), 5, 1)
}

fn check(device: &Device) {
    let augmented = |crop, padding, flip| Some(Augmentation { crop, padding, flip });
    for (shape, augmentation) in [
        ([3, 7, 5], augmented(4, Padding::Zero, true)),
        ([1, 6, 9], augmented(5, Padding::Reflect, true)),
        ([3, 3, 3], augmented(0, Padding::Zero, true)),
        ([2, 5, 4], None),
    ] {
        let host = loader(shape, &augmentation);
        let resident = Resident::new(host.images(), host.values(), device).unwrap();
        let views = loader(shape, &augmentation).without_pixels();
        for epoch in 0..2 {
            for (pixels, views) in host.epoch(epoch, 0).zip(views.epoch(epoch, 0)) {
                assert!(views.images.is_empty());
                let count = views.labels.len();
                let (images, labels) = resident.tensors(&views, 0..count);
                assert_eq!(images.dims(), pixels.shape);
                let bits = |floats: &[f32]| floats.iter().map(|float| float.to_bits()).collect::<Vec<u32>>();
                let on_device: Vec<f32> = images.into_data().try_to_vec().unwrap();
                assert_eq!(bits(&on_device), bits(&pixels.images), "{shape:?}, {augmentation:?}");
                assert_eq!(labels.into_data().try_to_vec::<i32>().unwrap(), pixels.labels);
                // A part of a batch, as accumulating gradients takes it.
                let (part, _) = resident.tensors(&views, 1..count);
                let len = shape.iter().product::<usize>();
                assert_eq!(bits(&part.into_data().try_to_vec::<f32>().unwrap()), bits(&pixels.images[len..]));
            }
        }
    }
}

#[test]
fn batches_cut_on_the_cpu_device_equal_the_hosts() {
    check(&Device::flex());
}

#[test]
fn batches_cut_on_wgpu_equal_the_hosts() {
    if let Some(device) = wgpu() {
        check(&device);
        check(&device.autodiff());
    }
}
