//! Reads and replaces the parameters of a network: the one file of this crate that meets burn's `const D`.
//!
//! Everything else sees a parameter as a named, flat `Tensor<1>`, in the order in which burn visits the network.
//! Names are module paths without enum variants (`blocks.0.conv1.weight`). Schedulers want matrices whose rows are
//! units; burn stores a linear weight as `[in, out]`, so [`to_rows`] and [`to_storage`] turn it, and nobody else does.

use std::cell::Cell;
use std::collections::BTreeMap;

use bonsai_models::{Network, Sparsity};
use bonsai_pruning::graph::{Kind, LayerSpec};
use bonsai_pruning::mask::Mask;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

/// What is known of a parameter besides its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The path of the parameter in the network, for example `blocks.0.conv1.weight`.
    pub name: String,
    /// What burn calls the parameter.
    pub id: ParamId,
    /// The shape as stored.
    pub shape: Vec<usize>,
    /// Whether it is trained; false for running statistics, and for all parameters of a network without autodiff.
    pub trainable: bool,
}

/// Gradients by parameter name, flat, without autodiff.
pub type Gradients = BTreeMap<String, Tensor<1>>;

/// Calls `see` with every parameter and its values, in the order of the network.
pub fn visit(network: &Network, see: impl FnMut(&Info, Tensor<1>)) {
    network.visit(&mut Reader { path: Path::default(), see });
}

/// Replaces every parameter for which `change` returns values; the others stay as they are.
pub fn map(network: Network, change: impl FnMut(&Info, Tensor<1>) -> Option<Tensor<1>>) -> Network {
    network.map(&mut Writer { path: Path::default(), change })
}

/// Returns the values of all parameters behind each other, in the order of the network.
pub fn all(network: &Network) -> Tensor<1> {
    let mut parts = Vec::new();
    visit(network, |_, values| parts.push(values));
    Tensor::cat(parts, 0)
}

/// Replaces all parameters of a network by values behind each other, which lie on its device.
pub fn with_values(network: Network, values: &Tensor<1>) -> Network {
    let mut start = 0;
    map(network, |info, _| {
        let length = info.shape.iter().product();
        start += length;
        Some(values.clone().narrow(0, start - length, length))
    })
}

/// Gives the trainable parameters of a network the ids that `other` has for those of the same names.
pub fn with_ids_of(network: Network, other: &Network) -> Network {
    network.map(&mut Namer { path: Path::default(), ids: ids(other) })
}

/// Takes the gradient of every parameter that has one.
pub fn gradients(network: &Network, gradients: burn::tensor::Gradients) -> Gradients {
    let mut taken = Gradients::new();
    let gradients = GradientsParams::from_grads(gradients, network);
    network.visit(&mut Taker { path: Path::default(), gradients, taken: &mut taken });
    taken
}

/// Reads the weights of `layers` to the host as matrices of units, in one transfer.
///
/// # Panics
///
/// Panics if the network has no parameter of a layer's name.
pub fn weights(network: &Network, layers: &[LayerSpec]) -> Vec<Vec<f32>> {
    let mut found = BTreeMap::new();
    visit(network, |info, values| {
        found.insert(info.name.clone(), values);
    });
    rows(&found, layers)
}

/// Reads one flat tensor per layer (weights or gradients) to the host as matrices of units, in one transfer.
///
/// # Panics
///
/// Panics if a layer has no tensor.
pub fn rows(tensors: &Gradients, layers: &[LayerSpec]) -> Vec<Vec<f32>> {
    if layers.is_empty() {
        return Vec::new();
    }
    let parts = layers.iter().map(|layer| {
        tensors.get(&layer.name).cloned().unwrap_or_else(|| panic!("the network has no tensor named {}", layer.name))
    });
    let all = to_host(Tensor::cat(parts.collect(), 0));
    let mut rest = &all[..];
    let mut matrices = Vec::with_capacity(layers.len());
    for layer in layers {
        let (one, after) = rest.split_at(layer.weights());
        matrices.push(to_rows(layer, one));
        rest = after;
    }
    matrices
}

/// Returns the mean absolute weight of every row of `layers`, in one transfer.
///
/// # Panics
///
/// Panics if the network has no parameter of a layer's name.
pub fn row_sizes(network: &Network, layers: &[LayerSpec]) -> Vec<Vec<f32>> {
    let mut found = BTreeMap::new();
    visit(network, |info, values| {
        found.insert(info.name.clone(), values);
    });
    let sizes = |layer: &LayerSpec| {
        let weight = found[&layer.name].clone().abs();
        let [units, width] = [layer.units(), layer.width()];
        match layer.kind {
            Kind::Conv => weight.reshape([units, width]).mean_dim(1).reshape([units]),
            Kind::Linear => weight.reshape([width, units]).mean_dim(0).reshape([units]),
        }
    };
    split(layers.iter().map(sizes).collect())
}

