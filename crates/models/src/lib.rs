//! Turns a name into a network: layers, shapes, parameters and multiply-accumulates.
