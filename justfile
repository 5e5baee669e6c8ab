# `just` alone lists the recipes; each is one line.

# Hands arguments on as they were quoted.
set positional-arguments

[private]
default:
    @just --list

# Train an experiment, as in: just train shapes10-resnet20-granet
train *ARGS:
    cargo run --release --bin bonsai -- train "$@"

# Show every mask event of an experiment before it is started
plan *ARGS:
    cargo run --release --bin bonsai -- plan "$@"

# Run all tests
test:
    cargo test --release --workspace

# Check format and lints
check:
    cargo fmt --all --check && cargo clippy --release --workspace --all-targets -- -D warnings

# Time training steps against PyTorch's, as in: just bench resnet20 vgg19 --threads 1,2
bench *ARGS:
    cargo build --release --bin bonsai && python3 experiments/bench/run.py "$@"

# Time training steps on this machine's GPU, beside PyTorch's where it is installed
bench-gpu *ARGS:
    cargo build --release --bin bonsai && python3 experiments/bench/gpu.py "$@"

# Run the kernels' tests under the address sanitizer
sanitize *ARGS:
    crates/kernels/sanitize.sh "$@"

# Hold ONNX files of every kind of network to ONNX Runtime (pip install numpy onnx onnxruntime)
onnx-check:
    cargo run --release --example zoo -- target/onnx && python3 experiments/onnx/check.py target/onnx

# List, fetch or check data sets, as in: just data fetch cifar10
data *ARGS:
    cargo run --release --bin bonsai -- data "$@"

# List or show finished runs, as in: just runs list
runs *ARGS:
    cargo run --release --bin bonsai -- runs "$@"

# Start a scheduler in a crate of its own, as in: just new-scheduler my-idea
new-scheduler *ARGS:
    cargo run --release --bin bonsai -- new-scheduler "$@"

# Draw runs on one page, as in: just report shapes10-resnet20-granet --out granet.html
report *ARGS:
    cargo run --release --bin bonsai -- report "$@"

# Compare two experiments over their seeds
compare *ARGS:
    cargo run --release --bin bonsai -- compare "$@"

# Open a report in Chromium: light, dark, phone, paper (needs Python's playwright)
report-check *ARGS:
    python3 experiments/report/check.py "$@"

# Train what a table of claims lacks, as in: just reproduce granet-cifar --short
reproduce *ARGS:
    cargo run --release --bin bonsai -- reproduce "$@"

# Set a paper's claims beside what was found, as in: just table granet-cifar
table *ARGS:
    cargo run --release --bin bonsai -- table "$@"

# Train every combination of some values, as in: just sweep shapes10-granet-sparsity --jobs 2
sweep *ARGS:
    cargo run --release --bin bonsai -- sweep "$@"
