#!/usr/bin/env bash
# Runs the kernels' tests under the address sanitizer: the crate without what knows burn, so that burn is not built again. The
# test that compares speeds is left out. Sanitizers are a feature of nightly compilers that a stable one has too if it is told to.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
scratch=$root/target/sanitized
rm -rf "$scratch/src" "$scratch/tests"
mkdir -p "$scratch/src" "$scratch/tests"

for source in "$here"/src/*; do
    case ${source##*/} in
    lib.rs | ops | ops.rs | cube | cube.rs) ;;
    *) ln -s "$source" "$scratch/src/" ;;
    esac
done
for test in guard_pages unit convolution linear; do
    ln -s "$here/tests/$test.rs" "$scratch/tests/"
done
sed -e '/^\/\/!/d' -e '/^mod ops;/d' -e '/^pub mod cube;/d' -e '/^pub use ops::{/,/^};/d' "$here/src/lib.rs" >"$scratch/src/lib.rs"
# What only the operations use is unused here.
sed -i.bak '1i #![allow(dead_code, unused_imports)]' "$scratch/src/lib.rs"
cp "$root/Cargo.lock" "$scratch/"
cat >"$scratch/Cargo.toml" <<EOF
[package]
name = "bonsai-kernels"
version = "0.0.0"
edition = "2024"

[dependencies]
libc = "0.2"
rayon = "1"
serde = { version = "1", features = ["derive"] }

[dev-dependencies]
bonsai-random = { path = "$root/crates/random" }
proptest = "1"
rand = "0.10"

[workspace]
EOF

host=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
    cargo test --quiet --release --manifest-path "$scratch/Cargo.toml" --target "$host" --lib --tests -- --skip wider_instructions "$@"
