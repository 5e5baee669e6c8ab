//! Derives every random choice of bonsai from one seed.
//!
//! A stream is named by what it is for. Initial weights, masks, the order of an epoch and the crop of one image
//! each have a stream of their own, so none depends on how many numbers another one drew: a resumed run, another
//! thread count or another device sees the same numbers.

use std::fmt::Display;

pub use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// Returns the stream of random numbers for `purpose` and `key` under `seed`.
///
/// # Example
///
/// ```
/// use bonsai_random::stream;
/// assert_eq!(stream(0, "init", "conv.weight"), stream(0, "init", "conv.weight"));
/// assert_ne!(stream(0, "init", "conv.weight"), stream(1, "init", "conv.weight"));
/// ```
pub fn stream(seed: u64, purpose: &str, key: impl Display) -> ChaCha8Rng {
    // The separators keep ("ab", "c") and ("a", "bc") apart.
    let name = format!("{seed}\u{1f}{purpose}\u{1f}{key}");
    ChaCha8Rng::from_seed(Sha256::digest(name.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_names_differ() {
        let streams = [stream(0, "a", "bc"), stream(0, "ab", "c"), stream(0, "a", "b"), stream(1, "a", "bc")];
        for (i, one) in streams.iter().enumerate() {
            for other in &streams[i + 1..] {
                assert_ne!(one, other);
            }
        }
    }
}
