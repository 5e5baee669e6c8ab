//! Says of every weight of a layer whether it is kept.

/// One flag per weight: `true` is kept, `false` is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    kept: Vec<bool>,
    /// How many flags are set.
    count: usize,
}

impl Mask {
    /// Keeps all of `n` weights.
    pub fn dense(n: usize) -> Self {
        Self { kept: vec![true; n], count: n }
    }

    /// Keeps none of `n` weights.
    pub fn empty(n: usize) -> Self {
        Self { kept: vec![false; n], count: 0 }
    }

    /// Keeps the weights whose flag is set.
    pub fn from_bools(kept: Vec<bool>) -> Self {
        let count = kept.iter().filter(|&&kept| kept).count();
        Self { kept, count }
    }

    /// Returns the number of weights, kept or not.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Says whether the layer has no weight at all.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns the number of weights that are kept.
    pub fn kept(&self) -> usize {
        self.count
    }

    /// Says whether weight `i` is kept.
    pub fn get(&self, i: usize) -> bool {
        self.kept[i]
    }

    /// Keeps or removes weight `i`.
    pub fn set(&mut self, i: usize, kept: bool) {
        self.count = self.count + usize::from(kept) - usize::from(self.kept[i]);
        self.kept[i] = kept;
    }

    /// Visits the flags in the order of the weights.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        self.kept.iter().copied()
    }

    /// Packs eight weights into a byte: weight `i` is bit `i % 8` of byte `i / 8`, the lowest bit first.
    pub fn pack(&self) -> Vec<u8> {
        self.kept.chunks(8).map(|eight| eight.iter().rev().fold(0, |byte, &kept| byte << 1 | u8::from(kept))).collect()
    }

    /// Reads the flags of `n` weights back from their packed form.
    ///
    /// # Errors
    ///
    /// When the number of bytes is not the one that `n` weights take, or a bit behind the last weight is set.
    pub fn unpack(bytes: &[u8], n: usize) -> Result<Self, String> {
        if bytes.len() != n.div_ceil(8) {
            return Err(format!("a mask of {n} weights takes {} bytes, but there are {}", n.div_ceil(8), bytes.len()));
        }
        let flags = |byte: &u8| (0..8).map(|bit| byte >> bit & 1 == 1).collect::<Vec<_>>();
        let mut kept: Vec<bool> = bytes.iter().flat_map(flags).collect();
        if kept[n..].contains(&true) {
            return Err(format!("a mask of {n} weights has a bit set behind its last weight"));
        }
        kept.truncate(n);
        Ok(Self::from_bools(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_weight_is_the_lowest_bit() {
        let mask = Mask::from_bools(vec![true, false, true, true, false, false, false, false, true]);
        assert_eq!(mask.pack(), [0b0000_1101, 0b0000_0001]);
        assert_eq!((mask.len(), mask.kept(), mask.get(1), mask.get(8)), (9, 4, false, true));
    }

    #[test]
    fn the_count_follows_every_change() {
        let mut mask = Mask::dense(4);
        for (i, kept) in [(0, false), (0, false), (1, false), (0, true), (3, true)] {
            mask.set(i, kept);
        }
        assert_eq!(mask, Mask::from_bools(vec![true, false, true, true]));
    }

    #[test]
    fn a_damaged_mask_is_refused_with_a_sentence() {
        assert_eq!(Mask::unpack(&[0; 3], 9).unwrap_err(), "a mask of 9 weights takes 2 bytes, but there are 3");
        assert_eq!(Mask::unpack(&[0, 2], 9).unwrap_err(), "a mask of 9 weights has a bit set behind its last weight");
        assert_eq!(Mask::unpack(&[], 0).unwrap(), Mask::empty(0));
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(kept in prop::collection::vec(any::<bool>(), 0..100)) {
            let mask = Mask::from_bools(kept);
            prop_assert_eq!(Mask::unpack(&mask.pack(), mask.len()).unwrap(), mask);
        }

        #[test]
        fn any_bytes_give_a_mask_or_a_sentence(bytes in prop::collection::vec(any::<u8>(), 0..12), n in 0usize..100) {
            match Mask::unpack(&bytes, n) {
                Ok(mask) => prop_assert_eq!(mask.pack(), bytes),
                Err(sentence) => prop_assert!(sentence.starts_with("a mask of")),
            }
        }
    }
}
