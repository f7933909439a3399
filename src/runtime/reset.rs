//! What `mainstem reset` does: it brings an application back to where it has processed nothing, or to another place of its
//! input (`org.apache.kafka.tools.StreamsResetter`). It works on what Kafka Streams has left as well: the names of topics and
//! of transactional ids are the same.
//!
//! Beyond Java's tool it ends the open transactions of the application, so that nobody who reads what is committed waits for
//! them; it deletes local state; it leaves topics alone that are another application's by their name; and it changes
//! nothing at all before it has seen that all of it can be done.

mod offsets;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

pub use self::offsets::{OffsetChange, ResetTo};
use super::settings;
use super::state_tools::{HeldSlot, Slot, slots_if_any};
use crate::client::admin::GroupMember;
use crate::client::{Admin, Cluster};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::record::TopicPartition;
use crate::task_id::TaskId;

/// How often members are removed: those that are alive come back.
const REMOVALS: usize = 3;
/// How long the group must stay empty after members were removed: whoever is alive hears of it with its next heartbeat, and
/// comes back. Longer than `heartbeat.interval.ms` (3 s, unless somebody has set more) and a request.
const QUIET: Duration = Duration::from_millis(4_500);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);
/// How long brokers may know a topic that they have agreed to delete.
const DELETING: Duration = Duration::from_secs(30);
/// UNKNOWN_MEMBER_ID, which a commit from outside gets while the group has members.
const UNKNOWN_MEMBER_ID: i16 = 25;

/// What to reset.
#[derive(Debug, Clone)]
pub struct Reset {
    /// `application.id`.
    pub application_id: String,
    /// The topics whose committed offsets are moved.
    pub input_topics: Vec<String>,
    /// Where to.
    pub to: ResetTo,
    /// Topics of the user's that the application writes and reads again: they are skipped to their end.
    pub intermediate_topics: Vec<String>,
    /// The internal topics to delete; all of them if none is named.
    pub internal_topics: Vec<String>,
    /// The `state.dir` whose slots of the application are deleted; `None` leaves local state alone.
    pub state_dir: Option<PathBuf>,
    /// Removes members that are still in the group.
    pub force: bool,
}

/// What a reset would do. Nothing of it is done yet.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Members of the group, in words: without `force` they are a reason to refuse.
    pub members: Vec<String>,
    /// Transactional ids whose producers are fenced, each with its state in Kafka's words. What is open is aborted.
    pub transactions: Vec<(String, String)>,
    /// Committed offsets that are set.
    pub offsets: Vec<OffsetChange>,
    /// Committed offsets that are deleted, with their topics.
    pub forgotten: Vec<TopicPartition>,
    /// Internal topics that are deleted.
    pub topics: Vec<String>,
    /// Folders that are deleted.
    pub slots: Vec<Slot>,
    /// What somebody should know.
    pub notes: Vec<String>,
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::Config, text)
}

