//! The transaction coordinator's behaviour, request by request.

use std::time::Duration;

use super::*;

const MINUTE: i32 = 60_000;

const MAX: i64 = 15 * MINUTE as i64;

/// A time from any origin.
fn at(ms: u64) -> Instant {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(crate::clock::monotonic) + Duration::from_millis(ms)
}

fn coordinator() -> Transactions {
    Transactions::default()
}

fn part(partition: i32) -> Participant {
    Participant::Partition(TopicPartition::new("t", partition))
}

fn init(c: &mut Transactions) -> Result<Producer, Code> {
    c.init_producer_id(Some("id"), MINUTE, MAX, None)
}

/// Writes all markers, and gives them.
fn write(c: &mut Transactions) -> Vec<Marker> {
    let markers = c.markers();
    for marker in &markers {
        c.marker_written(marker);
    }
    assert_eq!(c.markers(), []);
    markers
}

fn state(c: &Transactions) -> TransactionState {
    c.transactions().find(|(id, _)| *id == "id").unwrap().1.state
}

#[test]
fn an_idempotent_producer_gets_an_id_of_its_own_at_epoch_0() {
    let mut c = coordinator();
    let [a, b] = [(); 2].map(|()| c.init_producer_id(None, MINUTE, MAX, None).unwrap());
    assert!(a.id != b.id && a.epoch == 0 && b.epoch == 0);
}

#[test]
fn each_initialisation_has_the_next_epoch_and_fences_the_one_before() {
    let mut c = coordinator();
    let first = init(&mut c).unwrap();
    assert_eq!(first.epoch, 0);
    let second = init(&mut c).unwrap();
    assert_eq!(second, Producer { epoch: 1, ..first });
    assert_eq!(c.add(at(0), "id", first, [part(0)]), Err(Code::ProducerFenced));
    assert_eq!(c.end("id", first, true), Err(Code::ProducerFenced));
    assert_eq!(c.add(at(0), "id", second, [part(0)]), Ok(()));
}

#[test]
fn bad_requests_are_refused() {
    let mut c = coordinator();
    for timeout in [0, -1, 15 * MINUTE + 1] {
        let answer = c.init_producer_id(Some("id"), timeout, MAX, None);
        assert_eq!(answer, Err(Code::InvalidTransactionTimeout));
    }
    assert_eq!(c.transactions().count(), 0);
    assert_eq!(c.init_producer_id(Some(""), MINUTE, MAX, None), Err(Code::InvalidRequest));
    let nobody = Producer { id: 7, epoch: 0 };
    assert_eq!(c.add(at(0), "id", nobody, [part(0)]), Err(Code::InvalidProducerIdMapping));
    assert_eq!(c.end("id", nobody, true), Err(Code::InvalidProducerIdMapping));
    let known = init(&mut c).unwrap();
    let other = Producer { id: known.id + 1, ..known };
    assert_eq!(c.add(at(0), "id", other, [part(0)]), Err(Code::InvalidProducerIdMapping));
    assert_eq!(c.end("id", other, true), Err(Code::InvalidProducerIdMapping));
    assert_eq!(c.add(at(0), "", known, [part(0)]), Err(Code::InvalidRequest));
}

#[test]
fn a_commit_sends_each_participant_one_marker_and_may_be_repeated() {
    let mut c = coordinator();
    let producer = init(&mut c).unwrap();
    c.add(at(5), "id", producer, [part(0), part(1)]).unwrap();
    c.add(at(6), "id", producer, [part(1), Participant::Group("g".to_owned())]).unwrap();
    assert_eq!(c.markers(), []);
    c.end("id", producer, true).unwrap();
    assert_eq!(state(&c), TransactionState::PrepareCommit);

    let markers = c.markers();
    assert_eq!(
        markers.iter().map(|marker| marker.participant.clone()).collect::<Vec<_>>(),
        [part(0), part(1), Participant::Group("g".to_owned())]
    );
    assert!(markers.iter().all(|marker| marker.commit && marker.producer == producer));

    // While markers are on their way, everybody waits.
    assert_eq!(c.end("id", producer, true), Err(Code::ConcurrentTransactions));
    assert_eq!(c.end("id", producer, false), Err(Code::InvalidTxnState));
    assert_eq!(c.add(at(7), "id", producer, [part(2)]), Err(Code::ConcurrentTransactions));
    assert_eq!(init(&mut c), Err(Code::ConcurrentTransactions));
    c.marker_written(&markers[1]);
    c.marker_written(&markers[1]);
    assert_eq!(c.markers(), [markers[0].clone(), markers[2].clone()]);
    write(&mut c);

    assert_eq!(state(&c), TransactionState::CompleteCommit);
    assert_eq!(c.end("id", producer, true), Ok(()));
    assert_eq!(c.markers(), [], "a repetition writes nothing");
    assert_eq!(c.end("id", producer, false), Err(Code::InvalidTxnState));
    // The next one begins with nothing.
    c.add(at(8), "id", producer, [part(3)]).unwrap();
    c.end("id", producer, false).unwrap();
    let markers = write(&mut c);
    assert_eq!(markers.len(), 1);
    assert!(!markers[0].commit && markers[0].participant == part(3));
    assert_eq!(c.end("id", producer, false), Ok(()));
    assert_eq!(c.end("id", producer, true), Err(Code::InvalidTxnState));
}

