//! Runs a graph of ONNX slowly, operator by operator, as the specification says.

use std::collections::HashMap;

use bonsai_onnx::proto::{FLOAT, Field, Message};
use prost::Message as _;

/// A message that is being read.
pub struct Reading(Message);

impl Reading {
    /// Decodes a message.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Message::decode(bytes).unwrap())
    }

    fn bytes(&self, number: u32) -> Vec<&[u8]> {
        let mut all = Vec::new();
        for field in self.0.fields(number) {
            let Field::Bytes(bytes) = field else { panic!("field {number} is {field:?}") };
            all.push(&bytes[..]);
        }
        all
    }

    /// All texts of a field.
    pub fn texts(&self, number: u32) -> Vec<String> {
        self.bytes(number).into_iter().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    }

    /// The only text of a field.
    pub fn text(&self, number: u32) -> String {
        let [text] = &self.texts(number)[..] else { panic!("field {number} is no single text") };
        text.clone()
    }

    /// All messages of a field.
    pub fn messages(&self, number: u32) -> Vec<Reading> {
        self.bytes(number).into_iter().map(Reading::of).collect()
    }

    /// The only message of a field.
    pub fn message(&self, number: u32) -> Reading {
        let [bytes] = self.bytes(number)[..] else { panic!("field {number} is no single message") };
        Reading::of(bytes)
    }

    /// All whole numbers of a field.
    pub fn wholes(&self, number: u32) -> Vec<i64> {
        let whole = |field: &Field| match field {
            Field::Whole(value) => *value,
            other => panic!("field {number} is {other:?}"),
        };
        self.0.fields(number).map(whole).collect()
    }

    /// The only float of a field.
    fn float(&self, number: u32) -> f32 {
        let fields: Vec<&Field> = self.0.fields(number).collect();
        let [Field::Float(value)] = fields[..] else { panic!("field {number} is no single float") };
        *value
    }
}

/// An array of floats, in row-major order.
#[derive(Clone, Debug)]
pub struct Array {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl Array {
    /// Pairs a shape with values.
    pub fn new(shape: &[usize], values: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
        Self { shape: shape.to_vec(), values }
    }

