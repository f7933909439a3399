//! What the fuzz targets do with the broker; see `crate::fuzz`.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::broker::Broker;
use super::clock::BrokerClock;
use super::config::{BrokerConfig, TopicConfig};
use super::log::{Log, only_batch};
use super::server::Requests;
use super::state::State;
use crate::ErrorKind;
use crate::client::batch::patch;

/// Far more requests than an input of some kilobytes holds usefully.
const MOST_REQUESTS: usize = 64;

/// Handles what a client sends, frame by frame, on a broker of its own with a topic `t` and no network. A request that
/// waits is given up, as by a client that goes away.
pub(crate) fn connection(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    let _entered = runtime.enter();
    let clock = BrokerClock::new(true);
    let config = BrokerConfig::default();
    let mut state = State::new(&[9092, 9093], &config, clock.now());
    state.create_topic("t", 2, 1, TopicConfig::default());
    let broker = Arc::new(Broker::new(state, clock, config, Vec::new()));
    let requests = [1, 2].map(|node| Requests::new(Arc::clone(&broker), node, "/127.0.0.1".to_owned()));
    let mut rest = Bytes::copy_from_slice(bytes);
    for at in 0..MOST_REQUESTS {
        let Some(length) = rest.first_chunk().copied().map(u32::from_be_bytes) else { break };
        rest.advance(4);
        let frame = rest.split_to(rest.len().min(length as usize));
        let mut handled = std::pin::pin!(requests[at % 2].handle(frame));
        let answer = handled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(error)) = answer {
            assert!(error.kind() != ErrorKind::Broker, "an answer that cannot be said: {error:?}");
        }
        assert!(broker.clock.advance(Duration::from_secs(7)).is_ok());
        let state = &mut *broker.lock();
        state.tick(broker.clock.now(), broker.clock.wall_ms());
    }
    assert!(broker.clock.advance(Duration::from_secs(3600)).is_ok());
    broker.lock().tick(broker.clock.now(), broker.clock.wall_ms());
}

/// Gives the log a client's batch, with the right CRC, and reads what it made of it.
pub(crate) fn append(bytes: &[u8]) {
    let mut records = BytesMut::from(bytes);
    patch::mend_crc(&mut records);
    let records = records.freeze();
    for policy in ["delete", "compact"] {
        let settings = [("cleanup.policy", Some(policy.to_owned()))];
        let Ok(config) = TopicConfig::default().with(settings) else { continue };
        let mut log = Log::default();
        for now in [1, 1_700_000_000_000] {
            let before = log.end();
            let appended = only_batch(records.clone()).and_then(|batch| log.append(batch, &config, 0, now));
            assert!(appended.is_ok() || log.end() == before, "what is refused leaves nothing behind");
        }
        for committed in [false, true] {
            _ = log.read(log.start(), committed, 1 << 20, true);
        }
        log.compact(&config, 2);
        log.retain(&config, i64::MAX / 2);
    }
}
