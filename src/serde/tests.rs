//! Java's bytes, what comes back from them, and what bad bytes are called.

use std::fmt::Debug;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use uuid::Uuid;

use super::change::{Change, ChangeSerde};
use super::*;

const CX: SerdeCx<'static> = SerdeCx::value("t");

fn write<T>(serde: &impl Serde<T>, value: &T) -> Bytes {
    let mut out = BytesMut::from("before");
    serde.write(value, &CX, &mut out).unwrap();
    assert!(out.starts_with(b"before"), "a serde appends");
    out.freeze().slice(6..)
}

fn write_error<T>(serde: &impl Serde<T>, value: &T) -> String {
    serde.write(value, &CX, &mut BytesMut::new()).unwrap_err().to_string()
}

fn read_error<T: Debug>(serde: &impl Serde<T>, bytes: &[u8]) -> String {
    serde.read(&Bytes::copy_from_slice(bytes), &CX).unwrap_err().to_string()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

/// The bytes that Java writes: both directions.
#[track_caller]
fn golden<T: PartialEq + Debug>(serde: &impl Serde<T>, value: T, bytes: &str) {
    let bytes = Bytes::from(hex(bytes));
    assert_eq!(write(serde, &value), bytes, "bytes of {value:?}");
    assert_eq!(serde.read(&bytes, &CX).unwrap(), value);
}

fn default_serde<T: DefaultSerde>() -> T::Serde {
    T::Serde::default()
}

#[test]
fn numbers_are_big_endian() {
    golden(&ShortSerde, -2, "fffe");
    golden(&IntegerSerde, 0x0102_0304, "01020304");
    golden(&IntegerSerde, -1, "ffffffff");
    golden(&LongSerde, 42, "000000000000002a");
    golden(&LongSerde, i64::MIN, "8000000000000000");
    golden(&FloatSerde, 5678567.12, "4aad4bce");
    golden(&FloatSerde, -0.0, "80000000");
    golden(&DoubleSerde, 5678567.12312, "4155a979c7e132b5");
    golden(&DoubleSerde, f64::NEG_INFINITY, "fff0000000000000");
    assert_eq!(
        write(&FloatSerde, &f32::from_bits(0x7fc0_dead)),
        hex("7fc0dead"),
        "raw bits, as floatToRawIntBits"
    );
}

#[test]
fn booleans_strings_bytes_and_uuids() {
    golden(&BooleanSerde, true, "01");
    golden(&BooleanSerde, false, "00");
    golden(&StringSerde, "grün ✓".to_owned(), "6772c3bc6e20e29c93");
    golden(&StringSerde, String::new(), "");
    golden(&StringSerde, Arc::<str>::from("a"), "61");
    golden(&LossyStringSerde, "a".to_owned(), "61");
    golden(&BytesSerde, Bytes::from_static(&[0, 255]), "00ff");
    golden(&BytesSerde, vec![0u8, 255], "00ff");
    let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let uuid = Uuid::parse_str(text).unwrap();
    assert_eq!(write(&UuidSerde, &uuid), text);
    assert_eq!(UuidSerde.read(&text.into(), &CX).unwrap(), uuid);
    assert_eq!(LenientUuidSerde.read(&text.to_uppercase().into(), &CX).unwrap(), uuid);
    assert_eq!(write(&LenientUuidSerde, &uuid), text);
}

#[test]
fn lists_of_constant_size() {
    golden(&ListSerde(IntegerSerde), vec![1, 2], "00 00000000 00000002 00000001 00000002");
    golden(&ListSerde(ShortSerde), vec![], "00 00000000 00000000");
    golden(
        &NullableListSerde(IntegerSerde),
        vec![Some(1), None, Some(3), None],
        "00 00000002 00000001 00000003 00000004 00000001 00000003",
    );
    let uuid = Uuid::nil();
    let bytes = write(&ListSerde(UuidSerde), &vec![uuid]);
    assert_eq!(bytes.len(), 1 + 4 + 4 + 36);
    assert_eq!(ListSerde(UuidSerde).read(&bytes, &CX).unwrap(), [uuid]);
}

#[test]
fn lists_of_variable_size() {
    // The golden bytes of the outer-join buffer: two entries of two bytes.
    golden(
        &ListSerde(BytesSerde),
        vec![vec![1u8, b'v'], vec![1, b'w']],
        "01 00000002 00000002 0176 00000002 0177",
    );
    golden(
        &NullableListSerde(StringSerde),
        vec![Some("a".to_owned()), None, Some(String::new())],
        "01 00000003 00000001 61 ffffffff 00000000",
    );
    golden(&ListSerde(BooleanSerde), vec![true], "01 00000001 00000001 01");
    let ints = Bytes::from(hex("01 00000001 00000004 00000007"));
    assert_eq!(
        ListSerde(IntegerSerde).read(&ints, &CX).unwrap(),
        [7],
        "Java reads this form of fixed sizes too"
    );
}

#[test]
fn changes_of_tables() {
    let serde = ChangeSerde(StringSerde);
    let change =
        |new: Option<&str>, old: Option<&str>| Change::new(new.map(str::to_owned), old.map(str::to_owned));
    golden(&serde, change(Some("n"), None), "6e01");
    golden(&serde, change(None, Some("o")), "6f00");
    golden(&serde, change(Some("n"), Some("o")), "026e6f02");
    golden(&serde, change(Some(""), Some("")), "0002");
    let long = "x".repeat(64);
    let bytes = write(&serde, &change(Some(&long), Some("o")));
    assert_eq!(bytes[..2], [0x80, 0x01], "64 as a zig-zag varint takes two bytes");
    assert_eq!(serde.read(&bytes, &CX).unwrap(), change(Some(&long), Some("o")));
    for (bytes, expected) in [
        ("6f0003", Change { latest: false, ..change(None, Some("o")) }),
        ("6e0104", change(Some("n"), None)),
        ("026e6f0105", change(Some("n"), Some("o"))),
    ] {
        assert_eq!(serde.read(&hex(bytes).into(), &CX).unwrap(), expected, "a form only read");
    }
}

#[test]
fn bad_bytes_are_named() {
    assert_eq!(read_error(&LongSerde, &[0; 7]), "7 bytes instead of 8");
    assert_eq!(read_error(&LongSerde, &[0; 9]), "9 bytes instead of 8");
    assert_eq!(read_error(&IntegerSerde, &[]), "0 bytes instead of 4");
    assert_eq!(read_error(&ShortSerde, &[0]), "1 byte instead of 2");
    assert_eq!(read_error(&FloatSerde, &[0; 8]), "8 bytes instead of 4");
    assert_eq!(read_error(&DoubleSerde, &[0; 4]), "4 bytes instead of 8");
    assert_eq!(read_error(&BooleanSerde, &[]), "0 bytes instead of 1");
    assert_eq!(read_error(&BooleanSerde, &[2]), "the byte 2 is neither 0 (false) nor 1 (true)");
    assert_eq!(read_error::<String>(&StringSerde, b"ab\xff"), "not UTF-8 from byte 2 of 3 on");
    assert_eq!(read_error::<Arc<str>>(&StringSerde, b"\xc3"), "not UTF-8 from byte 0 of 1 on");
    assert_eq!(read_error(&UuidSerde, b"67e55044"), "8 bytes instead of 36");
    assert!(read_error(&UuidSerde, b"67E55044-10B1-426F-9247-BB680E5FE0C8").contains("LenientUuidSerde"));
    assert!(read_error(&UuidSerde, &[b'x'; 36]).contains("not the text of a UUID"));
    assert!(read_error(&VoidSerde, b"").contains("instead of null"));
    assert!(write_error(&VoidSerde, &()).contains("make the value None"));
    assert!(read_error::<Json<u8>>(&JsonSerde, b"[").contains("not the JSON of"));
    let error = Serde::<Json<u8>>::read(&JsonSerde, &"300".into(), &CX).unwrap_err();
    assert!(error.source().unwrap().to_string().contains("300"), "the cause is kept: {error:?}");
}

#[test]
fn bad_lists_are_named() {
    let ints = |bytes: &str| read_error(&ListSerde(IntegerSerde), &hex(bytes));
    assert_eq!(ints(""), "a list that ends within its form: 0 bytes instead of 1");
    assert_eq!(ints("02"), "a list whose first byte is 2 instead of 0 or 1");
    assert_eq!(
        ints("00 00000000 00000002 00000001"),
        "a list that ends within an entry: 0 bytes instead of 4"
    );
    assert_eq!(ints("00 00000000 7fffffff 0001"), "a list that ends within an entry: 2 bytes instead of 4");
    assert_eq!(ints("00 00000000 ffffffff"), "a list of -1 entries");
    assert_eq!(ints("00 ffffffff"), "a list of -1 nulls");
    assert_eq!(ints("00 00000001 00000005 00000001"), "a list of 1 entries with a null outside it");
    assert!(ints("00 00000001 00000000 00000001").contains("NullableListSerde"));
    assert_eq!(ints("00 00000000 00000000 ff"), "1 bytes are left over after the 0 entries of the list");
    assert_eq!(ints("01 00000001 fffffffe"), "entry 0 of the list has the length -2");
    let error = ListSerde(IntegerSerde).read(&hex("01 00000001 00000001 00").into(), &CX).unwrap_err();
    assert_eq!(error.to_string(), "cannot read entry 0 of the list");
    assert_eq!(error.source().unwrap().to_string(), "1 byte instead of 4");
    assert!(read_error(&ListSerde(BooleanSerde), &[0; 9]).contains("inner serde's size is not"));
}

#[test]
fn bad_changes_are_named() {
    let serde = ChangeSerde(LossyStringSerde);
    assert_eq!(write_error(&serde, &Change::default()), "a change without a new and an old value");
    assert!(read_error(&serde, b"").contains("at least 1"));
    assert!(read_error(&serde, &[6]).contains("6 instead of 0 to 5"));
    assert!(read_error(&serde, &[3]).contains("neither 0 nor 1"));
    assert!(read_error(&serde, &[2, 4]).contains("neither 0 nor 1"));
    for bytes in [&[2][..], &[4, b'n', 2], &[1, b'n', 2], &[0xff; 12], &[0x80, 2]] {
        let error = read_error(&serde, bytes);
        assert!(error.contains("length is not within") || error.contains("255"), "{bytes:?}: {error}");
    }
}

#[test]
fn keys_that_are_not_one_to_one_say_so() {
    fn canonical<T: DefaultSerde>() -> bool {
        T::Serde::CANONICAL
    }
    assert!(canonical::<String>() && canonical::<Arc<str>>() && canonical::<Uuid>() && canonical::<bool>());
    assert!(canonical::<i16>() && canonical::<i32>() && canonical::<i64>());
    assert!(canonical::<Bytes>() && canonical::<Vec<u8>>() && canonical::<Vec<String>>());
    assert!(!canonical::<f32>() && !canonical::<f64>() && !canonical::<Json<u8>>());
    assert!(!canonical::<Vec<i64>>(), "reads two forms");
    const { assert!(!<LossyStringSerde as Serde<String>>::CANONICAL) }
    const { assert!(!<LenientUuidSerde as Serde<Uuid>>::CANONICAL) }
}

#[test]
fn errors_become_the_crates() {
    let error: Error =
        ListSerde(IntegerSerde).read(&hex("01 00000001 00000000").into(), &CX).unwrap_err().into();
    assert_eq!(error.kind(), ErrorKind::Serde);
    assert_eq!(error.to_string(), "cannot read entry 0 of the list");
    assert_eq!(error.source().unwrap().to_string(), "0 bytes instead of 4");
}

fn round_trip<T: DefaultSerde + PartialEq + Debug>(value: T) -> Result<(), TestCaseError> {
    let serde = default_serde::<T>();
    let bytes = write(&serde, &value);
    let read = serde.read(&bytes, &CX).unwrap();
    prop_assert_eq!(&read, &value);
    prop_assert_eq!(write(&serde, &read), bytes);
    Ok(())
}

/// Whatever reads of a canonical serde is what would be written.
fn canonical<T: Debug>(serde: &impl Serde<T>, bytes: &[u8]) -> Result<(), TestCaseError> {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(value) = serde.read(&bytes, &CX) {
        prop_assert_eq!(write(serde, &value), bytes);
    }
    Ok(())
}

proptest! {
    #[test]
    fn values_come_back(
        short: i16, int: i32, long: i64, float: f32, double: f64, boolean: bool, text: String, bytes: Vec<u8>,
        ints: Vec<i32>, texts in vec(".{0,9}", 0..9), nested in vec(vec(".{0,9}", 0..4), 0..4), uuid: u128,
    ) {
        round_trip(short)?;
        round_trip(int)?;
        round_trip(long)?;
        round_trip(float)?;
        round_trip(double)?;
        round_trip(boolean)?;
        round_trip(Arc::<str>::from(&text[..]))?;
        round_trip(text)?;
        round_trip(Bytes::from(bytes.clone()))?;
        round_trip(bytes)?;
        round_trip(ints)?;
        round_trip(Json(texts.clone()))?;
        round_trip(texts)?;
        round_trip(nested)?;
        round_trip(Uuid::from_u128(uuid))?;
    }

    #[test]
    fn nulls_in_lists_come_back(ints: Vec<Option<i64>>, texts in vec(of(".{0,9}"), 0..9)) {
        let serde = NullableListSerde(LongSerde);
        prop_assert_eq!(serde.read(&write(&serde, &ints), &CX).unwrap(), ints);
        let serde = NullableListSerde(StringSerde);
        prop_assert_eq!(serde.read(&write(&serde, &texts), &CX).unwrap(), texts);
    }

    #[test]
    fn changes_come_back(new: Option<Vec<u8>>, old: Option<Vec<u8>>) {
        prop_assume!(new.is_some() || old.is_some());
        let (serde, change) = (ChangeSerde(BytesSerde), Change::new(new, old));
        prop_assert_eq!(serde.read(&write(&serde, &change), &CX).unwrap(), change);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, form in 0u8..2, count in 0u8..4, flag in 0u8..8) {
        canonical::<String>(&StringSerde, &bytes)?;
        canonical(&UuidSerde, &bytes)?;
        canonical(&BooleanSerde, &bytes)?;
        let list = [&[form, 0, 0, 0, count][..], &bytes].concat();
        canonical::<Vec<String>>(&ListSerde(StringSerde), &list)?;
        canonical::<Vec<Option<String>>>(&NullableListSerde(StringSerde), &list)?;
        let _ = ListSerde(ShortSerde).read(&Bytes::from(list), &CX);
        let change = [&bytes[..], &[flag]].concat();
        let _ = Serde::<Change<Bytes>>::read(&ChangeSerde(BytesSerde), &Bytes::from(change), &CX);
    }
}