#[test]
fn a_transaction_that_has_not_begun_cannot_end_and_one_without_participants_ends_at_once() {
    let mut c = coordinator();
    let producer = init(&mut c).unwrap();
    assert_eq!(c.end("id", producer, true), Err(Code::InvalidTxnState));
    assert_eq!(c.end("id", producer, false), Err(Code::InvalidTxnState));
    c.add(at(0), "id", producer, []).unwrap();
    assert_eq!(state(&c), TransactionState::Ongoing);
    c.end("id", producer, true).unwrap();
    assert_eq!((state(&c), c.markers()), (TransactionState::CompleteCommit, vec![]));
    c.add(at(0), "id", producer, []).unwrap();
    assert_eq!(init(&mut c), Err(Code::ConcurrentTransactions));
    assert_eq!(state(&c), TransactionState::CompleteAbort);
    assert!(init(&mut c).is_ok());
}

#[test]
fn who_initialises_while_a_transaction_is_open_waits_for_its_abort() {
    let mut c = coordinator();
    let old = init(&mut c).unwrap();
    c.add(at(0), "id", old, [part(0)]).unwrap();
    assert_eq!(init(&mut c), Err(Code::ConcurrentTransactions));
    assert_eq!(c.end("id", old, true), Err(Code::ProducerFenced));
    let markers = write(&mut c);
    // The marker's epoch is one that no client has, so that partitions fence the old one as well.
    assert_eq!(markers[0].producer, Producer { epoch: 1, ..old });
    assert!(!markers[0].commit);
    assert_eq!(init(&mut c).unwrap(), Producer { epoch: 2, ..old });
}

#[test]
fn an_old_transaction_is_aborted_by_the_clock() {
    let mut c = coordinator();
    let producer = init(&mut c).unwrap();
    assert_eq!(c.next_deadline(), None);
    c.add(at(1_000), "id", producer, [part(0)]).unwrap();
    c.add(at(50_000), "id", producer, [part(1)]).unwrap();
    let deadline = c.next_deadline().unwrap();
    assert_eq!(deadline, at(61_000), "counted from the first participant");
    c.tick(at(60_999));
    assert_eq!(state(&c), TransactionState::Ongoing);
    c.tick(deadline);
    assert_eq!(c.next_deadline(), None);
    let markers = write(&mut c);
    assert_eq!(markers.len(), 2);
    assert!(markers.iter().all(|marker| !marker.commit && marker.producer.epoch == producer.epoch + 1));
    // Its producer is fenced, also from going on with what it had (KIP-360).
    assert_eq!(c.add(at(0), "id", producer, [part(0)]), Err(Code::ProducerFenced));
    assert_eq!(c.end("id", producer, false), Err(Code::ProducerFenced));
    assert_eq!(c.init_producer_id(Some("id"), MINUTE, MAX, Some(producer)), Err(Code::ProducerFenced));
    assert_eq!(init(&mut c).unwrap().epoch, producer.epoch + 2);
}

#[test]
fn a_producer_goes_on_after_an_error_with_what_it_has() {
    let mut c = coordinator();
    let first = init(&mut c).unwrap();
    let go_on = |c: &mut Transactions, with| c.init_producer_id(Some("id"), MINUTE, MAX, Some(with));
    let second = go_on(&mut c, first).unwrap();
    assert_eq!(second.epoch, 1);
    // The answer was lost: the same again.
    assert_eq!(go_on(&mut c, first), Ok(second));
    let third = go_on(&mut c, second).unwrap();
    assert_eq!(third.epoch, 2);
    assert_eq!(go_on(&mut c, first), Err(Code::ProducerFenced));
    let other = Producer { id: third.id + 1, ..third };
    assert_eq!(go_on(&mut c, other), Err(Code::ProducerFenced));
    // Another instance came in between: nobody goes on with something older.
    let newcomer = init(&mut c).unwrap();
    assert_eq!(newcomer.epoch, 3);
    assert_eq!(go_on(&mut c, third), Err(Code::ProducerFenced));
    assert_eq!(go_on(&mut c, second), Err(Code::ProducerFenced));
    assert_eq!(go_on(&mut c, newcomer).unwrap().epoch, 4);
}

