//! An ordered map in memory whose copies share what they have in common: a snapshot is one reference, and the first change
//! to a row after it copies the way to that row, a few dozen references a level.
//!
//! It is a B+ tree: rows in the leaves, all at one depth. An ordinary `BTreeMap` cannot be read while it changes, and
//! copying it costs as much as it is large.

use std::ops::Bound;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::KeyRange;

/// Entries of a node at most.
const WIDTH: usize = 32;

#[derive(Debug, Clone)]
enum Node {
    Leaf(Vec<(Bytes, Bytes)>),
    /// Children, never none, each with a key that none of its own is less than; the first child takes whatever is less.
    Branch(Vec<(Bytes, Arc<Node>)>),
}

/// An ordered map of bytes. Cloning it is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: Arc<Node>,
    len: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

/// The child that a key belongs to.
fn child_of(children: &[(Bytes, Arc<Node>)], key: &[u8]) -> usize {
    children.partition_point(|(from, _)| from[..] <= *key).saturating_sub(1)
}

/// The upper part of a node that has grown too wide. Keys that come in ascending order leave full nodes behind.
fn split<T>(entries: &mut Vec<T>, changed: usize) -> Option<Vec<T>> {
    if entries.len() <= WIDTH {
        return None;
    }
    let at = if changed + 1 == entries.len() { changed } else { entries.len() / 2 };
    Some(entries.split_off(at))
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(rows) => rows.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// Whether the key is new, and the part of the node that must stand beside it.
    fn insert(&mut self, key: &[u8], value: Bytes) -> (bool, Option<(Bytes, Self)>) {
        match self {
            Self::Leaf(rows) => match rows.binary_search_by(|(k, _)| k[..].cmp(key)) {
                Ok(at) => {
                    rows[at].1 = value;
                    (false, None)
                }
                Err(at) => {
                    rows.insert(at, (Bytes::copy_from_slice(key), value));
                    let right = split(rows, at);
                    (true, right.map(|right| (right[0].0.clone(), Self::Leaf(right))))
                }
            },
            Self::Branch(children) => {
                let at = child_of(children, key);
                let (new, split_off) = Arc::make_mut(&mut children[at].1).insert(key, value);
                let Some((from, right)) = split_off else { return (new, None) };
                children.insert(at + 1, (from, Arc::new(right)));
                let right = split(children, at + 1);
                (new, right.map(|right| (right[0].0.clone(), Self::Branch(right))))
            }
        }
    }

    /// Removes a key that is there.
    fn remove(&mut self, key: &[u8]) {
        match self {
            Self::Leaf(rows) => {
                if let Ok(at) = rows.binary_search_by(|(k, _)| k[..].cmp(key)) {
                    rows.remove(at);
                }
            }
            Self::Branch(children) => {
                let at = child_of(children, key);
                let child = Arc::make_mut(&mut children[at].1);
                child.remove(key);
                match child.len() {
                    0 => _ = children.remove(at),
                    len if len < WIDTH / 4 => unite(children, at.saturating_sub(1)),
                    _ => {}
                }
            }
        }
    }
}

/// Makes one of a child and the next if both have little.
fn unite(children: &mut Vec<(Bytes, Arc<Node>)>, left: usize) {
    let right = left + 1;
    if right >= children.len() || children[left].1.len() + children[right].1.len() > WIDTH / 2 {
        return;
    }
    let (from, right) = children.remove(right);
    match (Arc::make_mut(&mut children[left].1), Arc::unwrap_or_clone(right)) {
        (Node::Leaf(rows), Node::Leaf(more)) => rows.extend(more),
        (Node::Branch(grandchildren), Node::Branch(mut more)) => {
            // ORDER: it is no longer the first, which takes whatever is less, and must say where it begins.
            more[0].0 = from;
            grandchildren.extend(more);
        }
        _ => unreachable!("all leaves are at one depth"),
    }
}