/// Returns for every input channel of `layers` the sum of weight times gradient over all weights that read it, in one
/// transfer.
///
/// # Panics
///
/// Panics if the network has no parameter of a layer's name, or there is no gradient for one.
pub fn column_slopes(network: &Network, gradients: &Gradients, layers: &[LayerSpec]) -> Vec<Vec<f32>> {
    let mut found = BTreeMap::new();
    visit(network, |info, values| {
        found.insert(info.name.clone(), values);
    });
    let slopes = |layer: &LayerSpec| {
        let products = found[&layer.name].clone() * gradients[&layer.name].clone();
        let [units, columns] = [layer.units(), layer.shape[1]];
        match layer.kind {
            Kind::Conv => {
                let of_rows = products.reshape([units, columns, layer.width() / columns]).sum_dim(2);
                of_rows.sum_dim(0).reshape([columns])
            }
            Kind::Linear => products.reshape([columns, units]).sum_dim(1).reshape([columns]),
        }
    };
    split(layers.iter().map(slopes).collect())
}

/// Returns for every row of `layers` the sum of weight times gradient, in one transfer.
///
/// # Panics
///
/// Panics if the network has no parameter of a layer's name, or there is no gradient for one.
pub fn row_slopes(network: &Network, gradients: &Gradients, layers: &[LayerSpec]) -> Vec<Vec<f32>> {
    let mut found = BTreeMap::new();
    visit(network, |info, values| {
        found.insert(info.name.clone(), values);
    });
    let slopes = |layer: &LayerSpec| {
        let products = found[&layer.name].clone() * gradients[&layer.name].clone();
        let [units, width] = [layer.units(), layer.width()];
        match layer.kind {
            Kind::Conv => products.reshape([units, width]).sum_dim(1).reshape([units]),
            Kind::Linear => products.reshape([width, units]).sum_dim(0).reshape([units]),
        }
    };
    split(layers.iter().map(slopes).collect())
}

/// Reads tensors to the host in one transfer.
fn split(parts: Vec<Tensor<1>>) -> Vec<Vec<f32>> {
    let lengths: Vec<usize> = parts.iter().map(|part| part.dims()[0]).collect();
    if parts.is_empty() {
        return Vec::new();
    }
    let mut all = to_host(Tensor::cat(parts, 0)).into_iter();
    lengths.into_iter().map(|length| all.by_ref().take(length).collect()).collect()
}

/// Returns the id of every parameter, by name.
pub fn ids(network: &Network) -> BTreeMap<String, ParamId> {
    let mut ids = BTreeMap::new();
    visit(network, |info, _| {
        ids.insert(info.name.clone(), info.id);
    });
    ids
}

/// Tells a network's kernels which weights of its layers are kept, where `before` did until now; layers that keep all
/// of theirs are left out.
pub fn sparsity<'a>(
    network: &Network,
    masks: impl IntoIterator<Item = (&'a LayerSpec, &'a Mask)>,
    before: &Sparsity,
) -> Sparsity {
    let ids = ids(network);
    let mut sparsity = Sparsity::default();
    for (layer, mask) in masks {
        if mask.kept() == mask.len() {
            continue;
        }
        match (layer.kind, &layer.shape[..]) {
            (Kind::Conv, [out, inp, height, width]) => {
                sparsity.insert(ids[&layer.name], [*out, *inp, *height, *width], mask.iter().collect(), before);
            }
            (Kind::Linear, [out, inp]) => {
                let kept: Vec<bool> = mask.iter().collect();
                sparsity.insert_linear(ids[&layer.name], [*out, *inp], &kept, before);
            }
            (kind, shape) => unreachable!("a layer of kind {kind:?} has the shape {shape:?}"),
        }
    }
    sparsity
}

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
}

/// Returns how often this thread has read a tensor to the host: [`to_host`] is the one place where training does.
pub fn reads() -> u64 {
    READS.get()
}

/// Reads a flat tensor to the host, which waits for all that its device was told to do.
pub fn to_host(values: Tensor<1>) -> Vec<f32> {
    READS.set(READS.get() + 1);
    values.into_data().try_to_vec().expect("parameters are f32")
}