    /// The value at a place; axes of extent 1 are repeated, missing ones in front are added.
    fn broadcast(&self, place: &[usize]) -> f32 {
        let place = &place[place.len() - self.shape.len()..];
        let index =
            self.shape.iter().zip(place).fold(0, |index, (side, at)| index * side + if *side == 1 { 0 } else { *at });
        self.values[index]
    }
}

/// Computes the logits of `images`.
pub fn run(graph: &Reading, images: Array) -> Array {
    let (mut arrays, mut integers) = (HashMap::from([("images".to_string(), images)]), HashMap::new());
    for constant in graph.messages(5) {
        if constant.wholes(2) == [FLOAT] {
            arrays.insert(constant.text(8), Array::new(&extents(&constant.wholes(1)), floats(&constant)));
        } else {
            integers.insert(constant.text(8), (extents(&constant.wholes(1)), whole(&constant)));
        }
    }
    for constant in graph.messages(15) {
        let (kept, places) = (constant.message(1), whole(&constant.message(2)));
        let shape = extents(&constant.wholes(3));
        let mut values = vec![0.0; shape.iter().product()];
        floats(&kept).into_iter().zip(places).for_each(|(value, place)| values[place as usize] = value);
        arrays.insert(kept.text(8), Array::new(&shape, values));
    }
    for node in graph.messages(1) {
        let result = compute(&node, &arrays, &integers);
        arrays.insert(node.text(2), result);
    }
    arrays.remove("logits").unwrap()
}

fn extents(dims: &[i64]) -> Vec<usize> {
    dims.iter().map(|side| *side as usize).collect()
}

fn floats(tensor: &Reading) -> Vec<f32> {
    let bytes = tensor.bytes(9)[0].chunks_exact(4);
    bytes.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn whole(tensor: &Reading) -> Vec<i64> {
    let bytes = tensor.bytes(9)[0].chunks_exact(8);
    bytes.map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn compute(
    node: &Reading,
    arrays: &HashMap<String, Array>,
    integers: &HashMap<String, (Vec<usize>, Vec<i64>)>,
) -> Array {
    let (inputs, attributes) = (node.texts(1), node.messages(5));
    let x = |input: usize| &arrays[&inputs[input]];
    let list = |input: usize| &integers[&inputs[input]].1[..];
    let attribute = |name: &str| attributes.iter().find(|attribute| attribute.text(1) == name).unwrap();
    let int = |name: &str| attribute(name).wholes(3)[0];
    let ints = |name: &str| extents(&attribute(name).wholes(8));
    let each = |f: &dyn Fn(f32) -> f32| Array::new(&x(0).shape, x(0).values.iter().map(|v| f(*v)).collect());
    match node.text(4).as_str() {
        "Identity" => x(0).clone(),
        "Relu" => each(&|v| v.max(0.0)),
        "Erf" => each(&|v| erf(v.into()) as f32),
        "Add" => paired(x(0), x(1), |a, b| a + b),
        "Sub" => paired(x(0), x(1), |a, b| a - b),
        "Mul" => paired(x(0), x(1), |a, b| a * b),
        "Div" => paired(x(0), x(1), |a, b| a / b),
        "Conv" => {
            let bias = inputs.get(2).map(|name| &arrays[name]);
            convolution(x(0), x(1), bias, &ints("strides"), &ints("pads"), int("group") as usize)
        }
        "MaxPool" => pool(x(0), &ints("kernel_shape"), &ints("strides"), &ints("pads"), |window| {
            window.iter().fold(f32::NEG_INFINITY, |most, value| most.max(*value))
        }),
        "AveragePool" => pool(x(0), &ints("kernel_shape"), &ints("strides"), &ints("pads"), |window| {
            window.iter().sum::<f32>() / window.len() as f32
        }),
        "GlobalAveragePool" => {
            let [images, channels, height, width] = x(0).shape[..] else { panic!("no maps") };
            let maps = x(0).values.chunks_exact(height * width);
            let means = maps.map(|map| map.iter().sum::<f32>() / map.len() as f32).collect();
            Array::new(&[images, channels, 1, 1], means)
        }
        "Flatten" => {
            let (rows, columns) = x(0).shape.split_at(int("axis") as usize);
            Array::new(&[rows.iter().product(), columns.iter().product()], x(0).values.clone())
        }
        "MatMul" => product(x(0), x(1)),
        "BatchNormalization" => {
            let (epsilon, area) = (attribute("epsilon").float(2), x(0).shape[2..].iter().product::<usize>());
            let normal = |(i, value): (usize, &f32)| {
                let c = i / area % x(0).shape[1];
                let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|input| x(input).values[c]);
                gamma * (value - mean) / (variance + epsilon).sqrt() + beta
            };
            Array::new(&x(0).shape, x(0).values.iter().enumerate().map(normal).collect())
        }
        "LayerNormalization" => {
            assert_eq!(int("axis"), -1);
            let epsilon = attribute("epsilon").float(2);
            let width = *x(0).shape.last().unwrap();
            let rows = x(0).values.chunks_exact(width).flat_map(|row| {
                let mean = row.iter().sum::<f32>() / width as f32;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / width as f32;
                let scale = (variance + epsilon).sqrt();
                row.iter().zip(&x(1).values).zip(&x(2).values).map(move |((v, g), b)| g * (v - mean) / scale + b)
            });
            Array::new(&x(0).shape, rows.collect())
        }
        "Softmax" => {
            assert_eq!(int("axis") as usize, x(0).shape.len() - 1);
            let rows = x(0).values.chunks_exact(*x(0).shape.last().unwrap()).flat_map(|row| {
                let most = row.iter().fold(f32::NEG_INFINITY, |most, v| most.max(*v));
                let sum: f32 = row.iter().map(|v| (v - most).exp()).sum();
                row.iter().map(move |v| (v - most).exp() / sum)
            });
            Array::new(&x(0).shape, rows.collect())
        }
        "Reshape" => {
            let mut shape: Vec<i64> = list(1).to_vec();
            shape.iter_mut().enumerate().filter(|(_, s)| **s == 0).for_each(|(axis, s)| *s = x(0).shape[axis] as i64);
            let known: i64 = shape.iter().filter(|side| **side > 0).product();
            shape.iter_mut().filter(|s| **s < 0).for_each(|s| *s = x(0).values.len() as i64 / known);
            Array::new(&extents(&shape), x(0).values.clone())
        }
        "Transpose" => {
            let order = ints("perm");
            let shape: Vec<usize> = order.iter().map(|axis| x(0).shape[*axis]).collect();
            gathered(&shape, |place| {
                let mut from = vec![0; place.len()];
                order.iter().zip(place).for_each(|(axis, at)| from[*axis] = *at);
                x(0).broadcast(&from)
            })
        }
        "Slice" => {
            let (mut shape, mut starts, mut steps) = (x(0).shape.clone(), vec![0; 8], vec![1; 8]);
            for (i, axis) in list(3).iter().enumerate() {
                let (axis, step) = (*axis as usize, if inputs.len() > 4 { list(4)[i] as usize } else { 1 });
                (starts[axis], steps[axis]) = (list(1)[i] as usize, step);
                shape[axis] = ((list(2)[i] as usize).min(shape[axis]) - starts[axis]).div_ceil(step);
            }
            gathered(&shape, |place| {
                let from: Vec<usize> = place.iter().enumerate().map(|(a, at)| starts[a] + at * steps[a]).collect();
                x(0).broadcast(&from)
            })
        }
        "Pad" => {
            let (pads, axes) = (extents(list(1)), x(0).shape.len());
            let shape: Vec<usize> = (0..axes).map(|a| pads[a] + x(0).shape[a] + pads[axes + a]).collect();
            gathered(&shape, |place| {
                let inside = (0..axes).all(|a| (pads[a]..pads[a] + x(0).shape[a]).contains(&place[a]));
                let from: Vec<usize> = (0..axes).map(|a| place[a].wrapping_sub(pads[a])).collect();
                if inside { x(0).broadcast(&from) } else { 0.0 }
            })
        }
        "Gather" => {
            let axis = int("axis") as usize;
            let mut shape = x(0).shape.clone();
            // A scalar index takes the axis away.
            let scalar = integers[&inputs[1]].0.is_empty();
            match scalar {
                true => drop(shape.remove(axis)),
                false => shape[axis] = list(1).len(),
            }
            gathered(&shape, |place| {
                let mut from = place.to_vec();
                match scalar {
                    true => from.insert(axis, list(1)[0] as usize),
                    false => from[axis] = list(1)[place[axis]] as usize,
                }
                x(0).broadcast(&from)
            })
        }
        "Concat" => {
            let (axis, first) = (int("axis") as usize, x(0).shape[int("axis") as usize]);
            let mut shape = x(0).shape.clone();
            shape[axis] += x(1).shape[axis];
            gathered(&shape, |place| {
                if place[axis] < first {
                    return x(0).broadcast(place);
                }
                let mut from = place.to_vec();
                from[axis] -= first;
                x(1).broadcast(&from)
            })
        }
        other => panic!("no operator {other}"),
    }
}

/// Builds an array from its places.
fn gathered(shape: &[usize], at: impl Fn(&[usize]) -> f32) -> Array {
    let total: usize = shape.iter().product();
    let place = |mut index: usize| {
        let mut place = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            place[axis] = index % shape[axis];
            index /= shape[axis];
        }
        place
    };
    Array::new(shape, (0..total).map(|index| at(&place(index))).collect())
}

fn paired(a: &Array, b: &Array, f: impl Fn(f32, f32) -> f32) -> Array {
    let axes = a.shape.len().max(b.shape.len());
    let side = |array: &Array, axis: usize| *array.shape.iter().rev().nth(axes - 1 - axis).unwrap_or(&1);
    let shape: Vec<usize> = (0..axes).map(|axis| side(a, axis).max(side(b, axis))).collect();
    gathered(&shape, |place| f(a.broadcast(place), b.broadcast(place)))
}

fn product(a: &Array, b: &Array) -> Array {
    let (rows, inner) = (a.shape[a.shape.len() - 2], a.shape[a.shape.len() - 1]);
    let columns = b.shape[b.shape.len() - 1];
    let outer = a.shape[..a.shape.len() - 2].iter().product::<usize>();
    let repeated = b.shape.len() == 2;
    let mut shape = a.shape.clone();
    *shape.last_mut().unwrap() = columns;
    let mut values = Vec::with_capacity(outer * rows * columns);
    for o in 0..outer {
        let b = if repeated { &b.values[..] } else { &b.values[o * inner * columns..][..inner * columns] };
        for r in 0..rows {
            let row = &a.values[(o * rows + r) * inner..][..inner];
            let mut sums = vec![0.0; columns];
            for (value, line) in row.iter().zip(b.chunks_exact(columns)) {
                sums.iter_mut().zip(line).for_each(|(sum, weight)| *sum += value * weight);
            }
            values.extend(sums);
        }
    }
    Array::new(&shape, values)
}

fn convolution(
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    strides: &[usize],
    pads: &[usize],
    groups: usize,
) -> Array {
    let [images, channels, height, width] = x.shape[..] else { panic!("no maps") };
    let [outputs, inputs, kh, kw] = weight.shape[..] else { panic!("no kernels") };
    assert_eq!(channels, inputs * groups);
    let out_height = (height + 2 * pads[0] - kh) / strides[0] + 1;
    let out_width = (width + 2 * pads[1] - kw) / strides[1] + 1;
    let mut values = Vec::with_capacity(images * outputs * out_height * out_width);
    for image in 0..images {
        for output in 0..outputs {
            let first = output / (outputs / groups) * inputs;
            let mut map = vec![bias.map_or(0.0, |bias| bias.values[output]); out_height * out_width];
            for input in 0..inputs {
                let source = &x.values[(image * channels + first + input) * height * width..][..height * width];
                for (k, tap) in weight.values[(output * inputs + input) * kh * kw..][..kh * kw].iter().enumerate() {
                    for (i, sum) in map.iter_mut().enumerate() {
                        let row = (i / out_width * strides[0] + k / kw).wrapping_sub(pads[0]);
                        let column = (i % out_width * strides[1] + k % kw).wrapping_sub(pads[1]);
                        if row < height && column < width {
                            *sum += tap * source[row * width + column];
                        }
                    }
                }
            }
            values.extend(map);
        }
    }
    Array::new(&[images, outputs, out_height, out_width], values)
}

fn pool(x: &Array, kernel: &[usize], strides: &[usize], pads: &[usize], of: impl Fn(&[f32]) -> f32) -> Array {
    let [images, channels, height, width] = x.shape[..] else { panic!("no maps") };
    let sides =
        [(height, 0), (width, 1)].map(|(side, axis)| (side + 2 * pads[axis] - kernel[axis]) / strides[axis] + 1);
    gathered(&[images, channels, sides[0], sides[1]], |place| {
        let mut window = Vec::new();
        for (dy, dx) in (0..kernel[0]).flat_map(|dy| (0..kernel[1]).map(move |dx| (dy, dx))) {
            let row = (place[2] * strides[0] + dy).wrapping_sub(pads[0]);
            let column = (place[3] * strides[1] + dx).wrapping_sub(pads[1]);
            if row < height && column < width {
                window.push(x.broadcast(&[place[0], place[1], row, column]));
            }
        }
        of(&window)
    })
}

/// The error function: Abramowitz and Stegun, "Handbook of mathematical functions", 1964, 7.1.26, to 1.5e-7.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.3275911 * x.abs());
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    x.signum() * (1.0 - series * (-x * x).exp())
}
