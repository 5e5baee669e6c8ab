//! The bonsai command: train, plan, eval, data, model and runs.