impl Tree {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(rows) => {
                    let at = rows.binary_search_by(|(k, _)| k[..].cmp(key)).ok()?;
                    return Some(&rows[at].1);
                }
                Node::Branch(children) => node = &children[child_of(children, key)].1,
            }
        }
    }

    /// Keeps a copy of the key.
    pub(crate) fn insert(&mut self, key: &[u8], value: Bytes) {
        let (new, split_off) = Arc::make_mut(&mut self.root).insert(key, value);
        self.len += usize::from(new);
        if let Some((from, right)) = split_off {
            let left = std::mem::take(self);
            let children = vec![(Bytes::new(), left.root), (from, Arc::new(right))];
            *self = Self { root: Arc::new(Node::Branch(children)), len: left.len };
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if self.get(key).is_none() {
            return;
        }
        self.len -= 1;
        Arc::make_mut(&mut self.root).remove(key);
        loop {
            match &*self.root {
                Node::Branch(children) if children.is_empty() => *self = Self::default(),
                Node::Branch(children) if children.len() == 1 => self.root = children[0].1.clone(),
                _ => return,
            }
        }
    }

    /// The rows inside a range, in its direction.
    pub(crate) fn range(&self, range: &KeyRange) -> Scan<'_> {
        let (from, to) = range.bounds();
        let reverse = range.reverse;
        let (near, far) = if reverse { (to, range.from.clone()) } else { (from, range.to.clone()) };
        let mut scan = Scan { reverse, far, path: Vec::new(), leaf: [].iter() };
        if range.is_empty() {
            return scan;
        }
        let mut node = &*self.root;
        loop {
            match node {
                Node::Branch(children) => {
                    let at = match near {
                        Bound::Included(key) | Bound::Excluded(key) => child_of(children, key),
                        Bound::Unbounded if reverse => children.len() - 1,
                        Bound::Unbounded => 0,
                    };
                    let rest = if reverse { &children[..at] } else { &children[at + 1..] };
                    scan.path.push(rest.iter());
                    node = &children[at].1;
                }
                Node::Leaf(rows) => {
                    let before = |key: &[u8], itself: bool| {
                        rows.partition_point(|(k, _)| k[..] < *key || (itself && k[..] == *key))
                    };
                    scan.leaf = match near {
                        Bound::Unbounded => rows.iter(),
                        Bound::Included(key) if reverse => rows[..before(key, true)].iter(),
                        Bound::Excluded(key) if reverse => rows[..before(key, false)].iter(),
                        Bound::Included(key) => rows[before(key, false)..].iter(),
                        Bound::Excluded(key) => rows[before(key, true)..].iter(),
                    };
                    return scan;
                }
            }
        }
    }
}

/// The rows of a range.
pub(crate) struct Scan<'a> {
    reverse: bool,
    far: Bound<Bytes>,
    /// The children still to come of every branch on the way to the leaf.
    path: Vec<slice::Iter<'a, (Bytes, Arc<Node>)>>,
    leaf: slice::Iter<'a, (Bytes, Bytes)>,
}

fn step<'a, T>(entries: &mut slice::Iter<'a, T>, reverse: bool) -> Option<&'a T> {
    if reverse { entries.next_back() } else { entries.next() }
}

