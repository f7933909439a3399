//! The iteration orders of Java's hash and tree collections, as far as `Topology.describe()` shows them.
//!
//! `InternalTopologyBuilder.describeSubtopology` walks a `HashMap` of nodes and puts them into `TreeSet`s whose comparator
//! reads sizes that change while the sets fill, so the printed order is that of the tree's shape at insertion. Tools and
//! tests compare this text, so we print the same.

use std::cmp::Ordering;

/// `String.hashCode()`.
fn hash_code(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

fn bucket(text: &str, capacity: usize) -> usize {
    let hash = hash_code(text) as u32;
    (hash ^ (hash >> 16)) as usize & (capacity - 1)
}

/// The capacity of a `HashMap` that grew by insertion from its default of 16.
fn grown(len: usize) -> usize {
    let mut capacity = 16;
    while len * 4 > capacity * 3 {
        capacity *= 2;
    }
    capacity
}

/// Positions of `names` in the order that a `HashMap` or `HashSet`, filled in the given order, iterates.
pub(crate) fn hash_map_order(names: &[&str]) -> Vec<usize> {
    order(names, grown(names.len()))
}

/// The same for `new HashSet<>(collection)`, which sizes itself beforehand.
pub(crate) fn hash_set_copy_order(names: &[&str]) -> Vec<usize> {
    let wanted = (names.len() as f32 / 0.75) as usize + 1;
    order(names, wanted.max(16).next_power_of_two())
}

fn order(names: &[&str], capacity: usize) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..names.len()).collect();
    positions.sort_by_key(|&i| bucket(names[i], capacity));
    positions
}

/// A `TreeSet`: a red-black tree that asks its comparator at insertion only, and so keeps a shape that may no longer fit
/// what the comparator says later.
#[derive(Debug, Default)]
pub(crate) struct TreeSet<T> {
    nodes: Vec<TreeNode<T>>,
    root: Option<usize>,
}

#[derive(Debug)]
struct TreeNode<T> {
    item: T,
    left: Option<usize>,
    right: Option<usize>,
    parent: Option<usize>,
    red: bool,
}

impl<T> TreeSet<T> {
    pub(crate) fn new() -> Self {
        Self { nodes: Vec::new(), root: None }
    }

    /// `TreeMap.put`: an item that equals one in the set changes nothing.
    pub(crate) fn insert(&mut self, item: T, compare: impl Fn(&T, &T) -> Ordering) {
        let mut parent = None;
        let mut at = self.root;
        let mut went = Ordering::Equal;
        while let Some(here) = at {
            parent = at;
            went = compare(&item, &self.nodes[here].item);
            at = match went {
                Ordering::Less => self.nodes[here].left,
                Ordering::Greater => self.nodes[here].right,
                Ordering::Equal => return,
            };
        }
        let new = self.nodes.len();
        self.nodes.push(TreeNode { item, left: None, right: None, parent, red: true });
        match parent {
            None => self.root = Some(new),
            Some(parent) if went == Ordering::Less => self.nodes[parent].left = Some(new),
            Some(parent) => self.nodes[parent].right = Some(new),
        }
        self.fix_after_insertion(new);
    }

    fn is_red(&self, node: Option<usize>) -> bool {
        node.is_some_and(|n| self.nodes[n].red)
    }

    fn fix_after_insertion(&mut self, mut x: usize) {
        while let Some(parent) = self.nodes[x].parent.filter(|p| self.nodes[*p].red) {
            // A red node is never the root, so a grandparent exists.
            let Some(grand) = self.nodes[parent].parent else { break };
            let parent_is_left = self.nodes[grand].left == Some(parent);
            let uncle = if parent_is_left { self.nodes[grand].right } else { self.nodes[grand].left };
            if let Some(uncle) = uncle.filter(|_| self.is_red(uncle)) {
                self.nodes[parent].red = false;
                self.nodes[uncle].red = false;
                self.nodes[grand].red = true;
                x = grand;
                continue;
            }
            let x_is_inner = (self.nodes[parent].left == Some(x)) != parent_is_left;
            let top = if x_is_inner {
                self.rotate(parent, parent_is_left);
                x = parent;
                self.nodes[x].parent.unwrap_or(parent)
            } else {
                parent
            };
            self.nodes[top].red = false;
            self.nodes[grand].red = true;
            self.rotate(grand, !parent_is_left);
        }
        if let Some(root) = self.root {
            self.nodes[root].red = false;
        }
    }

    /// Rotates around `p`: to the left its right child rises, else its left child.
    fn rotate(&mut self, p: usize, left: bool) {
        let Some(up) = (if left { self.nodes[p].right } else { self.nodes[p].left }) else { return };
        let inner = if left { self.nodes[up].left } else { self.nodes[up].right };
        if left {
            self.nodes[p].right = inner;
            self.nodes[up].left = Some(p);
        } else {
            self.nodes[p].left = inner;
            self.nodes[up].right = Some(p);
        }
        if let Some(inner) = inner {
            self.nodes[inner].parent = Some(p);
        }
        let above = self.nodes[p].parent;
        self.nodes[up].parent = above;
        self.nodes[p].parent = Some(up);
        match above {
            None => self.root = Some(up),
            Some(above) if self.nodes[above].left == Some(p) => self.nodes[above].left = Some(up),
            Some(above) => self.nodes[above].right = Some(up),
        }
    }

    /// The items in the tree's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut stack = Vec::new();
        let mut at = self.root;
        std::iter::from_fn(move || {
            while let Some(here) = at {
                stack.push(here);
                at = self.nodes[here].left;
            }
            let here = stack.pop()?;
            at = self.nodes[here].right;
            Some(&self.nodes[here].item)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hash_codes_are_javas() {
        assert_eq!(hash_code("KSTREAM-SOURCE-0000000000"), {
            let mut h = 0i64;
            for c in "KSTREAM-SOURCE-0000000000".chars() {
                h = (h * 31 + c as i64) & 0xffff_ffff;
            }
            h as u32 as i32
        });
        assert_eq!(hash_code("Aa"), hash_code("BB"));
        assert_eq!(hash_code("hello"), 99_162_322);
    }

    proptest! {
        #[test]
        fn a_tree_set_with_a_steady_comparator_sorts(items in proptest::collection::vec(0u16..500, 0..200)) {
            let mut set = TreeSet::new();
            for item in &items {
                set.insert(*item, Ord::cmp);
            }
            let mut sorted = items.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(set.iter().copied().collect::<Vec<_>>(), sorted);
        }
    }
}