#[test]
fn a_producer_whose_id_the_coordinator_forgot_gets_a_new_one() {
    let mut c = coordinator();
    let unknown = Producer { id: 99, epoch: 7 };
    let producer = c.init_producer_id(Some("id"), MINUTE, MAX, Some(unknown)).unwrap();
    assert_eq!(producer.epoch, 0);
    assert_ne!(producer.id, unknown.id);
}

#[test]
fn when_the_epochs_are_used_up_a_new_producer_id_follows() {
    let mut c = coordinator();
    let last = Producer { epoch: i16::MAX - 1, ..init(&mut c).unwrap() };
    c.transaction("id").unwrap().skip_to_epoch(last.epoch - 1);
    assert_eq!(init(&mut c), Ok(last));
    // The last epoch of clients; fencing it takes the very last.
    c.add(at(0), "id", last, [part(0)]).unwrap();
    assert_eq!(init(&mut c), Err(Code::ConcurrentTransactions));
    assert_eq!(write(&mut c)[0].producer.epoch, i16::MAX);
    let next = init(&mut c).unwrap();
    assert_eq!(next.epoch, 0);
    assert_ne!(next.id, last.id);
}

#[test]
fn the_retry_of_a_change_of_producer_id_gives_the_same_one() {
    let mut c = coordinator();
    let last = Producer { epoch: i16::MAX - 1, ..init(&mut c).unwrap() };
    c.transaction("id").unwrap().skip_to_epoch(last.epoch);
    let next = c.init_producer_id(Some("id"), MINUTE, MAX, Some(last)).unwrap();
    assert_eq!(next.epoch, 0);
    assert_eq!(c.init_producer_id(Some("id"), MINUTE, MAX, Some(last)), Ok(next));
    // A newcomer ends that.
    init(&mut c).unwrap();
    assert_eq!(c.init_producer_id(Some("id"), MINUTE, MAX, Some(last)), Err(Code::ProducerFenced));
}

#[test]
fn writes_need_an_open_transaction_with_their_partition() {
    let mut c = coordinator();
    assert_eq!(
        c.may_write("id", Producer { id: 0, epoch: 0 }, &part(0)),
        Err(Code::InvalidProducerIdMapping)
    );
    let old = init(&mut c).unwrap();
    let producer = init(&mut c).unwrap();
    assert_eq!(c.may_write("id", producer, &part(0)), Err(Code::TransactionAbortable));
    c.add(at(0), "id", producer, [part(0)]).unwrap();
    assert_eq!(c.may_write("id", producer, &part(0)), Ok(()));
    assert_eq!(c.may_write("id", producer, &part(1)), Err(Code::TransactionAbortable));
    assert_eq!(c.may_write("id", old, &part(0)), Err(Code::ProducerFenced));
    c.end("id", producer, true).unwrap();
    assert_eq!(c.may_write("id", producer, &part(0)), Err(Code::ConcurrentTransactions));
    write(&mut c);
    assert_eq!(c.may_write("id", producer, &part(0)), Err(Code::TransactionAbortable));
}

#[test]
fn ids_do_not_know_of_each_other() {
    let mut c = coordinator();
    let a = c.init_producer_id(Some("a"), MINUTE, MAX, None).unwrap();
    let b = c.init_producer_id(Some("b"), MINUTE, MAX, None).unwrap();
    assert_ne!(a.id, b.id);
    c.add(at(0), "a", a, [part(0)]).unwrap();
    c.add(at(0), "b", b, [part(0)]).unwrap();
    c.end("b", b, true).unwrap();
    let markers = write(&mut c);
    assert_eq!(markers.len(), 1);
    assert_eq!(markers[0].producer, b);
    assert_eq!(c.may_write("a", a, &part(0)), Ok(()));
}

#[test]
fn a_moved_coordinator_writes_a_higher_epoch() {
    let mut c = coordinator();
    let producer = init(&mut c).unwrap();
    c.add(at(0), "id", producer, [part(0)]).unwrap();
    c.end("id", producer, true).unwrap();
    let before = c.markers()[0].coordinator_epoch;
    c.moved();
    assert!(c.markers()[0].coordinator_epoch > before);
}