impl<'a> Iterator for Scan<'a> {
    type Item = (&'a Bytes, &'a Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = step(&mut self.leaf, self.reverse) {
                let inside = match &self.far {
                    Bound::Unbounded => true,
                    Bound::Included(far) => {
                        if self.reverse {
                            key >= far
                        } else {
                            key <= far
                        }
                    }
                    Bound::Excluded(far) => {
                        if self.reverse {
                            key > far
                        } else {
                            key < far
                        }
                    }
                };
                if inside {
                    return Some((key, value));
                }
                (self.path, self.leaf) = (Vec::new(), [].iter());
            }
            let mut node = loop {
                match step(self.path.last_mut()?, self.reverse) {
                    Some((_, child)) => break child,
                    None => _ = self.path.pop(),
                }
            };
            while let Node::Branch(children) = &**node {
                let mut rest = children.iter();
                let Some((_, child)) = step(&mut rest, self.reverse) else { break };
                self.path.push(rest);
                node = child;
            }
            if let Node::Leaf(rows) = &**node {
                self.leaf = rows.iter();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u16) -> Bytes {
        Bytes::copy_from_slice(&n.to_be_bytes())
    }

    /// Depth and order of a node; how many rows it has.
    fn check(node: &Node, from: Option<&Bytes>, depth: usize) -> (usize, usize) {
        assert!(node.len() <= WIDTH);
        match node {
            Node::Leaf(rows) => {
                assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
                assert!(rows.iter().all(|(k, _)| from.is_none_or(|from| k >= from)));
                (depth, rows.len())
            }
            Node::Branch(children) => {
                assert!(!children.is_empty());
                assert!(children[1..].is_sorted_by(|a, b| a.0 < b.0));
                let mut found = None;
                let mut rows = 0;
                for (at, (own, child)) in children.iter().enumerate() {
                    let (depth, of_child) = check(child, if at == 0 { from } else { Some(own) }, depth + 1);
                    assert_eq!(*found.get_or_insert(depth), depth, "one depth");
                    rows += of_child;
                }
                (found.unwrap(), rows)
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u16, u16),
        /// Ascending keys from here.
        Run(u16, u16),
        Remove(u16),
        RemoveRange(u16, u16),
        Snapshot,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let n = || 0..3_000u16;
        let op = prop_oneof![
            6 => (n(), any::<u16>()).prop_map(|(k, v)| Op::Insert(k, v)),
            2 => (n(), 0..800u16).prop_map(|(k, len)| Op::Run(k, len)),
            3 => n().prop_map(Op::Remove),
            2 => (n(), 0..900u16).prop_map(|(k, len)| Op::RemoveRange(k, len)),
            1 => Just(Op::Snapshot),
        ];
        proptest::collection::vec(op, 0..60)
    }

    fn rows(tree: &Tree, range: &KeyRange) -> Vec<(u16, u16)> {
        let number = |bytes: &Bytes| u16::from_be_bytes(bytes[..].try_into().unwrap());
        tree.range(range).map(|(k, v)| (number(k), number(v))).collect()
    }

    fn bound() -> impl Strategy<Value = Bound<u16>> {
        prop_oneof![
            Just(Bound::Unbounded),
            (0..3_100u16).prop_map(Bound::Included),
            (0..3_100u16).prop_map(Bound::Excluded),
        ]
    }

    proptest! {
        #[test]
        fn a_tree_is_a_sorted_map_and_its_snapshots_stand_still(
            ops in ops(), ranges in proptest::collection::vec((bound(), bound(), any::<bool>()), 1..6)
        ) {
            let mut tree = Tree::default();
            let mut model = BTreeMap::new();
            let mut snapshots = Vec::new();
            for op in ops {
                match op {
                    Op::Insert(k, v) => {
                        tree.insert(&key(k), key(v));
                        model.insert(k, v);
                    }
                    Op::Run(k, len) => for k in k..k + len {
                        tree.insert(&key(k), key(1));
                        model.insert(k, 1);
                    },
                    Op::Remove(k) => {
                        tree.remove(&key(k));
                        model.remove(&k);
                    }
                    Op::RemoveRange(k, len) => for k in k..k + len {
                        tree.remove(&key(k));
                        model.remove(&k);
                    },
                    Op::Snapshot => snapshots.push((tree.clone(), model.clone())),
                }
                prop_assert_eq!(check(&tree.root, None, 0).1, model.len());
                prop_assert_eq!(tree.len(), model.len());
            }
            snapshots.push((tree, model));
            for (tree, model) in snapshots {
                for (from, to, reverse) in &ranges {
                    let range = KeyRange { from: from.map(key), to: to.map(key), reverse: *reverse };
                    let mut want: Vec<(u16, u16)> =
                        if range.is_empty() { vec![] } else { model.range((*from, *to)).map(|(k, v)| (*k, *v)).collect() };
                    if *reverse { want.reverse(); }
                    prop_assert_eq!(rows(&tree, &range), want);
                }
                for k in (0..3_100).step_by(37) {
                    let want = model.get(&k).map(|v| key(*v));
                    prop_assert_eq!(tree.get(&key(k)), want.as_ref());
                }
            }
        }
    }

    #[test]
    fn ascending_keys_fill_the_nodes_and_removed_ones_leave_nothing() {
        let mut tree = Tree::default();
        for k in 0..10_000 {
            tree.insert(&key(k), key(k));
        }
        let Node::Branch(children) = &*tree.root else { panic!("it has more than one node") };
        let Node::Branch(leaves) = &*children[0].1 else { panic!("it has three levels") };
        assert!(leaves.iter().all(|(_, leaf)| leaf.len() == WIDTH));
        for k in 0..10_000 {
            tree.remove(&key(k));
        }
        assert!(matches!(&*tree.root, Node::Leaf(rows) if rows.is_empty()));
    }

    #[test]
    fn a_change_after_a_snapshot_copies_the_way_to_the_row_alone() {
        let mut tree = Tree::default();
        for k in 0..10_000 {
            tree.insert(&key(k), key(k));
        }
        let before = tree.clone();
        tree.insert(&key(5_000), key(1));
        let (Node::Branch(old), Node::Branch(new)) = (&*before.root, &*tree.root) else { panic!() };
        let copied = old.iter().zip(new).filter(|(a, b)| !Arc::ptr_eq(&a.1, &b.1)).count();
        assert_eq!(copied, 1);
        assert_eq!(before.get(&key(5_000)), Some(&key(5_000)));
    }
}
