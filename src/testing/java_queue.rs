//! Which input queue is next, as Kafka Streams' own test driver has it: a binary heap of the queues that hold records, by the
//! timestamps of their heads (`PartitionGroup.nonEmptyQueuesByTime`, a `java.util.PriorityQueue`). Among equal timestamps
//! the shape of the heap decides, so this is that heap.

use crate::record::Timestamp;

/// A heap of input queues.
#[derive(Debug, Default)]
pub(super) struct JavaQueue(Vec<(Timestamp, usize)>);

impl JavaQueue {
    pub(super) fn contains(&self, queue: usize) -> bool {
        self.0.iter().any(|(_, known)| *known == queue)
    }

    /// `PriorityQueue.offer`: `siftUp`.
    pub(super) fn offer(&mut self, head: Timestamp, queue: usize) {
        let mut at = self.0.len();
        self.0.push((head, queue));
        while at > 0 {
            let parent = (at - 1) / 2;
            if head >= self.0[parent].0 {
                break;
            }
            self.0.swap(at, parent);
            at = parent;
        }
    }

    /// `PriorityQueue.poll`: `siftDown`.
    pub(super) fn poll(&mut self) -> Option<usize> {
        let last = self.0.pop()?;
        let Some(first) = self.0.first_mut() else { return Some(last.1) };
        let first = std::mem::replace(first, last);
        let (mut at, len) = (0, self.0.len());
        while at < len / 2 {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let least = if right < len && self.0[left].0 > self.0[right].0 { right } else { left };
            if self.0[at].0 <= self.0[least].0 {
                break;
            }
            self.0.swap(at, least);
            at = least;
        }
        Some(first.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_comes_first_and_ties_go_by_the_shape_of_the_heap() {
        let mut queue = JavaQueue::default();
        for (head, at) in [(5, 0), (3, 1), (3, 2), (3, 3)] {
            queue.offer(head, at);
        }
        // What java.util.PriorityQueue gives for the same offers.
        assert_eq!(std::iter::from_fn(|| queue.poll()).collect::<Vec<_>>(), [1, 3, 2, 0]);
    }
}
