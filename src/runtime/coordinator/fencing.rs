//! Exactly-once: the transactions of those who are gone are ended by whoever takes their tasks (KIP-447 would wait for
//! `transaction.timeout.ms`): readers wait for nothing, and offsets that are pending are settled.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

use super::Coordinator;
use crate::client::group::init_producer_id;
use crate::client::{Admin, Cluster};
use crate::clock;
use crate::config::Config;
use crate::group::Instance;
use crate::runtime::settings;

/// The pause before a producer that could not be fenced is tried again.
const PAUSE: Duration = Duration::from_millis(300);

/// How long the end of an application waits until what it leaves open is aborted. Whoever takes the tasks does it later.
const LAST_FENCE: Duration = Duration::from_secs(5);

impl Coordinator {
    pub(super) fn process_id(&self) -> Uuid {
        self.subscription.1.instance
    }

    /// Tasks come to this instance. The producers of instances that have left the group are fenced before these begin: those
    /// that the group knew, and those that it has forgotten and that have a transaction open.
    pub(super) fn fence_departed(&mut self, departed: Vec<String>, instances: &[Instance]) {
        let alive = instances.iter().map(|instance| instance.id).collect();
        self.fence_and(departed, Some(alive));
    }

    /// Fences producers; what is placed from now on begins after that.
    pub(super) fn fence(&mut self, ids: Vec<String>) {
        if !ids.is_empty() {
            self.fence_and(ids, None);
        }
    }

    /// The application ends although workers have not ended their transactions, because they are stuck or were told that
    /// their time is over: these are aborted, so that readers need not wait for `transaction.timeout.ms`.
    pub(super) async fn fence_stragglers(&self) {
        let config = &self.shared.config;
        if self.stragglers.is_empty() || !config.is_exactly_once() {
            return;
        }
        let id = |place: &usize| settings::transactional_id(config, self.process_id(), *place);
        let ids = self.stragglers.iter().map(id).collect();
        let all = fence_all(&self.cluster, ids, config.producer().transaction_timeout());
        if clock::timeout(LAST_FENCE, all).await.is_none() {
            tracing::warn!(
                "transactions of this instance stay open until somebody takes its tasks, or transaction.timeout.ms is over"
            );
        }
    }

    fn fence_and(&mut self, ids: Vec<String>, alive: Option<BTreeSet<Uuid>>) {
        if !self.shared.config.is_exactly_once() {
            return;
        }
        let shared = self.shared.clone();
        let own = (self.process_id(), self.workers.places().chain(self.replacements.vacant()).collect());
        let (done, fenced) = watch::channel(false);
        let mut before = std::mem::replace(&mut self.fenced, fenced);
        let (cluster, timeout) = (self.cluster.clone(), self.shared.config.producer().transaction_timeout());
        self.cluster.runtime().spawn(async move {
            let _ = before.wait_for(|fenced| *fenced).await;
            let mut ids: BTreeSet<String> = ids.into_iter().collect();
            if let Some(alive) = alive {
                ids.extend(forgotten(&cluster, &shared.config, &alive, &own).await);
            }
            fence_all(&cluster, ids, timeout).await;
            let _ = done.send(true);
        });
    }
}

/// The transactional ids of this application whose transactions are open although neither an instance of the group nor a
/// place of this one has them: of an instance whose state directory is gone, of one that had more workers before, of Kafka
/// Streams, which names its own in the same way.
async fn forgotten(
    cluster: &Cluster,
    config: &Config,
    alive: &BTreeSet<Uuid>,
    own: &(Uuid, BTreeSet<usize>),
) -> Vec<String> {
    let prefix = format!("{}-", config.application_id());
    let listed = match Admin::new(cluster).list_transactions(&prefix).await {
        Ok(listed) => listed,
        Err(error) => {
            // Before 3.0 brokers cannot say; or it is not allowed. They end with their timeout.
            tracing::debug!(?error, "open transactions cannot be listed");
            return Vec::new();
        }
    };
    let open = listed.into_iter().filter(|transaction| transaction.state == "Ongoing");
    open.map(|transaction| transaction.transactional_id)
        .filter(|id| match settings::of_transactional_id(config.application_id(), id) {
            Some((process, worker)) if process == own.0 => !own.1.contains(&worker),
            Some((process, _)) => !alive.contains(&process),
            None => false,
        })
        .collect()
}

/// Tries until all are fenced, or their transactions are so old that their coordinators have aborted them.
async fn fence_all(cluster: &Cluster, mut ids: BTreeSet<String>, timeout: Duration) {
    let until = clock::monotonic() + timeout;
    loop {
        let mut failed = BTreeSet::new();
        for id in ids {
            match init_producer_id(cluster, Some(&id), timeout, None).await {
                Ok(_) => {
                    tracing::info!(transactional_id = id, "fenced the producer of a worker that is gone")
                }
                Err(error) => {
                    tracing::warn!(
                        transactional_id = id,
                        ?error,
                        "cannot fence the producer of a worker that is gone"
                    );
                    failed.insert(id);
                }
            }
        }
        if failed.is_empty() || clock::monotonic() >= until {
            return;
        }
        ids = failed;
        clock::sleep(PAUSE).await;
    }
}
