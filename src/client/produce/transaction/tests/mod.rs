//! The state machine, event by event: what it asks, and what it makes of every error.

mod model;
#[cfg(feature = "embedded")]
mod steps;

use std::time::{Duration, Instant};

use kafka_protocol::error::ResponseError as E;

use super::machine::{Ask, Machine, Said};
use super::*;
use crate::client::error_table::{CallSite, broker_error};
use crate::client::produce::config::ProducerConfig;

const FIRST: Identity = Identity { producer_id: 7, epoch: 0 };

fn now() -> Instant {
    static NOW: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *NOW.get_or_init(clock::monotonic)
}

/// Later than any pause.
fn later() -> Instant {
    now() + Duration::from_secs(5)
}

fn said(epoch: i16, v2: bool) -> Said {
    Said { identity: Some(Identity { epoch, ..FIRST }), v2 }
}

fn code(code: E, site: CallSite) -> Error {
    broker_error(code.code(), site).unwrap()
}

fn commit() -> End {
    let offsets = vec![(TopicPartition::new("in", 0), CommittedOffset::new(5))];
    End::Commit { group: GroupMetadata::new("g"), offsets }
}

fn empty_commit() -> End {
    End::Commit { group: GroupMetadata::default(), offsets: Vec::new() }
}

fn started(v2: bool) -> Machine {
    let mut m = Machine::new(Duration::from_secs(10), &ProducerConfig::default());
    assert_eq!(m.next(now(), true, true), Some(Ask::Init));
    m.answered(Ok(said(0, v2)), now());
    assert!(m.is_ready() && m.take_renewed() && m.identity() == Some(FIRST));
    m
}

/// With a batch of partition 3 admitted.
fn open(v2: bool) -> Machine {
    let mut m = started(v2);
    assert_eq!(m.admits(3), v2, "in version 1 its partition is added first");
    if !v2 {
        assert_eq!(m.next(now(), false, true), Some(Ask::AddPartitions(vec![3])));
        m.answered(Ok(Said::default()), now());
        assert!(m.admits(3));
    }
    m
}

/// Answers what is asked, in this order.
fn obey(m: &mut Machine, asks: &[Ask], said: Said) {
    for ask in asks {
        assert_eq!(m.next(later(), true, true).as_ref(), Some(ask));
        m.answered(Ok(said), now());
    }
}

