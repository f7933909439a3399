//! Nodes of a running task and the typed edges between them.

use std::cell::RefCell;
use std::rc::Rc;

use super::TaskCx;
use super::counts::{NodeCount, one_more};
use super::punctuation::Token;
use crate::record::{Record, Timestamp};

/// The task has failed; the error waits in [`TaskCx`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop;

/// What a node answers: go on, or stop because the task has failed.
pub(crate) type Flow = Result<(), Stop>;

/// The position of a node in its task, for counters and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeIx(pub(crate) u32);

/// A running node that takes records of one type.
pub(crate) trait Node<K, V> {
    /// Takes a record and forwards what follows from it.
    fn process(&mut self, record: Record<K, V>, cx: &mut TaskCx) -> Flow;
}

/// What a task asks of some of its nodes beside records.
pub(crate) trait Lifecycle {
    /// Called once, when all nodes are wired and the stores are restored.
    fn init(&mut self, _cx: &mut TaskCx) -> Flow {
        Ok(())
    }

    /// A punctuation that this node has scheduled is due.
    fn punctuate(&mut self, _token: Token, _at: Timestamp, _cx: &mut TaskCx) -> Flow {
        Ok(())
    }

    /// Writes and forwards what the node's record cache holds back.
    fn flush_cache(&mut self, _cx: &mut TaskCx) -> Flow {
        Ok(())
    }

    /// Called once, before the stores close.
    fn close(&mut self, _cx: &mut TaskCx) -> Flow {
        Ok(())
    }
}

/// The receiving end of an edge. Several parents may share one (a merge).
pub(crate) type Port<K, V> = Rc<RefCell<dyn Node<K, V>>>;

/// Where a node sends its records: its children, in order.
pub(crate) struct Outputs<K, V> {
    children: Vec<Edge<K, V>>,
}

/// The way to one child.
pub(crate) struct Edge<K, V> {
    pub(crate) name: Rc<str>,
    pub(crate) port: Port<K, V>,
    pub(crate) count: NodeCount,
}

impl<K, V> Edge<K, V> {
    fn send(&self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        one_more(&self.count);
        self.port.borrow_mut().process(record, cx)
    }
}

impl<K, V> Outputs<K, V> {
    pub(crate) fn new(children: Vec<Edge<K, V>>) -> Self {
        Self { children }
    }

    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    /// The position of the child of that name.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.children.iter().position(|edge| &*edge.name == name)
    }

    /// Sends to one child.
    pub(crate) fn forward_to(&self, child: usize, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        self.children[child].send(record, cx)
    }
}

impl<K: Clone, V: Clone> Outputs<K, V> {
    /// Sends to every child; the last one gets the record itself, the others a copy.
    pub(crate) fn forward(&self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let Some((last, rest)) = self.children.split_last() else { return Ok(()) };
        for child in rest {
            child.send(record.clone(), cx)?;
        }
        last.send(record, cx)
    }

    /// Sends a record whose key is not the one that arrived: the bytes known of that key do not hold further down.
    pub(crate) fn forward_rekeyed(&self, record: Record<K, V>, cx: &mut TaskCx) -> Flow {
        let known = cx.take_key_bytes();
        let flow = self.forward(record, cx);
        cx.put_back_key_bytes(known);
        flow
    }
}