/// Writes host values to a flat tensor on `device`.
pub fn to_device(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

/// Turns a layer's stored values into rows of units.
pub fn to_rows<T: Copy>(layer: &LayerSpec, stored: &[T]) -> Vec<T> {
    match layer.kind {
        Kind::Conv => stored.to_vec(),
        Kind::Linear => transposed(stored, layer.width(), layer.units()),
    }
}

/// Turns rows of units into the order in which burn stores the layer.
pub fn to_storage<T: Copy>(layer: &LayerSpec, rows: &[T]) -> Vec<T> {
    match layer.kind {
        Kind::Conv => rows.to_vec(),
        Kind::Linear => transposed(rows, layer.units(), layer.width()),
    }
}

fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// The path from the network to the parameter being visited.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_string());
        }
    }

    fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    fn name(&self) -> String {
        self.0.join(".")
    }

    fn info(&self, id: ParamId, shape: &[usize], trainable: bool) -> Info {
        Info { name: self.name(), id, shape: shape.to_vec(), trainable }
    }
}

struct Reader<F> {
    path: Path,
    see: F,
}

impl<F: FnMut(&Info, Tensor<1>)> ModuleVisitor for Reader<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val();
        let info = self.path.info(param.id, &values.dims(), values.is_require_grad());
        let values = values.inner();
        (self.see)(&info, flat(values));
    }
}

struct Writer<F> {
    path: Path,
    change: F,
}

impl<F: FnMut(&Info, Tensor<1>) -> Option<Tensor<1>>> ModuleMapper for Writer<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let shape = old.dims();
        let trains = old.is_require_grad();
        let info = self.path.info(id, &shape, trains);
        let autodiff = old.device().is_autodiff();
        let new = match (self.change)(&info, flat(old.clone().inner())) {
            None => old,
            Some(values) => {
                let values = values.reshape(shape);
                let values = if autodiff { Tensor::from_inner(values) } else { values };
                values.set_require_grad(trains)
            }
        };
        Param::from_mapped_value(id, new, mapper)
    }
}

struct Namer {
    path: Path,
    ids: BTreeMap<String, ParamId>,
}

impl ModuleMapper for Namer {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, values, mapper) = param.consume();
        Param::from_mapped_value(self.ids.get(&self.path.name()).copied().unwrap_or(id), values, mapper)
    }
}

struct Taker<'a> {
    path: Path,
    gradients: GradientsParams,
    taken: &'a mut Gradients,
}

impl ModuleVisitor for Taker<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.taken.insert(self.path.name(), flat(gradient));
        }
    }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let length = tensor.dims().iter().product::<usize>();
    tensor.reshape([length])
}

#[cfg(test)]
mod tests {
    use super::*;
    use bonsai_models::Architecture;

    fn linear() -> LayerSpec {
        LayerSpec { name: "fc.weight".into(), kind: Kind::Linear, shape: vec![2, 3], macs: 6 }
    }

    #[test]
    fn rows_of_a_linear_layer_are_its_outputs() {
        // Stored [in = 3, out = 2].
        let stored = [1, 2, 3, 4, 5, 6];
        let rows = to_rows(&linear(), &stored);
        assert_eq!(rows, [1, 3, 5, 2, 4, 6]);
        assert_eq!(to_storage(&linear(), &rows), stored);
    }

    #[test]
    fn a_network_that_is_mapped_keeps_training_and_what_was_not_changed() {
        let device = Device::flex().autodiff();
        let architecture = Architecture::new("lenet5", 10, [1, 28, 28]);
        let network = Network::new(&architecture, 0, &device).unwrap();
        let graph = architecture.graph().unwrap();
        let before = weights(&network, &graph.layers);

        let first = graph.layers[0].name.clone();
        let network = map(network, |info, values| (info.name == first).then(|| values * 2.0));
        let after = weights(&network, &graph.layers);
        assert!(before[0].iter().zip(&after[0]).all(|(b, a)| b * 2.0 == *a));
        assert_eq!(before[1..], after[1..]);

        let loss = network.forward(Tensor::ones([2, 1, 28, 28], &device)).sum();
        let gradients = gradients(&network, loss.backward());
        let mut trained = Vec::new();
        visit(&network, |info, _| trained.extend(info.trainable.then(|| info.name.clone())));
        trained.sort();
        assert_eq!(gradients.keys().cloned().collect::<Vec<_>>(), trained);
    }
}