fn failed(m: &mut Machine) -> Error {
    match m.take_ended() {
        Some(Ended::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_transaction_of_version_1() {
    let mut m = open(false);
    m.end(commit());
    assert_eq!(m.next(now(), false, true), None, "nothing is committed before all is written");
    obey(&mut m, &[Ask::AddOffsets, Ask::CommitOffsets, Ask::End { commit: true }], Said::default());
    assert!(matches!(m.take_ended(), Some(Ended::Committed)));
    assert!(!m.take_renewed(), "numbers go on");
    assert!(!m.admits(3), "the next transaction begins without partitions");
}

#[test]
fn a_transaction_of_version_2_has_an_epoch_of_its_own() {
    let mut m = open(true);
    m.end(commit());
    assert_eq!(m.next(now(), true, true), Some(Ask::CommitOffsets));
    m.answered(Ok(Said::default()), now());
    assert_eq!(m.next(now(), true, true), Some(Ask::End { commit: true }));
    m.answered(Ok(said(1, true)), now());
    assert!(matches!(m.take_ended(), Some(Ended::Committed)));
    assert!(m.take_renewed() && m.identity() == Some(Identity { epoch: 1, ..FIRST }));
}

#[test]
fn all_that_wait_are_added_with_one_request() {
    let mut m = started(false);
    assert!(!m.admits(1) && !m.admits(2));
    assert_eq!(m.next(now(), false, true), Some(Ask::AddPartitions(vec![1, 2])));
    assert!(!m.admits(5));
    assert_eq!(m.next(now(), false, true), None, "one at a time");
    m.answered(Ok(Said::default()), now());
    assert!(m.admits(1) && m.admits(2) && !m.admits(5));
    assert_eq!(m.next(now(), false, true), Some(Ask::AddPartitions(vec![5])));
}

#[test]
fn nothing_to_commit_asks_nothing() {
    for v2 in [false, true] {
        for end in [empty_commit(), End::Abort] {
            let mut m = started(v2);
            m.end(end);
            assert_eq!(m.next(now(), true, true), None);
            assert!(matches!(m.take_ended(), Some(Ended::Committed | Ended::Aborted)));
            assert!(m.is_ready() && !m.take_renewed());
        }
    }
}

#[test]
fn an_abort_ends_in_another_epoch() {
    let mut m = open(false);
    m.end(End::Abort);
    assert_eq!(m.next(now(), false, true), None, "what is under way is waited for");
    assert_eq!(m.next(now(), true, true), Some(Ask::End { commit: false }));
    m.answered(Ok(Said::default()), now());
    assert!(m.take_ended().is_none(), "not before the epoch is there");
    assert_eq!(m.next(now(), true, true), Some(Ask::Init));
    m.answered(Ok(said(1, false)), now());
    assert!(matches!(m.take_ended(), Some(Ended::Aborted)) && m.take_renewed() && m.is_ready());

    let mut m = open(true);
    m.end(End::Abort);
    assert_eq!(m.next(now(), true, true), Some(Ask::End { commit: false }));
    m.answered(Ok(said(1, true)), now());
    assert!(matches!(m.take_ended(), Some(Ended::Aborted)) && m.take_renewed() && m.is_ready());
}

/// What comes of an error at a place.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Again,
    MustAbort,
    /// The group refused: the transaction is as good as before.
    Open,
    Dead(ErrorClass),
    /// It counts as done.
    Done,
}

fn fate(m: &mut Machine, ask: &Ask) -> Fate {
    match m.take_ended() {
        Some(Ended::Failed(error)) if m.is_dead() => return Fate::Dead(error.class()),
        Some(Ended::Failed(error)) if m.trouble().is_none() => {
            assert_eq!(error.class(), ErrorClass::AbortTransaction);
            return Fate::Open;
        }
        Some(Ended::Failed(_)) => return Fate::MustAbort,
        Some(_) => return Fate::Done,
        None => {}
    }
    if m.is_dead() {
        return Fate::Dead(m.trouble().unwrap().class());
    }
    if m.trouble().is_some() {
        return Fate::MustAbort;
    }
    match m.next(later(), true, true) {
        Some(next) if next == *ask => Fate::Again,
        Some(Ask::Init) => Fate::Done,
        other => panic!("{other:?}"),
    }
}

/// A machine in front of a question.
fn asked(ask: &Ask, v2: bool) -> Machine {
    let mut m = match ask {
        Ask::Init => Machine::new(Duration::from_secs(10), &ProducerConfig::default()),
        Ask::AddPartitions(_) => {
            let mut m = started(false);
            m.admits(3);
            m
        }
        _ => open(v2),
    };
    match ask {
        Ask::AddOffsets | Ask::CommitOffsets | Ask::End { commit: true } => m.end(commit()),
        Ask::End { commit: false } => m.end(End::Abort),
        _ => {}
    }
    while let Some(next) = m.next(now(), true, true) {
        if next == *ask {
            return m;
        }
        m.answered(Ok(Said { identity: None, v2 }), now());
    }
    panic!("{ask:?} is never asked")
}

#[test]
fn every_error_at_every_question() {
    let questions = [
        (Ask::Init, CallSite::InitProducerId),
        (Ask::AddPartitions(vec![3]), CallSite::Transaction),
        (Ask::AddOffsets, CallSite::Transaction),
        (Ask::CommitOffsets, CallSite::TxnOffsetCommit),
        (Ask::End { commit: true }, CallSite::EndTxn),
        (Ask::End { commit: false }, CallSite::EndTxn),
    ];
    for number in -1..=133i16 {
        let Some(error) = E::try_from_code(number) else { continue };
        for (ask, site) in &questions {
            for v2 in [false, true] {
                if v2 && matches!(ask, Ask::AddOffsets | Ask::AddPartitions(_)) {
                    continue;
                }
                let mut m = asked(ask, v2);
                let said = code(error, *site);
                let class = said.class();
                m.answered(Err(said), now());
                let fate = fate(&mut m, ask);
                let what = format!("{error} at {ask:?}, version 2: {v2}");
                match (error, class) {
                    (_, ErrorClass::Retriable) => assert_eq!(fate, Fate::Again, "{what}"),
                    (_, ErrorClass::FencedLease) => {
                        assert_eq!(fate, Fate::Dead(ErrorClass::FencedLease), "{what}");
                    }
                    // The coordinator has forgotten the producer: there is nothing to abort.
                    (E::InvalidProducerIdMapping | E::UnknownProducerId, _)
                        if *ask == (Ask::End { commit: false }) =>
                    {
                        assert_eq!(fate, Fate::Done, "{what}");
                    }
                    (
                        E::IllegalGeneration
                        | E::UnknownMemberId
                        | E::FencedInstanceId
                        | E::RebalanceInProgress
                        | E::FencedMemberEpoch
                        | E::StaleMemberEpoch,
                        _,
                    ) if *ask == Ask::CommitOffsets => assert_eq!(fate, Fate::Open, "{what}"),
                    (_, ErrorClass::AbortTransaction)
                        if !matches!(ask, Ask::Init | Ask::End { commit: false }) =>
                    {
                        assert!(fate == Fate::MustAbort, "{what}: {fate:?}");
                    }
                    (E::GroupAuthorizationFailed | E::TopicAuthorizationFailed, _)
                        if matches!(ask, Ask::AddPartitions(_) | Ask::AddOffsets | Ask::CommitOffsets) =>
                    {
                        assert_eq!(fate, Fate::MustAbort, "{what}");
                    }
                    // An abort or an initialisation that fails for good.
                    (_, ErrorClass::AbortTransaction) => {
                        assert!(matches!(fate, Fate::Dead(_)), "{what}: {fate:?}");
                    }
                    _ => assert!(
                        matches!(fate, Fate::Dead(ErrorClass::Fatal) | Fate::MustAbort),
                        "{what}: {fate:?}"
                    ),
                }
            }
        }
    }
}

#[test]
fn what_java_calls_fenced_abortable_and_fatal() {
    for (error, ask, site, fate_of_it) in [
        (E::ProducerFenced, Ask::End { commit: true }, CallSite::EndTxn, Fate::Dead(ErrorClass::FencedLease)),
        (
            E::InvalidProducerEpoch,
            Ask::End { commit: true },
            CallSite::EndTxn,
            Fate::Dead(ErrorClass::FencedLease),
        ),
        (E::InvalidProducerEpoch, Ask::Init, CallSite::InitProducerId, Fate::Dead(ErrorClass::FencedLease)),
        (E::TransactionAbortable, Ask::End { commit: true }, CallSite::EndTxn, Fate::MustAbort),
        (
            E::TransactionAbortable,
            Ask::End { commit: false },
            CallSite::EndTxn,
            Fate::Dead(ErrorClass::Fatal),
        ),
        (E::InvalidTxnState, Ask::End { commit: true }, CallSite::EndTxn, Fate::MustAbort),
        (E::IllegalGeneration, Ask::CommitOffsets, CallSite::TxnOffsetCommit, Fate::Open),
        (E::FencedInstanceId, Ask::CommitOffsets, CallSite::TxnOffsetCommit, Fate::Open),
        (E::ConcurrentTransactions, Ask::AddPartitions(vec![3]), CallSite::Transaction, Fate::Again),
        (E::CoordinatorLoadInProgress, Ask::CommitOffsets, CallSite::TxnOffsetCommit, Fate::Again),
        (E::NotCoordinator, Ask::End { commit: true }, CallSite::EndTxn, Fate::Again),
        (
            E::TransactionalIdAuthorizationFailed,
            Ask::AddPartitions(vec![3]),
            CallSite::Transaction,
            Fate::Dead(ErrorClass::Fatal),
        ),
        (E::GroupAuthorizationFailed, Ask::AddOffsets, CallSite::Transaction, Fate::MustAbort),
    ] {
        let mut m = asked(&ask, false);
        m.answered(Err(code(error, site)), now());
        assert_eq!(fate(&mut m, &ask), fate_of_it, "{error} at {ask:?}");
    }
}

#[test]
fn a_commit_may_be_made_in_the_next_generation() {
    let mut m = asked(&Ask::CommitOffsets, false);
    m.answered(Err(code(E::IllegalGeneration, CallSite::TxnOffsetCommit)), now());
    assert_eq!(failed(&mut m).code(), Some(E::IllegalGeneration.code()));
    m.end(commit());
    obey(&mut m, &[Ask::AddOffsets, Ask::CommitOffsets, Ask::End { commit: true }], Said::default());
    assert!(matches!(m.take_ended(), Some(Ended::Committed)));
}

#[test]
fn an_unknown_outcome_is_asked_for_until_its_time_is_over() {
    let lost = || Error::new(ErrorKind::Connection, "lost").with_class(ErrorClass::Retriable);
    let mut m = asked(&Ask::End { commit: true }, true);
    let patience = ProducerConfig::default().delivery_timeout;
    m.answered(Err(lost()), now() + patience - Duration::from_secs(1));
    assert!(m.take_ended().is_none());
    m.fenced(Error::new(ErrorKind::Fenced, "lease"));
    assert!(m.take_ended().is_none(), "it may be committed: only a broker says");
    assert_eq!(m.next(now() + patience, true, false), Some(Ask::End { commit: true }));
    m.answered(Err(lost()), now() + patience);
    let error = failed(&mut m);
    assert_eq!((error.class(), m.is_dead()), (ErrorClass::Retriable, true));
    m.end(End::Abort);
    assert_eq!(
        failed(&mut m).class(),
        ErrorClass::Retriable,
        "an abort of what may be committed is no abort"
    );
    assert_eq!(m.next(later(), true, true), None);
}

#[test]
fn without_a_permit_nothing_is_committed_but_aborts_go() {
    let mut m = open(false);
    m.end(commit());
    assert_eq!(m.next(now(), true, false), None);
    m.fenced(Error::new(ErrorKind::Fenced, "lease").with_class(ErrorClass::FencedLease));
    assert_eq!(failed(&mut m).class(), ErrorClass::FencedLease);
    assert!(!m.is_dead());
    m.end(End::Abort);
    assert_eq!(m.next(now(), true, false), Some(Ask::End { commit: false }));
}

#[test]
fn a_batch_that_is_lost_ends_in_an_abort() {
    let mut m = open(true);
    m.batch_failed(&Error::new(ErrorKind::Timeout, "late"));
    assert!(!m.admits(3));
    m.end(commit());
    assert_eq!(failed(&mut m).class(), ErrorClass::AbortTransaction);
    m.end(End::Abort);
    assert_eq!(m.next(now(), true, true), Some(Ask::End { commit: false }));
    for (error, dead) in
        [(E::ProducerFenced, true), (E::InvalidProducerEpoch, false), (E::InvalidTxnState, false)]
    {
        let mut m = open(true);
        m.batch_failed(&code(error, CallSite::Produce));
        assert_eq!(m.is_dead(), dead, "{error}");
    }
}

#[test]
fn an_abort_of_what_never_arrived_is_one() {
    let mut m = started(false);
    m.admits(3);
    assert!(m.next(now(), false, true).is_some());
    m.end(End::Abort);
    m.answered(Err(Error::new(ErrorKind::Connection, "lost").with_class(ErrorClass::Retriable)), now());
    assert_eq!(m.next(later(), true, true), Some(Ask::End { commit: false }), "it may have arrived");
    m.answered(Err(code(E::InvalidTxnState, CallSite::EndTxn)), now());
    assert_eq!(m.next(now(), true, true), Some(Ask::Init));
    // But once the coordinator knew of it, this word means that it is committed.
    let mut m = open(false);
    m.end(End::Abort);
    assert!(m.next(now(), true, true).is_some());
    m.answered(Err(code(E::InvalidTxnState, CallSite::EndTxn)), now());
    assert!(m.is_dead());
}
