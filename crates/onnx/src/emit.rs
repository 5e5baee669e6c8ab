//! Writes each operation of a model in ONNX's operators. A new operation of the ledger is a new arm of [`Emitter::operation`].

use bonsai_models::operations::{Compute, Operation, Window};

use crate::Parameter;
use crate::build::{Build, Name};
use crate::proto::Attribute;

/// Writes all operations of a network; `image` names the normalised image.
pub(crate) fn emit<'a>(
    operations: &[Operation],
    image: Name,
    parameter: &dyn Fn(&str) -> Option<Parameter<'a>>,
    build: &mut Build,
) -> Result<(), String> {
    let mut emitter = Emitter { build, parameter, names: Vec::new() };
    for (place, operation) in operations.iter().enumerate() {
        let inputs: Vec<Name> = operation.inputs.iter().map(|input| emitter.names[*input].clone()).collect();
        let name = match &operation.compute {
            Compute::Image => image.clone(),
            _ => emitter.operation(operation, operations, &inputs, &place.to_string())?,
        };
        emitter.names.push(name);
    }
    Ok(())
}

struct Emitter<'a, 'b> {
    build: &'b mut Build,
    parameter: &'b dyn Fn(&str) -> Option<Parameter<'a>>,
    /// The names of the results so far.
    names: Vec<Name>,
}

