# `just` alone lists the recipes; each is one cargo line.

[private]
default:
    @just --list

# Train an experiment, as in: just train shapes10-resnet20-granet
train *ARGS:
    cargo run --release --bin bonsai -- train {{ARGS}}

# Show every mask event of an experiment before it is started
plan *ARGS:
    cargo run --release --bin bonsai -- plan {{ARGS}}

# Run all tests
test:
    cargo test --release --workspace

# Check format and lints
check:
    cargo fmt --all --check && cargo clippy --release --workspace --all-targets -- -D warnings

# Time training steps
bench *ARGS:
    cargo run --release --bin bonsai -- bench {{ARGS}}

# List, fetch or check data sets, as in: just data fetch cifar10
data *ARGS:
    cargo run --release --bin bonsai -- data {{ARGS}}

# List or show finished runs, as in: just runs list
runs *ARGS:
    cargo run --release --bin bonsai -- runs {{ARGS}}
