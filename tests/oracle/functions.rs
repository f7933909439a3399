//! The function library that the specifications of the topologies refer to by name.

use std::convert::Infallible;
use std::fmt::Display;

use mainstem::prelude::Windowed;

/// What a `try_` closure that cannot fail returns.
pub(crate) type Sure<T> = Result<T, Infallible>;

/// `"null"` for null, else the text of it.
pub(crate) fn str<T: Display>(x: Option<&T>) -> String {
    x.map_or_else(|| "null".to_owned(), ToString::to_string)
}

/// Null for null, `""` for `""`, else the first character.
pub(crate) fn first(v: Option<&String>) -> Option<String> {
    v.map(|v| v.chars().take(1).collect())
}

/// The ASCII digits of `v` read as one decimal number, with Java's wrapping `long` arithmetic.
pub(crate) fn num(v: Option<&String>) -> i64 {
    let digits = v.into_iter().flat_map(|v| v.chars()).filter_map(|c| c.to_digit(10));
    digits.fold(0i64, |n, digit| n.wrapping_mul(10).wrapping_add(i64::from(digit)))
}

/// a-z to A-Z, everything else kept.
pub(crate) fn up(v: &str) -> String {
    v.to_ascii_uppercase()
}

pub(crate) fn is_x(v: Option<&String>) -> bool {
    v.is_some_and(|v| v == "x")
}

/// `a + "," + v`, cut to its last 30 characters (of the basic plane, so UTF-16 units and characters agree).
pub(crate) fn cat(a: &str, v: &str) -> String {
    cut(format!("{a},{v}"))
}

fn cut(text: String) -> String {
    let skipped = text.chars().count().saturating_sub(30);
    text.chars().skip(skipped).collect()
}

/// `a + "+" + v`, cut to its last 30 characters.
pub(crate) fn plus(a: &str, v: &str) -> String {
    cut(format!("{a}+{v}"))
}

/// `a + "-" + v`, cut to its last 30 characters.
pub(crate) fn minus(a: &str, v: &str) -> String {
    cut(format!("{a}-{v}"))
}

/// `"(" + a + "&" + b + ")"`.
pub(crate) fn join<A: Display, B: Display>(a: Option<&A>, b: Option<&B>) -> String {
    format!("({}&{})", str(a), str(b))
}

/// A windowed key as text.
pub(crate) fn wk(w: &Windowed<String>) -> String {
    format!("{}@{}/{}", w.key, w.window.start, w.window.end)
}

/// The text before the first ':'; null for an empty one.
pub(crate) fn fk(v: &str) -> Option<String> {
    let key = v.split(':').next().unwrap_or_default();
    (!key.is_empty()).then(|| key.to_owned())
}

/// Null keys cannot be stored; the processors keep them under `"-"`.
pub(crate) fn key(k: Option<&String>) -> String {
    k.cloned().unwrap_or_else(|| "-".to_owned())
}

#[test]
fn functions_are_those_of_the_specification() {
    let text = |v: &str| Some(v.to_owned());
    assert_eq!(first(text("é1").as_ref()), text("é"));
    assert_eq!(num(text("a1b٣2").as_ref()), 12, "only ASCII digits count");
    assert_eq!(num(text("9223372036854775808").as_ref()), i64::MIN);
    assert_eq!(up("aé1z"), "Aé1Z");
    assert_eq!(cat(&"é".repeat(30), "b"), format!("{},b", "é".repeat(28)));
    assert_eq!(str::<i64>(None), "null");
}