impl Emitter<'_, '_> {
    /// Writes one operation, whose result gets the name `to`; further names begin with it.
    fn operation(
        &mut self,
        operation: &Operation,
        operations: &[Operation],
        inputs: &[Name],
        to: &str,
    ) -> Result<Name, String> {
        let x = inputs.first().map_or("", String::as_str);
        let width = operation.width;
        Ok(match &operation.compute {
            Compute::Image => unreachable!("the image is no node"),
            Compute::Conv { path, kernel, stride, padding, bias } => {
                let mut from = vec![x.to_string(), self.parameter(path, "weight")?];
                if *bias {
                    from.push(self.parameter(path, "bias")?);
                }
                let [kernel, stride, padding] = [kernel, stride, padding].map(|size| *size as i64);
                let attributes = [
                    ("kernel_shape", Attribute::Ints(&[kernel; 2])),
                    ("strides", Attribute::Ints(&[stride; 2])),
                    ("pads", Attribute::Ints(&[padding; 4])),
                    ("group", Attribute::Int(self.groups(path, operations, operation)? as i64)),
                ];
                self.build.node("Conv", &texts(&from), to, &attributes)
            }
            Compute::Scale { path, stride } => {
                let channels = operations[operation.inputs[0]].width;
                let name = format!("{path}.scale");
                let (shape, values) = self.values(&name)?;
                if *shape != [width] || !width.is_multiple_of(channels) {
                    return Err(format!(
                        "the parameter {name} of shape {shape:?} does not fit {channels} channels in and {width} out"
                    ));
                }
                let values = values.to_vec();
                let weight = self.build.floats(&name, &[width, 1, 1, 1], &values);
                let attributes = [
                    ("kernel_shape", Attribute::Ints(&[1; 2])),
                    ("strides", Attribute::Ints(&[*stride as i64; 2])),
                    ("pads", Attribute::Ints(&[0; 4])),
                    ("group", Attribute::Int(channels as i64)),
                ];
                self.build.node("Conv", &[x, &weight], to, &attributes)
            }
            Compute::Linear { path, bias } => {
                let weight = self.parameter(path, "weight")?;
                match *bias {
                    false => self.build.node("MatMul", &[x, &weight], to, &[]),
                    true => {
                        let product = self.build.node("MatMul", &[x, &weight], &format!("{to}/product"), &[]);
                        let bias = self.parameter(path, "bias")?;
                        self.build.node("Add", &[&product, &bias], to, &[])
                    }
                }
            }
            Compute::BatchNorm { path, epsilon } => {
                let mut from = vec![x.to_string()];
                for name in ["gamma", "beta", "running_mean", "running_var"] {
                    from.push(self.parameter(path, name)?);
                }
                self.build.node("BatchNormalization", &texts(&from), to, &[("epsilon", Attribute::Float(*epsilon))])
            }
            Compute::LayerNorm { path, epsilon } => {
                let (gamma, beta) = (self.parameter(path, "gamma")?, self.parameter(path, "beta")?);
                let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(*epsilon))];
                self.build.node("LayerNormalization", &[x, &gamma, &beta], to, &attributes)
            }
            Compute::Relu => self.build.node("Relu", &[x], to, &[]),
            Compute::Gelu => self.gelu(x, to),
            Compute::MaxPool(window) => self.pool("MaxPool", window, x, to),
            Compute::AveragePool(window) => self.pool("AveragePool", window, x, to),
            Compute::GlobalAverage => {
                let mean = self.build.node("GlobalAveragePool", &[x], &format!("{to}/mean"), &[]);
                self.build.node("Flatten", &[&mean], to, &[("axis", Attribute::Int(1))])
            }
            Compute::Add => self.build.node("Add", &[x, &inputs[1]], to, &[]),
            Compute::Concat => self.build.node("Concat", &[x, &inputs[1]], to, &[("axis", Attribute::Int(1))]),
            Compute::Select { places } => {
                let places: Vec<i64> = places.iter().map(|place| *place as i64).collect();
                let places = self.build.integers(&format!("{to}/places"), &places);
                self.build.node("Gather", &[x, &places], to, &[("axis", Attribute::Int(1))])
            }
            // A whole network expands nothing.
            Compute::Expand { places } if places.len() == width => self.build.node("Identity", &[x], to, &[]),
            Compute::Expand { places } => self.expand(x, places, width, to),
            Compute::PadShortcut { front } => {
                let channels = operations[operation.inputs[0]].width;
                self.pad_shortcut(x, *front, width - front - channels, to)
            }
            Compute::Flatten => self.build.node("Flatten", &[x], to, &[("axis", Attribute::Int(1))]),
            Compute::Embed { class_token, positions } => self.embed(x, width, class_token, positions, to)?,
            Compute::Attention { heads, tokens, keys, scale } => {
                let shape = Heads { heads: *heads, tokens: *tokens, keys: *keys, values: width, scale: *scale };
                self.attention(x, &shape, to)
            }
            Compute::FirstToken => {
                // A scalar index takes the axis away.
                let first = self.build.integer(&format!("{to}/first"), 0);
                self.build.node("Gather", &[x, &first], to, &[("axis", Attribute::Int(1))])
            }
            Compute::Logits => self.build.node("Identity", &[x], "logits", &[]),
            Compute::Untold(op) => {
                return Err(format!(
                    "the operation {op:?} cannot be written as ONNX: tell it in full in crates/models/src/ledger.rs and \
                     write it in crates/onnx/src/emit.rs"
                ));
            }
        })
    }

    /// Adds the parameter `{path}.{name}` and returns its name.
    fn parameter(&mut self, path: &str, name: &str) -> Result<Name, String> {
        let name = format!("{path}.{name}");
        let (shape, values) = self.values(&name)?;
        let (shape, values) = (shape.to_vec(), values.to_vec());
        Ok(self.build.floats(&name, &shape, &values))
    }

    fn values(&self, name: &str) -> Result<Parameter<'_>, String> {
        let (shape, values) = (self.parameter)(name).ok_or_else(|| format!("the parameter {name} is missing"))?;
        match shape.iter().product::<usize>() == values.len() {
            true => Ok((shape, values)),
            false => Err(format!("the parameter {name} of shape {shape:?} has {} values", values.len())),
        }
    }

    /// Returns how many groups a convolution has: its weight sees only a part of the channels that come in.
    fn groups(&self, path: &str, operations: &[Operation], operation: &Operation) -> Result<usize, String> {
        let name = format!("{path}.weight");
        let channels = operations[operation.inputs[0]].width;
        match self.values(&name)?.0 {
            [out, inputs, _, _] if *inputs > 0 && channels.is_multiple_of(*inputs) && *out == operation.width => {
                Ok(channels / inputs)
            }
            shape => Err(format!(
                "the parameter {name} of shape {shape:?} does not fit {channels} channels in and {} out",
                operation.width
            )),
        }
    }

    fn pool(&mut self, operator: &str, window: &Window, x: &str, to: &str) -> Name {
        let [kernel, stride, padding] = [window.kernel, window.stride, window.padding].map(|size| size as i64);
        let attributes = [
            ("kernel_shape", Attribute::Ints(&[kernel; 2])),
            ("strides", Attribute::Ints(&[stride; 2])),
            ("pads", Attribute::Ints(&[padding; 4])),
        ];
        self.build.node(operator, &[x], to, &attributes)
    }

    /// `x (1 + erf(x / √2)) / 2`: the operator set has no GELU of its own.
    fn gelu(&mut self, x: &str, to: &str) -> Name {
        let [root, one, half] = [("root", std::f32::consts::SQRT_2), ("one", 1.0), ("half", 0.5)]
            .map(|(name, value)| self.build.floats(&format!("{to}/{name}"), &[], &[value]));
        let y = self.build.node("Div", &[x, &root], &format!("{to}/scaled"), &[]);
        let y = self.build.node("Erf", &[&y], &format!("{to}/erf"), &[]);
        let y = self.build.node("Add", &[&y, &one], &format!("{to}/sum"), &[]);
        let y = self.build.node("Mul", &[x, &y], &format!("{to}/product"), &[]);
        self.build.node("Mul", &[&y, &half], to, &[])
    }

    /// Puts one channel of zeros behind the others, and gathers that where one is missing.
    fn expand(&mut self, x: &str, places: &[usize], width: usize, to: &str) -> Name {
        let pads = self.build.integers(&format!("{to}/pads"), &[0, 0, 0, 0, 0, 1, 0, 0]);
        let padded = self.build.node("Pad", &[x, &pads], &format!("{to}/padded"), &[]);
        let source = |channel| places.binary_search(&channel).unwrap_or(places.len()) as i64;
        let sources: Vec<i64> = (0..width).map(source).collect();
        let sources = self.build.integers(&format!("{to}/sources"), &sources);
        self.build.node("Gather", &[&padded, &sources], to, &[("axis", Attribute::Int(1))])
    }

    fn pad_shortcut(&mut self, x: &str, front: usize, behind: usize, to: &str) -> Name {
        let [starts, ends, axes, steps] =
            [("starts", [0; 2]), ("ends", [i64::MAX; 2]), ("axes", [2, 3]), ("steps", [2; 2])]
                .map(|(name, values)| self.build.integers(&format!("{to}/{name}"), &values));
        let halved = self.build.node("Slice", &[x, &starts, &ends, &axes, &steps], &format!("{to}/halved"), &[]);
        let pads = [0, front as i64, 0, 0, 0, behind as i64, 0, 0];
        let pads = self.build.integers(&format!("{to}/pads"), &pads);
        self.build.node("Pad", &[&halved, &pads], to, &[])
    }

    /// Puts a token of zeros in front, so that the class token can be added with the positions, whatever the batch is.
    fn embed(&mut self, x: &str, width: usize, class_token: &str, positions: &str, to: &str) -> Result<Name, String> {
        let (class, (shape, positions)) = (self.values(class_token)?.1.to_vec(), self.values(positions)?);
        let (shape, mut sum) = (shape.to_vec(), positions.to_vec());
        if class.len() != width || shape.last() != Some(&width) {
            return Err(format!("the parameter {class_token} does not fit {width} channels"));
        }
        sum.iter_mut().zip(&class).for_each(|(position, class)| *position += class);
        let flat = self.build.integers(&format!("{to}/flat"), &[0, width as i64, -1]);
        let y = self.build.node("Reshape", &[x, &flat], &format!("{to}/pixels"), &[]);
        let y = self.build.node("Transpose", &[&y], &format!("{to}/tokens"), &[("perm", Attribute::Ints(&[0, 2, 1]))]);
        let pads = self.build.integers(&format!("{to}/pads"), &[0, 1, 0, 0, 0, 0]);
        let y = self.build.node("Pad", &[&y, &pads], &format!("{to}/padded"), &[]);
        let sum = self.build.floats(&format!("{to}/embeddings"), &shape, &sum);
        Ok(self.build.node("Add", &[&y, &sum], to, &[]))
    }

    fn attention(&mut self, x: &str, shape: &Heads, to: &str) -> Name {
        let Heads { heads, tokens, keys, values, scale } = *shape;
        let axis = self.build.integers(&format!("{to}/axis"), &[2]);
        let parts =
            [("q", 0, keys, [0, 2, 1, 3]), ("k", keys, keys, [0, 2, 3, 1]), ("v", 2 * keys, values, [0, 2, 1, 3])];
        let [q, k, v] = parts.map(|(name, start, width, order)| {
            let [starts, ends] = [("start", start), ("end", start + width)]
                .map(|(edge, place)| self.build.integers(&format!("{to}/{name}/{edge}"), &[place as i64]));
            let y = self.build.node("Slice", &[x, &starts, &ends, &axis], &format!("{to}/{name}/all"), &[]);
            let split = [0, tokens as i64, heads as i64, (width / heads) as i64];
            let split = self.build.integers(&format!("{to}/{name}/split"), &split);
            let y = self.build.node("Reshape", &[&y, &split], &format!("{to}/{name}/heads"), &[]);
            self.build.node("Transpose", &[&y], &format!("{to}/{name}"), &[("perm", Attribute::Ints(&order))])
        });
        let y = self.build.node("MatMul", &[&q, &k], &format!("{to}/products"), &[]);
        let scale = self.build.floats(&format!("{to}/scale"), &[], &[scale as f32]);
        let y = self.build.node("Mul", &[&y, &scale], &format!("{to}/scaled"), &[]);
        let y = self.build.node("Softmax", &[&y], &format!("{to}/weights"), &[("axis", Attribute::Int(3))]);
        let y = self.build.node("MatMul", &[&y, &v], &format!("{to}/mixed"), &[]);
        let y =
            self.build.node("Transpose", &[&y], &format!("{to}/turned"), &[("perm", Attribute::Ints(&[0, 2, 1, 3]))]);
        let joined = self.build.integers(&format!("{to}/joined"), &[0, tokens as i64, values as i64]);
        self.build.node("Reshape", &[&y, &joined], to, &[])
    }
}

/// The shape of an attention; `keys` and `values` are the channels of all heads together.
#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    tokens: usize,
    keys: usize,
    values: usize,
    scale: f64,
}

fn texts(names: &[Name]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
