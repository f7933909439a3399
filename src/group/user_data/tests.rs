//! Golden bytes, the fixtures of version 1, hostile bytes.

use proptest::prelude::*;

use super::*;

fn task(text: &str) -> TaskId {
    text.parse().unwrap()
}

fn subscription() -> SubscriptionData {
    SubscriptionData {
        versions: (1, 1),
        instance: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        endpoint: "localhost:8080".into(),
        workers: 4,
        owned: vec![task("0_1"), task("1_1")],
        standby: vec![task("1_2")],
        checkpoints: [((task("1_1"), "counts".into()), 77), ((task("1_2"), "counts".into()), 5)].into(),
        fingerprints: [(0, 0xdead_beef), (1, 7)].into(),
        transactional_ids: vec!["app-0-0".into(), "app-0-1".into()],
        tags: [("zone".into(), "a".into())].into(),
        warm_up: vec![task("1_3")],
        next_rebalance_ms: -1,
        shutdown: true,
        join_number: 9,
        shutdown_reason: "no".into(),
    }
}

fn assignment() -> AssignmentData {
    AssignmentData {
        error: None,
        active: vec![
            ActiveTask {
                task: task("0_1"),
                partitions: vec![TopicPartition::new("views", 1), TopicPartition::new("users", 1)],
            },
            ActiveTask {
                task: task("1_1"),
                partitions: vec![TopicPartition::new("app-by-page-repartition", 1)],
            },
        ],
        standby: vec![task("1_2")],
        warm_up: vec![task("1_3")],
        instances: vec![Instance {
            id: Uuid::from_u128(9),
            endpoint: "h:1".into(),
            transactional_ids: vec!["app-0-0".into()],
            active: vec![task("0_1"), task("1_1")],
            standby: vec![task("1_2")],
        }],
        next_rebalance_ms: 600_000,
        reason: "m: no".into(),
        shape: 0x0102_0304_0506_0708,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.lines().filter(|l| !l.starts_with('#')).flat_map(str::chars).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A fixture is what that version wrote: it is never written anew, only read.
const SUBSCRIPTION_V1: &str = include_str!("fixtures/subscription-v1.hex");
const ASSIGNMENT_V1: &str = include_str!("fixtures/assignment-v1.hex");
const SUBSCRIPTION_V2: &str = include_str!("fixtures/subscription-v2.hex");
const ASSIGNMENT_V2: &str = include_str!("fixtures/assignment-v2.hex");

#[test]
fn version_1_stays_readable() {
    let subscription = SubscriptionData { shutdown_reason: String::new(), ..subscription() };
    assert_eq!(SubscriptionData::decode(&unhex(SUBSCRIPTION_V1)).unwrap(), subscription);
    let assignment = AssignmentData { reason: String::new(), shape: 0, ..assignment() };
    assert_eq!(AssignmentData::decode(&unhex(ASSIGNMENT_V1)).unwrap(), assignment);
}

#[test]
fn written_bytes_are_version_2() {
    assert_eq!(hex(&subscription().encode().unwrap()), hex(&unhex(SUBSCRIPTION_V2)));
    assert_eq!(hex(&assignment().encode().unwrap()), hex(&unhex(ASSIGNMENT_V2)));
}

#[test]
fn a_later_version_may_append() {
    for (mut bytes, is_subscription) in
        [(subscription().encode().unwrap().to_vec(), true), (assignment().encode().unwrap().to_vec(), false)]
    {
        let decode = |bytes: &[u8]| match is_subscription {
            true => SubscriptionData::decode(bytes).map(|read| assert_eq!(read, subscription())),
            false => AssignmentData::decode(bytes).map(|read| assert_eq!(read, assignment())),
        };
        bytes.extend(b"what version 3 knows");
        let error = decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("more than there should be"), "{error}");
        bytes[0] = 3;
        decode(&bytes).unwrap();
        bytes[0] = 0;
        decode(&bytes).unwrap_err();
    }
}

#[test]
fn cut_bytes_are_errors_that_name_the_field() {
    let (subscription, assignment) = (subscription().encode().unwrap(), assignment().encode().unwrap());
    for cut in 0..subscription.len() {
        assert_eq!(SubscriptionData::decode(&subscription[..cut]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    for cut in 0..assignment.len() {
        assert_eq!(AssignmentData::decode(&assignment[..cut]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let error = SubscriptionData::decode(&subscription[..10]).unwrap_err();
    assert_eq!(error.to_string(), "broken subscription: no instance at byte 3 of 10");
}

#[test]
fn a_huge_count_reserves_nothing() {
    let mut bytes = subscription().encode().unwrap().to_vec();
    let owned = 3 + 16 + 2 + "localhost:8080".len() + 2;
    bytes[owned..owned + 4].copy_from_slice(&i32::MAX.to_be_bytes());
    let error = SubscriptionData::decode(&bytes).unwrap_err();
    assert!(error.to_string().contains("2147483647 owned tasks cannot be"), "{error}");
}

#[test]
fn a_name_that_does_not_fit_is_refused() {
    let mut data = subscription();
    data.endpoint = "x".repeat(70_000);
    assert_eq!(data.encode().unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn errors_round_trip() {
    for code in 0..=255 {
        let data = AssignmentData { error: AssignmentError::of(code), ..AssignmentData::default() };
        let bytes = data.encode().unwrap();
        assert_eq!(bytes[1], code);
        assert_eq!(AssignmentData::decode(&bytes).unwrap(), data);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = SubscriptionData::decode(&bytes);
        let _ = AssignmentData::decode(&bytes);
    }

    #[test]
    fn flipped_bytes_never_panic(at in 0..200_usize, to: u8) {
        let mut bytes = subscription().encode().unwrap().to_vec();
        let length = bytes.len();
        bytes[at % length] = to;
        let _ = SubscriptionData::decode(&bytes);
        let mut bytes = assignment().encode().unwrap().to_vec();
        let length = bytes.len();
        bytes[at % length] = to;
        let _ = AssignmentData::decode(&bytes);
    }
}