/// Whether the name of a topic is one that Kafka Streams gives (`StreamsResetter.matchesInternalTopicFormat`).
fn is_internal(rest: &str) -> bool {
    let numbered = |kind: &str| {
        let found = rest.strip_suffix("-topic").and_then(|rest| rest.rsplit_once(kind));
        found
            .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let ends =
        ["-changelog", "-repartition", "-subscription-registration-topic", "-subscription-response-topic"];
    ends.iter().any(|end| rest.len() > end.len() && rest.ends_with(end))
        || numbered("KTABLE-FK-JOIN-SUBSCRIPTION-REGISTRATION-")
        || numbered("KTABLE-FK-JOIN-SUBSCRIPTION-RESPONSE-")
}

/// Whether a transactional id is one of the application: of a worker, or of a task as Kafka Streams named it before 3.0.
fn is_own_transaction(application_id: &str, id: &str) -> bool {
    let task = id.strip_prefix(application_id).and_then(|rest| rest.strip_prefix('-'));
    settings::of_transactional_id(application_id, id).is_some()
        || task.is_some_and(|task| task.parse::<TaskId>().is_ok())
}

impl Reset {
    /// Looks at the cluster and the folders.
    ///
    /// # Errors
    /// When the brokers do not answer or do not allow it; [`ErrorKind::Config`], [`ErrorKind::Topic`] or
    /// [`ErrorKind::OffsetOutOfRange`] for what is asked and cannot be, by name.
    pub async fn plan(&self, cluster: &Cluster) -> Result<Plan> {
        self.check()?;
        let admin = Admin::new(cluster);
        let mut plan =
            Plan { members: self.members(&admin).await?.iter().map(described).collect(), ..Plan::default() };
        self.plan_transactions(&admin, &mut plan).await?;
        plan.offsets = self.offsets(&admin, &mut plan.notes).await?;
        self.plan_topics(&admin, &mut plan).await?;
        self.plan_state(&mut plan)?;
        Ok(plan)
    }

    fn check(&self) -> Result<()> {
        let id = &self.application_id;
        if id.is_empty() {
            return Err(refused("application.id must not be empty".to_owned()));
        }
        // Names of topics begin with it, and it names a folder below state.dir: `../x` would be somebody else's.
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            || id == "."
            || id == ".."
        {
            return Err(refused(format!(
                "application.id={id} is not the name of an application: it has letters, digits, dots, underscores and hyphens"
            )));
        }
        let named = || self.input_topics.iter().chain(&self.intermediate_topics);
        let mut seen = BTreeSet::new();
        for topic in named().chain(&self.internal_topics) {
            if topic.is_empty() {
                return Err(refused("a list of topics has an empty name: take the comma out".to_owned()));
            }
            if !seen.insert(topic) {
                return Err(refused(format!(
                    "the topic {topic} is named twice: name it once, as what it is"
                )));
            }
        }
        Ok(())
    }

    /// The members of the group now.
    async fn members(&self, admin: &Admin) -> Result<Vec<GroupMember>> {
        let described = admin.describe_group(&self.application_id).await?;
        if described.state == "Dead" {
            // A group of KIP-848 or KIP-1071 is dead to whoever asks in the classic way.
            let listed = admin.list_groups().await?;
            let state = listed
                .into_iter()
                .find(|group| group.group_id == self.application_id)
                .map(|group| group.state);
            if let Some(state) = state.filter(|state| !matches!(&**state, "" | "Empty" | "Dead")) {
                return Err(Error::new(
                    ErrorKind::IllegalState,
                    format!(
                        "the group {} is {state} and speaks another protocol than `classic`, so that its members cannot be seen \
                         from here: stop its instances first",
                        self.application_id
                    ),
                ));
            }
        }
        Ok(described.members)
    }

    async fn plan_transactions(&self, admin: &Admin, plan: &mut Plan) -> Result<()> {
        match admin.list_transactions(&format!("{}-", self.application_id)).await {
            Ok(listed) => {
                let own = listed.into_iter().filter(|t| {
                    t.state != "Dead" && is_own_transaction(&self.application_id, &t.transactional_id)
                });
                plan.transactions = own.map(|t| (t.transactional_id, t.state)).collect();
                Ok(())
            }
            Err(error) if error.is_retriable() => Err(error),
            // Before 3.0 brokers cannot say; or it is not allowed (DESCRIBE on the transactional ids).
            Err(error) => {
                plan.notes.push(format!(
                    "the transactions of {} cannot be listed ({error}): what is open is aborted by the brokers when \
                     transaction.timeout.ms is over, and readers of what is committed wait so long",
                    self.application_id
                ));
                Ok(())
            }
        }
    }

    async fn plan_topics(&self, admin: &Admin, plan: &mut Plan) -> Result<()> {
        let prefix = format!("{}-", self.application_id);
        let groups = admin.list_groups().await?;
        // Another application may be called as this one's topics begin: orders, and orders-eu.
        let others: Vec<String> = groups.into_iter().map(|group| group.group_id).collect();
        let others: Vec<_> = others.iter().filter(|id| id.starts_with(&prefix)).collect();
        let topics = admin.list_topics().await?;
        let own = |name: &String| self.input_topics.contains(name) || self.intermediate_topics.contains(name);
        let mut found = BTreeSet::new();
        for name in topics.iter().map(|topic| topic.name.to_string()) {
            let Some(rest) = name.strip_prefix(&prefix).filter(|_| !own(&name)) else { continue };
            // What follows the id is `-NAME-changelog`: the name is not empty.
            if !is_internal(&format!("-{rest}")) || rest.is_empty() {
                continue;
            }
            let of_another = |id: &&&String| {
                name.strip_prefix(&***id).is_some_and(|rest| rest.starts_with('-') && is_internal(rest))
            };
            match others.iter().find(of_another) {
                Some(other) if !self.internal_topics.contains(&name) => plan.notes.push(format!(
                    "{name} is left alone, because there is a group {other} whose topic it may be: --internal-topics names \
                     what is to go"
                )),
                _ => _ = found.insert(name),
            }
        }
        if let Some(wrong) = self.internal_topics.iter().find(|name| !found.contains(*name)) {
            return Err(refused(format!(
                "--internal-topics: {wrong} is no internal topic of {}, or does not exist; --dry-run without the option \
                 shows which there are",
                self.application_id
            )));
        }
        found.retain(|name| self.internal_topics.is_empty() || self.internal_topics.contains(name));
        let committed = admin.group_offsets(&self.application_id, None).await?;
        let mut kept = BTreeSet::new();
        for at in committed.into_keys() {
            let set = plan.offsets.iter().any(|change| change.at == at);
            match found.contains(&*at.topic) {
                true => plan.forgotten.push(at),
                false if !set => _ = kept.insert(at.topic.to_string()),
                false => {}
            }
        }
        if !kept.is_empty() {
            let kept: Vec<String> = kept.into_iter().collect();
            plan.notes.push(format!(
                "committed offsets of {} stay as they are: --input-topics does not name {}",
                kept.join(", "),
                if kept.len() == 1 { "it" } else { "them" }
            ));
        }
        plan.topics = found.into_iter().collect();
        Ok(())
    }

    fn plan_state(&self, plan: &mut Plan) -> Result<()> {
        let Some(state_dir) = &self.state_dir else {
            plan.notes.push(
                "local state stays: stores are restored from changelogs that are new, but those without a changelog, and all \
                 of Kafka Streams', keep their rows until --state-dir (or KafkaStreams.cleanUp) deletes them on each host"
                    .to_owned(),
            );
            return Ok(());
        };
        let home = state_dir.join(&self.application_id);
        if home.join("kafka-streams-process-metadata").exists() {
            plan.notes.push(format!(
                "{} is of Kafka Streams, whose lock cannot be seen from here: it is left alone; KafkaStreams.cleanUp deletes it",
                home.display()
            ));
            return Ok(());
        }
        if !state_dir.is_dir() || home.exists() {
            plan.slots = slots_if_any(state_dir, Some(&self.application_id))?;
        }
        if plan.slots.is_empty() {
            plan.notes.push(format!(
                "no local state is deleted: below {} there is no folder {} with state in it; look whether --state-dir is the \
                 state.dir of the application, on this host",
                state_dir.display(),
                self.application_id
            ));
        }
        Ok(())
    }

    /// Does what a plan says, and tells each step that is done. Whatever fails, the same reset may be done again.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] while members are in the group or an instance holds a slot; nothing is changed then. Else
    /// what the brokers refuse, and what cannot be deleted.
    pub async fn carry_out(
        &self,
        cluster: &Cluster,
        plan: &Plan,
        done: &mut impl FnMut(String),
    ) -> Result<()> {
        let admin = Admin::new(cluster);
        // ORDER: before anything is changed. Held to the end, so that no instance comes back in the middle.
        let held = self.refuse_if_active(plan)?;
        if self.empty(&admin, done).await? {
            self.stays_empty(&admin).await?;
        }
        // ORDER: before offsets are read and set, because a transaction may hold some, and a producer that is not fenced
        // may still commit one.
        let ids: Vec<&str> = plan.transactions.iter().map(|(id, _)| &**id).collect();
        for (id, fenced) in ids.iter().zip(admin.fence_producers(&ids).await?) {
            fenced.map_err(|error| Error::new(error.kind(), format!("cannot fence {id}")).because(error))?;
            done(format!("fenced {id}"));
        }
        // ORDER: before what cannot be undone. The coordinator takes offsets from outside only while the group is empty.
        self.set_offsets(&admin, plan, done).await?;
        self.empty(&admin, done).await?;
        self.delete_topics(&admin, plan, done).await?;
        for (slot, held) in held {
            held.delete()?;
            done(format!("deleted slot {}, {}", slot.name, slot.path.display()));
        }
        Ok(())
    }

    /// Refuses what [`carry_out`](Self::carry_out) would refuse, and keeps instances out of the slots.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`], with the members, or the slot.
    pub fn refuse_if_active(&self, plan: &Plan) -> Result<Vec<(Slot, HeldSlot)>> {
        if !plan.members.is_empty() && !self.force {
            return Err(self.active(&plan.members));
        }
        let hold = |slot: &Slot| Ok((slot.clone(), slot.hold()?.ok_or_else(|| slot.is_held())?));
        plan.slots.iter().map(hold).collect()
    }

    fn active(&self, members: &[String]) -> Error {
        let text = format!(
            "the group {} has active members: {}; stop the instances (a member that was killed goes when session.timeout.ms is \
             over), or remove the members with --force",
            self.application_id,
            members.join(", ")
        );
        Error::new(ErrorKind::IllegalState, text)
    }

    /// Removes members, if that is asked for. Whether there were any.
    async fn empty(&self, admin: &Admin, done: &mut impl FnMut(String)) -> Result<bool> {
        for removed in 0..REMOVALS {
            let members = self.members(admin).await?;
            if members.is_empty() {
                return Ok(removed > 0);
            }
            if !self.force {
                return Err(self.active(&members.iter().map(described).collect::<Vec<_>>()));
            }
            admin.remove_members(&self.application_id, &members).await?;
            members.iter().for_each(|member| done(format!("removed {}", described(member))));
        }
        self.nobody_is_back(admin).await.map(|()| true)
    }

    /// Waits until members that are alive would have come back.
    async fn stays_empty(&self, admin: &Admin) -> Result<()> {
        let until = clock::monotonic() + QUIET;
        while clock::monotonic() < until {
            clock::sleep(LOOK).await;
            self.nobody_is_back(admin).await?;
        }
        Ok(())
    }

    async fn nobody_is_back(&self, admin: &Admin) -> Result<()> {
        let back = self.members(admin).await?;
        if back.is_empty() {
            return Ok(());
        }
        let text = format!(
            "members come back to the group {} after they were removed, so that instances are running: {}; stop them",
            self.application_id,
            back.iter().map(described).collect::<Vec<_>>().join(", ")
        );
        Err(Error::new(ErrorKind::IllegalState, text))
    }

    async fn set_offsets(&self, admin: &Admin, plan: &Plan, done: &mut impl FnMut(String)) -> Result<()> {
        let came_back = |error: Error| match error.code() {
            Some(UNKNOWN_MEMBER_ID) => {
                let text = format!("an instance of {} has started meanwhile: stop it", self.application_id);
                Error::new(ErrorKind::IllegalState, text).because(error)
            }
            _ => error,
        };
        // Anew: what was still being committed when the plan was made counts for a shift.
        let changes = self.offsets(admin, &mut Vec::new()).await?;
        if !changes.is_empty() {
            let offsets: Vec<_> = changes.iter().map(OffsetChange::commit).collect();
            admin.alter_group_offsets(&self.application_id, &offsets).await.map_err(came_back)?;
            changes.iter().for_each(|change| done(format!("offset of {change}")));
        }
        if !plan.forgotten.is_empty() {
            admin.delete_group_offsets(&self.application_id, &plan.forgotten).await.map_err(came_back)?;
            plan.forgotten.iter().for_each(|at| done(format!("deleted the committed offset of {at}")));
        }
        Ok(())
    }

    async fn delete_topics(&self, admin: &Admin, plan: &Plan, done: &mut impl FnMut(String)) -> Result<()> {
        let names: Vec<&str> = plan.topics.iter().map(|name| &**name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        let mut deleted = Vec::new();
        for (name, result) in names.iter().zip(admin.delete_topics(&names).await?) {
            match result {
                Ok(()) => deleted.push(*name),
                Err(error) => _ = failed.get_or_insert_with(|| error.at_topic(*name)),
            }
        }
        admin.wait_deleted(&deleted, DELETING).await?;
        deleted.iter().for_each(|name| done(format!("deleted topic {name}")));
        failed.map_or(Ok(()), Err)
    }
}

fn described(member: &GroupMember) -> String {
    let GroupMember { member_id, instance_id, client_id, host } = member;
    let host = host.trim_start_matches('/');
    match instance_id {
        Some(id) => format!("{client_id} at {host} (group.instance.id {id})"),
        None => format!("{client_id} at {host} ({member_id})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_internal_topics_are_those_that_kafka_streams_gives() {
        for name in [
            "-counts-changelog",
            "-by-word-repartition",
            "-KTABLE-FK-JOIN-SUBSCRIPTION-REGISTRATION-0000000006-topic",
            "-KTABLE-FK-JOIN-SUBSCRIPTION-RESPONSE-0000000014-topic",
            "-users-subscription-registration-topic",
            "-users-subscription-response-topic",
        ] {
            assert!(is_internal(name), "{name}");
        }
        for name in [
            "-changelog",
            "-output",
            "-counts-changelog-2",
            "-KTABLE-FK-JOIN-SUBSCRIPTION-RESPONSE-x-topic",
            "",
        ] {
            assert!(!is_internal(name), "{name}");
        }
    }

    #[test]
    fn transactional_ids_are_the_applications_own() {
        let process = uuid::Uuid::from_u128(9);
        assert!(is_own_transaction("orders", &format!("orders-{process}-3")));
        assert!(is_own_transaction("orders", "orders-0_1"), "Kafka Streams before 3.0");
        assert!(!is_own_transaction("orders", &format!("orders-eu-{process}-3")));
        assert!(!is_own_transaction("orders", "orders-payments"));
    }
}
