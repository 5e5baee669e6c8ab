//! The parameter-free shortcut: option A of He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015,
//! <https://arxiv.org/abs/1512.03385>.
//!
//! The paper asks for zero channels and does not say where. As most CIFAR code does, half of them go on each side.

use burn::tensor::{Tensor, s};

/// Takes every second pixel of `x` and adds zero channels on both sides until there are `channels`.
///
/// # Panics
///
/// Panics if `x` has more than `channels` channels.
pub fn pad_shortcut(x: Tensor<4>, channels: usize) -> Tensor<4> {
    let missing = channels.checked_sub(x.dims()[1]).expect("a shortcut only widens");
    let before = missing / 2;
    x.slice(s![.., .., ..;2, ..;2]).pad([(before, missing - before), (0, 0), (0, 0)], 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn by_hand(x: &[f32], [images, inputs, height, width]: [usize; 4], channels: usize) -> Vec<f32> {
        let (rows, columns, before) = (height.div_ceil(2), width.div_ceil(2), (channels - inputs) / 2);
        let mut out = vec![0.0; images * channels * rows * columns];
        for image in 0..images {
            for input in 0..inputs {
                for row in 0..rows {
                    for column in 0..columns {
                        let to = ((image * channels + input + before) * rows + row) * columns + column;
                        out[to] = x[((image * inputs + input) * height + 2 * row) * width + 2 * column];
                    }
                }
            }
        }
        out
    }

    #[test]
    fn pixels_and_gradients_go_where_a_plain_loop_sends_them() {
        let device = Device::flex().autodiff();
        for (dims, channels) in [([2, 3, 4, 6], 5), ([1, 2, 5, 3], 4), ([2, 4, 1, 1], 8), ([1, 3, 8, 8], 6)] {
            let values: Vec<f32> = (0..dims.iter().product::<usize>()).map(|i| i as f32 + 1.0).collect();
            let x = Tensor::<4>::from_data(TensorData::new(values.clone(), dims), &device).require_grad();
            let y = pad_shortcut(x.clone(), channels);
            assert_eq!(y.dims(), [dims[0], channels, dims[2].div_ceil(2), dims[3].div_ceil(2)]);
            assert_eq!(y.clone().into_data().try_to_vec::<f32>().unwrap(), by_hand(&values, dims, channels));

            let weights: Vec<f32> = (0..y.shape().num_elements()).map(|i| (i * i % 17) as f32).collect();
            let loss = (y.clone() * Tensor::from_data(TensorData::new(weights.clone(), y.dims()), &device)).sum();
            let gradient = x.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap();
            // The gradient of a copy is the copy back: scatter each index to learn where it came from.
            let origin = by_hand(&(1..=values.len()).map(|i| i as f32).collect::<Vec<_>>(), dims, channels);
            let mut expected = vec![0.0; values.len()];
            for (weight, origin) in weights.iter().zip(origin).filter(|(_, origin)| *origin > 0.0) {
                expected[origin as usize - 1] += weight;
            }
            assert_eq!(gradient, expected);
        }
    }
}
