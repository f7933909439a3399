//! Members that come, die, freeze, come back and lose their coordinator at random, from a seed.

use std::collections::BTreeMap;

use super::*;

/// A consumer as a client library drives it: it joins, asks for its assignment, sends heartbeats.
#[derive(Debug, Default)]
struct Client {
    id: Id,
    /// 0 while it is in none.
    generation: i32,
    joining: Option<Parked<m::JoinGroupResponse>>,
    syncing: Option<Parked<m::SyncGroupResponse>>,
    /// The assignment of its generation.
    share: Option<Bytes>,
    /// It does nothing, as a process that is stopped.
    frozen: bool,
}

struct World {
    kit: Kit,
    random: u64,
    clients: Vec<Client>,
    /// What was assigned to whom in which generation: nobody is ever told something else.
    assigned: BTreeMap<(i32, StrBytes), Bytes>,
    /// Generations of different coordinators may have the same number.
    moves: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let kit = Kit::new();
        let clients = Vec::new();
        Self {
            kit,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            clients,
            assigned: BTreeMap::new(),
            moves: 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap_or(0) % limit
    }

    /// One step of each client that is awake.
    fn step_clients(&mut self) {
        for at in 0..self.clients.len() {
            let mut client = std::mem::take(&mut self.clients[at]);
            if !client.frozen {
                self.step(&mut client);
            }
            self.clients[at] = client;
        }
    }

    fn step(&mut self, client: &mut Client) {
        if let Some(parked) = &mut client.joining {
            let Ok(joined) = parked.try_recv() else { return };
            client.joining = None;
            return self.joined(client, joined);
        }
        if let Some(parked) = &mut client.syncing {
            let Ok(synced) = parked.try_recv() else { return };
            client.syncing = None;
            match code(synced.error_code) {
                None => {
                    let key = (client.generation, client.id.member.clone());
                    if self.moves == 0 {
                        let told = self.assigned.entry(key).or_insert_with(|| synced.assignment.clone());
                        assert_eq!(*told, synced.assignment);
                    }
                    client.share = Some(synced.assignment);
                }
                Some(code) => self.lost(client, code),
            }
            return;
        }
        if client.share.is_none() {
            client.joining = Some(self.kit.join(&client.id, "m"));
            return;
        }
        match self.kit.heartbeat(&client.id, client.generation) {
            None => {}
            Some(Code::RebalanceInProgress) => client.share = None,
            Some(code) => self.lost(client, code),
        }
    }

    fn joined(&mut self, client: &mut Client, joined: m::JoinGroupResponse) {
        match code(joined.error_code) {
            None => {}
            Some(Code::MemberIdRequired) => return client.id.member = joined.member_id,
            Some(code) => return self.lost(client, code),
        }
        (client.generation, client.id.member) = (joined.generation_id, joined.member_id.clone());
        let mut shares = Vec::new();
        if joined.leader == joined.member_id && !joined.skip_assignment {
            let ids: Vec<_> = joined.members.iter().map(|one| Id::default().member(&one.member_id)).collect();
            assert!(
                ids.iter().any(|id| id.member == joined.member_id),
                "the leader is among those it is told of"
            );
            shares =
                ids.into_iter().map(|id| (format!("{}@{}", id.member, joined.generation_id), id)).collect();
        }
        let shares: Vec<(&Id, &str)> = shares.iter().map(|(share, id)| (id, share.as_str())).collect();
        client.syncing = Some(self.kit.sync(&client.id, joined.generation_id, &shares));
    }

    fn lost(&mut self, client: &mut Client, code: Code) {
        match code {
            Code::UnknownMemberId => client.id.member = StrBytes::default(),
            // A coordinator that takes over knows the id of before, if the new one was not in an assigned generation:
            // Kafka's does not, either. The process is started anew.
            Code::FencedInstanceId if self.moves > 0 => client.id.member = StrBytes::default(),
            Code::IllegalGeneration | Code::RebalanceInProgress | Code::NotCoordinator => {}
            other => panic!("{other:?} to {client:?}"),
        }
        client.share = None;
    }

    fn disturb(&mut self) {
        let count = self.clients.len();
        match self.below(10) {
            0 | 1 if count < 6 => {
                let id = match self.below(2) {
                    0 => instance(&format!("i{}", self.random)),
                    _ => Id::default(),
                };
                self.clients.push(Client { id, ..Client::default() });
            }
            2 if count > 1 => {
                let dead = self.below(count);
                self.clients.remove(dead);
            }
            3 if count > 1 => {
                let at = self.below(count);
                let leaver = self.clients.remove(at);
                self.kit.leave(&[&leaver.id]);
            }
            4 if count > 0 => {
                let at = self.below(count);
                self.clients[at].frozen = true;
            }
            5 => self.clients.iter_mut().for_each(|client| client.frozen = false),
            6 if count > 0 => {
                // A process dies and starts anew; a static one under its old name.
                let at = self.below(count);
                let id = Id { member: StrBytes::default(), instance: self.clients[at].id.instance.clone() };
                self.clients[at] = Client { id, ..Client::default() };
            }
            7 => {
                let loading = Duration::from_secs(self.below(4) as u64);
                self.moves += 1;
                self.kit.takeover(loading);
            }
            8 => self.kit.advance(SESSION),
            _ => {}
        }
    }

    /// Nothing disturbs any more: the group becomes stable with exactly those who live.
    fn settle(&mut self) {
        self.clients.iter_mut().for_each(|client| client.frozen = false);
        for _ in 0..2_000 {
            self.kit.advance(Duration::from_millis(500));
            self.step_clients();
            let described = self.kit.describe();
            let stable = described.group_state.as_str() == "Stable"
                && described.members.len() == self.clients.len()
                && self.clients.iter().all(|client| client.share.is_some());
            if stable {
                for client in &self.clients {
                    let share = client.share.as_ref().expect("it has one");
                    let wanted = format!("{}@", client.id.member);
                    let renewed = client.id.instance.is_some();
                    assert!(
                        renewed || share.starts_with(wanted.as_bytes()),
                        "{share:?} is not of {client:?}"
                    );
                }
                return;
            }
        }
        panic!("the group does not settle: {:?}\n{:#?}", self.kit.describe(), self.clients);
    }
}

#[test]
fn whatever_happens_the_group_settles_with_those_who_live() {
    for seed in 1..=200 {
        let mut world = World::new(seed);
        world.clients.push(Client::default());
        for _ in 0..150 {
            world.disturb();
            let pause = Duration::from_millis(500 * (1 + world.below(4) as u64));
            world.kit.advance(pause);
            world.step_clients();
        }
        world.settle();
    }
}