#[test]
fn a_write_is_refused_in_words_that_its_client_knows() {
    let mut c = coordinator();
    let old = init(&mut c).unwrap();
    let producer = init(&mut c).unwrap();
    c.add(at(0), "id", producer, [part(0)]).unwrap();
    let ask = |c: &Transactions, by: Producer, partition, version| {
        c.verify("id", (by.id, by.epoch), ("t", partition), version)
    };
    assert_eq!(ask(&c, producer, 0, 9), Ok(()));
    assert_eq!(ask(&c, producer, 1, 9), Err(Code::InvalidTxnState));
    assert_eq!(ask(&c, producer, 1, 11), Err(Code::TransactionAbortable));
    assert_eq!(ask(&c, old, 0, 11), Err(Code::InvalidProducerEpoch));
    c.end("id", producer, false).unwrap();
    assert_eq!(ask(&c, producer, 0, 11), Err(Code::NotEnoughReplicas));
}

#[test]
fn in_version_2_every_end_begins_the_next_epoch_and_a_repetition_is_known_by_its_own() {
    let mut c = coordinator();
    let first = init(&mut c).unwrap();
    c.add(at(0), "id", first, [part(0)]).unwrap();
    let second = c.end_and_bump("id", first, true).unwrap();
    assert_eq!(second, Producer { epoch: 1, ..first });
    assert_eq!(
        c.end_and_bump("id", first, true),
        Err(Code::ConcurrentTransactions),
        "its markers are on their way"
    );
    assert_eq!(c.add(at(0), "id", second, [part(0)]), Err(Code::ConcurrentTransactions));
    assert_eq!(c.add(at(0), "id", first, [part(0)]), Err(Code::ProducerFenced));
    let markers = write(&mut c);
    assert!(markers.iter().all(|marker| marker.commit && marker.producer == second), "{markers:?}");
    // Its answer was lost.
    assert_eq!(c.end_and_bump("id", first, true), Ok(second));
    assert_eq!(c.end_and_bump("id", first, false), Err(Code::InvalidTxnState), "it is committed");
    assert_eq!(c.end_and_bump("id", second, true), Err(Code::InvalidTxnState), "nothing was begun");
    // Nothing was begun: an abort begins the next epoch all the same.
    let third = c.end_and_bump("id", second, false).unwrap();
    assert_eq!(third.epoch, 2);
    assert_eq!(c.end_and_bump("id", second, false), Ok(third));
    assert_eq!(c.end_and_bump("id", first, true), Err(Code::ProducerFenced));
    assert_eq!(c.end_and_bump("other", third, true), Err(Code::InvalidProducerIdMapping));
}

#[test]
fn in_version_2_a_commit_that_comes_too_late_is_told_from_another_producer() {
    let mut c = coordinator();
    let producer = init(&mut c).unwrap();
    c.add(at(0), "id", producer, [part(0)]).unwrap();
    c.tick(c.next_deadline().unwrap());
    write(&mut c);
    assert_eq!(c.end_and_bump("id", producer, true), Err(Code::InvalidTxnState));
    let next = c.end_and_bump("id", producer, false).unwrap();
    assert_eq!(next.epoch, producer.epoch + 1);
    assert_eq!(c.add(at(0), "id", next, [part(0)]), Ok(()));
    // Somebody else has come.
    assert_eq!(init(&mut c), Err(Code::ConcurrentTransactions));
    write(&mut c);
    init(&mut c).unwrap();
    assert_eq!(c.end_and_bump("id", next, true), Err(Code::ProducerFenced));
    assert_eq!(c.end_and_bump("id", next, false), Err(Code::ProducerFenced));
}

#[test]
fn in_version_2_a_new_producer_id_follows_the_last_epoch() {
    let mut c = coordinator();
    let last = Producer { epoch: i16::MAX - 1, ..init(&mut c).unwrap() };
    c.transaction("id").unwrap().skip_to_epoch(last.epoch);
    c.add(at(0), "id", last, [part(0)]).unwrap();
    let next = c.end_and_bump("id", last, true).unwrap();
    assert!(next.epoch == 0 && next.id != last.id);
    assert_eq!(c.add(at(0), "id", next, [part(0)]), Err(Code::ConcurrentTransactions));
    assert_eq!(c.end_and_bump("id", last, true), Err(Code::ConcurrentTransactions));
    assert_eq!(write(&mut c)[0].producer, Producer { epoch: i16::MAX, ..last });
    assert_eq!(c.end_and_bump("id", last, true), Ok(next));
    assert_eq!(c.add(at(0), "id", next, [part(0)]), Ok(()));
    assert_ne!(c.init_producer_id(None, MINUTE, MAX, None).unwrap().id, next.id, "it is taken");
}
