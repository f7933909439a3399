//! The topologies of the oracle's catalogue, written with this library. The comments of `CATALOGUE.md` specify them.

use crate::run::Entry;

/// Lists the topologies of a group, each with the configuration that its specification asks for, and makes a test of each.
macro_rules! topologies {
    ($($name:ident $([$($key:literal = $value:literal),*])?;)*) => {
        pub(super) const TOPOLOGIES: &[$crate::run::Entry] = &[$($crate::run::Entry {
            name: stringify!($name),
            props: &[$($(($key, $value)),*)?],
            build: $name,
        }),*];

        mod golden {
            $(#[test]
            fn $name() {
                $crate::run::golden(stringify!($name));
            })*
        }
    };
}

mod cogrouping;
mod grouping;
mod optimized;
mod processors;
mod stateless;
mod stream_table_joins;
mod suppression;
mod table_joins;
mod tables;
mod windowed;

pub(crate) const GROUPS: &[&[Entry]] = &[
    stateless::TOPOLOGIES,
    grouping::TOPOLOGIES,
    cogrouping::TOPOLOGIES,
    tables::TOPOLOGIES,
    table_joins::TOPOLOGIES,
    stream_table_joins::TOPOLOGIES,
    windowed::TOPOLOGIES,
    suppression::TOPOLOGIES,
    processors::TOPOLOGIES,
    optimized::TOPOLOGIES,
];
