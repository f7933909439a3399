//! One declaration a property: its name, type, defaults and meaning. Everything else follows from it: parsing, the
//! getter, the builder's setter, the nearest-name search and docs/CONFIG.md.

use std::ops::RangeInclusive;

/// Whose property it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The application's; it takes no prefix.
    Application,
    /// Every client's; it takes each client's prefix.
    Connection,
    /// A consumer's.
    Consumer,
    /// The producer's.
    Producer,
}

/// A property that does something here.
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "getters, defaults and meanings are read by the tests of this folder")
)]
pub(super) struct Property {
    pub(super) name: &'static str,
    /// The name of its getter and its setter.
    pub(super) getter: &'static str,
    pub(super) scope: Scope,
    /// What Kafka Streams does when it is not set.
    pub(super) java: &'static str,
    /// What we do when it is not set, as the text one could set.
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
}

/// Where a section finds what was set: the full key and the text.
pub(super) type Lookup<'a> = dyn Fn(&'static str) -> Option<(String, String)> + 'a;

/// A section's value of a property, or an error added to the list and the default.
pub(super) fn resolve<T: super::value::Value>(
    lookup: &Lookup<'_>,
    name: &'static str,
    default: &'static str,
    range: RangeInclusive<i64>,
    errors: &mut Vec<String>,
) -> T {
    let fallback = || T::parse(default, &(i64::MIN..=i64::MAX)).expect("a test parses every default");
    let Some((key, text)) = lookup(name) else { return fallback() };
    T::parse(text.trim(), &range).unwrap_or_else(|why| {
        errors.push(format!("{key}={text} {why}"));
        fallback()
    })
}

/// The type a property is kept as.
macro_rules! stored {
    (count) => { usize };
    (int) => { i32 };
    (long) => { i64 };
    (flag) => { bool };
    (millis) => { std::time::Duration };
    (maybe_millis) => { Option<std::time::Duration> };
    (text) => { String };
    (maybe_text) => { Option<String> };
    (path) => { std::path::PathBuf };
    (list) => { Vec<String> };
    (choice $type:ty) => { $type };
    (maybe $type:ty) => { Option<$type> };
    (secret) => { Option<super::Secret> };
}

/// The type a setter takes.
macro_rules! argument {
    (text) => { &str };
    (maybe_text) => { &str };
    (path) => { impl AsRef<std::path::Path> };
    (list) => { &[&str] };
    (maybe $type:ty) => { $type };
    (secret) => { impl Into<super::Secret> };
    ($($kind:tt)+) => { stored!($($kind)+) };
}

/// The text of a setter's argument.
macro_rules! shown {
    ($value:ident, millis) => {
        super::value::millis($value)
    };
    ($value:ident, maybe_millis) => {
        $value.map_or_else(|| "-1".to_owned(), super::value::millis)
    };
    ($value:ident, path) => {
        $value.as_ref().to_string_lossy()
    };
    ($value:ident, list) => {
        $value.join(",")
    };
    ($value:ident, secret) => {
        $value.into().expose()
    };
    ($value:ident, $($kind:tt)+) => {
        $value.to_string()
    };
}

/// The type a getter returns.
macro_rules! returned {
    (text) => { &str };
    (maybe_text) => { Option<&str> };
    (path) => { &std::path::Path };
    (list) => { &[String] };
    (secret) => { Option<&super::Secret> };
    ($($kind:tt)+) => { stored!($($kind)+) };
}

/// What a getter returns.
macro_rules! got {
    ($value:expr, text) => {
        &$value
    };
    ($value:expr, maybe_text) => {
        $value.as_deref()
    };
    ($value:expr, path) => {
        &$value
    };
    ($value:expr, list) => {
        &$value
    };
    ($value:expr, secret) => {
        $value.as_ref()
    };
    ($value:expr, $($kind:tt)+) => {
        $value
    };
}

macro_rules! range {
    () => {
        0..=i64::MAX
    };
    ($range:expr) => {
        $range
    };
}

/// Declares a section: the struct of its values, their getters on a public type, the setters on the builder and its rows
/// in the table.
///
/// `name: [kind] = "property", java "default", "our default" (, range)?;`
macro_rules! section {
    (
        $(#[$meta:meta])* $values:ident, $scope:ident, getters on $public:ident [.$via:ident], rows $table:ident;
        $( $(#[doc = $doc:literal])+
        $name:ident: [$($kind:tt)+] = $key:literal, java $java:literal, $default:literal $(, $range:expr)?; )+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub(super) struct $values { $(pub(super) $name: stored!($($kind)+),)+ }

        impl $values {
            pub(super) fn resolve(lookup: &Lookup<'_>, errors: &mut Vec<String>) -> Self {
                Self { $($name: resolve(lookup, $key, $default, range!($($range)?), errors),)+ }
            }
        }

        impl $public {
            $(
                $(#[doc = $doc])+
                ///
                #[doc = concat!("The property `", $key, "`.")]
                pub fn $name(&self) -> returned!($($kind)+) {
                    got!(self.$via.$name, $($kind)+)
                }
            )+
        }

        impl ConfigBuilder {
            $(
                $(#[doc = $doc])+
                ///
                #[doc = concat!("Sets the property `", $key, "`.")]
                pub fn $name(self, value: argument!($($kind)+)) -> Self {
                    self.set($key, shown!(value, $($kind)+))
                }
            )+
        }

        pub(super) static $table: &[Property] = &[$(Property {
            name: $key,
            getter: stringify!($name),
            scope: Scope::$scope,
            java: $java,
            default: $default,
            meaning: concat!($($doc),+),
        },)+];
    };
}

pub(super) use {argument, got, range, returned, section, shown, stored};
