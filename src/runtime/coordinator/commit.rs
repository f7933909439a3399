//! A worker's commit: the offsets go to the group's coordinator, and then the leaders of changelogs are asked for their epochs.

use super::Coordinator;
use crate::client::Admin;
use crate::client::group::{CommittedOffset, MemberId};
use crate::error::{Error, ErrorKind};
use crate::record::TopicPartition;
use crate::runtime::message::{Epochs, ToCoordinator, ToWorker};
use crate::runtime::workers::{WorkerHandle, WorkerId};

impl Coordinator {
    /// Says how it ended to the worker's mailbox.
    pub(super) fn commit(
        &self,
        worker: WorkerId,
        commit: u64,
        generation: i32,
        offsets: Vec<(TopicPartition, CommittedOffset)>,
        changelogs: Vec<TopicPartition>,
    ) {
        let admin = Admin::new(&self.cluster);
        let Some(inbox) = self.workers.get(worker).map(WorkerHandle::inbox) else { return };
        let member = MemberId { generation, ..self.member.clone() };
        let group = self.group.clone();
        let own = self.own.clone();
        let commits = self.commits.clone();
        let under_way = commits.clone().try_read_owned();
        self.cluster.runtime().spawn(async move {
            let _under_way = match under_way {
                Ok(under_way) => under_way,
                // A task is about to be prepared.
                Err(_) => commits.read_owned().await,
            };
            let outcome = match offsets.is_empty() {
                true => Ok(()),
                false => group
                    .commit(&member, &offsets)
                    .await
                    .and_then(|results| results.into_iter().try_for_each(|(_, result)| result)),
            };
            let offsets = offsets.into_iter().map(|(at, o)| (at, o.offset)).collect();
            // ORDER: before the worker tries again, and before what it then commits is purged.
            let _ = match &outcome {
                Ok(()) => own.send(ToCoordinator::Purgeable(offsets)),
                Err(error) if is_unheard(error) => own.send(ToCoordinator::Unheard(offsets)),
                Err(_) => Ok(()),
            };
            let outcome = match outcome {
                Ok(()) => Ok(leader_epochs(&admin, changelogs).await),
                Err(error) => Err(error),
            };
            let _ = inbox.send(ToWorker::Committed { commit, outcome });
        });
    }
}

/// Whether nobody knows if a commit with this outcome was carried out, or will be.
pub(in crate::runtime) fn is_unheard(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connection)
}

/// The epochs of the leaders of changelogs, as far as they can be had: what is missing is handed over another time.
async fn leader_epochs(admin: &Admin, changelogs: Vec<TopicPartition>) -> Epochs {
    if changelogs.is_empty() {
        return Vec::new();
    }
    let epochs = admin.leader_epochs(&changelogs).await.unwrap_or_else(|error| {
        tracing::debug!(?error, "the leader epochs of changelogs are not known");
        Vec::new()
    });
    changelogs.into_iter().zip(epochs).filter_map(|(at, epoch)| Some((at, epoch.ok()?))).collect()
}
