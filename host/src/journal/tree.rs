//! The Merkle tree of RFC 6962, section 2: hashes, roots and proofs. Pure.
//!
//! Owns no hash: whoever has them answers for whole subtrees ([`Subtrees`]). A proof costs O(log n) of those.
//! Refuses to know: tiles, files, signatures, what a leaf is.

use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The root of a tree without leaves.
pub fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The hash of a leaf.
pub fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of what has these two below it.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a subtree whose 2^k nodes of one height these are.
pub fn fold(hashes: &[Hash]) -> Hash {
    debug_assert!(hashes.len().is_power_of_two());
    match hashes {
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node(&fold(left), &fold(right))
        }
    }
}

/// Who knows the roots of complete subtrees.
pub trait Subtrees {
    type Error;

    /// The root over the leaves from `index` * 2^`height` to before (`index` + 1) * 2^`height`.
    fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The root over the leaves from `from` to before `to`, a range that RFC 6962 makes by splitting a tree.
pub fn root<S: Subtrees>(source: &mut S, from: u64, to: u64) -> Result<Hash, S::Error> {
    let width = to - from;
    if width == 0 {
        return Ok(empty());
    }
    if width.is_power_of_two() && from.is_multiple_of(width) {
        return source.subtree(width.trailing_zeros(), from / width);
    }
    let middle = from + split(width);
    Ok(node(&root(source, from, middle)?, &root(source, middle, to)?))
}

/// The largest power of two below `width`, which is above 1.
fn split(width: u64) -> u64 {
    1 << (u64::BITS - 1 - (width - 1).leading_zeros())
}

/// The audit path of leaf `index` in the tree of the first `size`: from the leaf's sibling up. `index` is below `size`.
pub fn inclusion<S: Subtrees>(source: &mut S, index: u64, size: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(root(source, middle, to)?);
            to = middle;
        } else {
            path.push(root(source, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The consistency proof (RFC 6962, 2.1.2) that the tree of `new` leaves begins with that of `old`. `old` is at most `new`.
pub fn consistency<S: Subtrees>(source: &mut S, old: u64, new: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut from, mut to, mut whole, mut proof) = (0, new, true, Vec::new());
    if old == 0 {
        return Ok(proof);
    }
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(root(source, middle, to)?);
            to = middle;
        } else {
            proof.push(root(source, from, middle)?);
            from = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(root(source, from, to)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether the leaf with this hash stands at `index` in the tree of `size` leaves with this root.
pub fn is_included(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether the tree of `new` leaves begins with that of `old`.
pub fn is_consistent(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 || old > new {
        return old == 0 && proof.is_empty() && *old_root == empty();
    }
    // Where the old tree is a whole subtree of the new one, the proof leaves its root out.
    let (first, rest) = match (old.is_power_of_two(), proof.split_first()) {
        (true, _) => (*old_root, proof),
        (false, Some((first, rest))) => (*first, rest),
        (false, None) => return false,
    };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut seen_old, mut seen_new) = (first, first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            seen_old = node(sibling, &seen_old);
            seen_new = node(sibling, &seen_new);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            seen_new = node(&seen_new, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && seen_old == *old_root && seen_new == *new_root
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// The tree as section 2.1 defines it, from its leaves.
    struct Naive(Vec<Hash>);

    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty(),
            [only] => *only,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node(&naive_root(left), &naive_root(right))
            }
        }
    }

    impl Subtrees for Naive {
        type Error = Infallible;

        fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, Infallible> {
            let from = usize::try_from(index << height).unwrap();
            Ok(fold(&self.0[from..from + (1 << height)]))
        }
    }

    fn leaves(count: u64) -> Naive {
        Naive((0..count).map(|n| leaf(&n.to_be_bytes())).collect())
    }

    fn hash(text: &str) -> Hash {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn the_roots_are_those_of_the_published_vectors() {
        let inputs =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let leaves: Vec<Hash> = inputs.iter().map(|input| leaf(&hex::decode(input).unwrap())).collect();
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, want) in roots.into_iter().enumerate() {
            let Ok(got) = root(&mut Naive(leaves.clone()), 0, size as u64);
            assert_eq!(got, hash(want), "{size}");
        }
    }

    proptest! {
        #[test]
        fn every_leaf_is_proven_and_no_other_and_every_tree_begins_with_every_smaller_one(
            size in 1u64..400, at in 0u64..400, old in 0u64..400, flip in 0usize..20,
        ) {
            let (index, old) = (at % size, old % (size + 1));
            let mut tree = leaves(size);
            let top = naive_root(&tree.0);
            let Ok(got) = root(&mut tree, 0, size);
            prop_assert_eq!(got, top);

            let Ok(mut proof) = inclusion(&mut tree, index, size);
            let this = tree.0[index as usize];
            prop_assert!(is_included(this, index, size, &proof, &top));
            prop_assert!(!is_included(this, (index + 1) % size, size, &proof, &top) || size == 1);
            prop_assert!(!is_included(leaf(b"another"), index, size, &proof, &top));
            prop_assert!(!is_included(this, index, size, &[proof.as_slice(), &[this]].concat(), &top));
            if let Some(broken) = proof.len().checked_sub(1).map(|last| flip.min(last)) {
                proof[broken][0] ^= 1;
                prop_assert!(!is_included(this, index, size, &proof, &top));
            }

            let before = naive_root(&tree.0[..old as usize]);
            let Ok(mut proof) = consistency(&mut tree, old, size);
            prop_assert!(is_consistent(old, &before, size, &top, &proof));
            prop_assert!(!is_consistent(old, &leaf(b"another"), size, &top, &proof));
            if old > 0 {
                prop_assert!(!is_consistent(old, &before, size, &leaf(b"another"), &proof));
            }
            if let Some(broken) = proof.len().checked_sub(1).map(|last| flip.min(last)) {
                proof[broken][0] ^= 1;
                prop_assert!(!is_consistent(old, &before, size, &top, &proof));
            }
        }
    }
}
