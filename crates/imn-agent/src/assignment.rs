//! Standing work: read from the server's bucket, kept on disk, split among instances.

mod hold;
mod split;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use imn_contract::{
    AgentId, Encoding, InstanceId, ModuleType, decode,
    latest::{Assignment, AssignmentFile, AssignmentMark, AssignmentMeta, AssignmentShard},
    stream,
};
use imn_runtime::{
    clock, file,
    nats::{self, Client},
    task::Stop,
};
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Config,
    roster::{Member, Roster, Service},
    supervise::Supervisor,
};
use hold::{Condition, Holds, Share};

/// How often the server's bucket is looked at without being poked.
const RESYNC: Duration = Duration::from_secs(30);
/// How soon a file that cannot be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a shard that does not fit its hash is asked for again: it is being written.
const SETTLE_TRIES: u32 = 5;
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// What is in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    pub(crate) mark: AssignmentMark,
    pub(crate) targets: u64,
}

/// Keeps the files of standing work as the server wants them.
#[derive(Debug)]
pub(crate) struct Assignments {
    agent: AgentId,
    cache: PathBuf,
    config: Config,
    client: Client,
    roster: Arc<Roster>,
    poke: Notify,
    in_force: Mutex<InForce>,
}

/// Why the assignments could not be read.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("read assignments: {0}")]
    Nats(#[from] nats::Error),
    #[error("read assignments: {0}")]
    Decode(#[from] imn_contract::DecodeError),
    #[error("keep assignments: {0}")]
    File(#[from] file::Error),
    #[error("read assignments: shard {shard} is not the one that the list names; it is being changed")]
    Unsettled { shard: usize },
}

/// What the reconciler holds: the list in force and the packed shards it names.
#[derive(Debug, Default)]
struct Held {
    meta: Option<AssignmentMeta>,
    shards: BTreeMap<usize, Vec<Assignment>>,
    /// Who has what; `None` until what the agent before has written is read.
    holds: Option<Holds>,
    files: BTreeMap<InstanceId, Written>,
    /// When to write again: for a hand-over that has to wait, one that is settled, or a file that could not be written.
    again: Option<tokio::time::Instant>,
}

/// What a file of an instance holds.
#[derive(Debug)]
struct Written {
    generation: u64,
    hash: u64,
}

impl Assignments {
    pub(crate) fn new(config: &Config, client: Client, roster: Arc<Roster>) -> Result<Self, file::Error> {
        let cache = config.state_dir.join("assignments").join("cache");
        file::create_private_dir(&cache)?;
        Ok(Self {
            agent: config.id.clone(),
            cache,
            config: config.clone(),
            client,
            roster,
            poke: Notify::new(),
            in_force: Mutex::default(),
        })
    }

    /// Looks at the bucket soon.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// What is in force.
    pub(crate) fn in_force(&self) -> InForce {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reconciles until the end. What is cached comes first, so that standing work needs neither server nor NATS.
    pub(crate) async fn run(self: Arc<Self>, supervisor: Arc<Supervisor>, stop: Stop) {
        let mut held = self.restore();
        if let Some(meta) = &held.meta {
            supervisor.set_partitions(meta.partitions);
        }
        self.distribute(&mut held, &supervisor);
        let mut connected = self.client.events().connected();
        let mut members = self.roster.standing();
        let mut roster = self.roster.changes();
        let mut synced = tokio::time::Instant::now();
        let mut due = true;
        loop {
            if due && *connected.borrow_and_update() {
                match self.sync(&mut held).await {
                    Ok(changed) => {
                        if changed {
                            if let Some(meta) = &held.meta {
                                supervisor.set_partitions(meta.partitions);
                            }
                            self.distribute(&mut held, &supervisor);
                        }
                    }
                    Err(error) => tracing::warn!(%error, "assignments stay as they are"),
                }
                synced = tokio::time::Instant::now();
            }
            let again = held.again;
            due = tokio::select! {
                () = stop.requested() => return,
                () = self.poke.notified() => true,
                () = tokio::time::sleep_until(synced + RESYNC) => { synced = tokio::time::Instant::now(); true }
                Ok(()) = connected.changed() => *connected.borrow(),
                () = tokio::time::sleep_until(again.unwrap_or(synced)), if again.is_some() => {
                    self.distribute(&mut held, &supervisor);
                    false
                }
                Ok(()) = roster.changed() => {
                    let now = self.roster.standing();
                    if now != members {
                        members = now;
                        self.distribute(&mut held, &supervisor);
                    }
                    false
                }
            };
        }
    }

    /// Reads the list and those shards that differ. Tells whether anything does.
    async fn sync(&self, held: &mut Held) -> Result<bool, SyncError> {
        let mut tries = 0;
        loop {
            match self.sync_once(held).await {
                Err(SyncError::Unsettled { .. }) if tries < SETTLE_TRIES => {
                    tries += 1;
                    tokio::time::sleep(SETTLE_PAUSE * tries).await;
                }
                done => return done,
            }
        }
    }

    async fn sync_once(&self, held: &mut Held) -> Result<bool, SyncError> {
        let Some(packed) = self.key(&stream::meta_key(&self.agent)).await? else { return Ok(false) };
        let meta: AssignmentMeta = decode(&packed, Encoding::Json)?;
        if held.meta.as_ref() == Some(&meta) {
            return Ok(false);
        }
        let before = held.meta.as_ref().map(|meta| meta.shards.as_slice()).unwrap_or_default();
        let mut fresh: BTreeMap<usize, Vec<Assignment>> = BTreeMap::new();
        let mut read = 0usize;
        for (shard, hash) in meta.shards.iter().enumerate() {
            if before.get(shard) == Some(hash) && (hash.is_empty() || held.shards.contains_key(&shard)) {
                continue;
            }
            if hash.is_empty() {
                fresh.insert(shard, Vec::new());
                continue;
            }
            let key = stream::shard_key(&self.agent, shard as u32);
            let packed = self.key(&key).await?.unwrap_or_default();
            if AssignmentShard::hash(&packed) != *hash {
                return Err(SyncError::Unsettled { shard });
            }
            let unpacked = AssignmentShard::unpack(&packed)?;
            file::write_atomic(&self.shard_path(shard), &packed)?;
            fresh.insert(shard, unpacked.assignments);
            read += 1;
        }
        // The list is kept after the shards that it names, as the server writes it.
        file::write_atomic(&self.cache.join("meta.json"), &packed)?;
        for shard in held.shards.split_off(&meta.shards.len()).into_keys() {
            // Left over from a larger list; a file that stays is never named again.
            let _ = std::fs::remove_file(self.shard_path(shard));
        }
        held.shards.extend(fresh);
        tracing::info!(generation = meta.generation, shards = meta.shards.len(), read, "assignments read");
        held.meta = Some(meta);
        Ok(true)
    }

    async fn key(&self, key: &str) -> Result<Option<bytes::Bytes>, SyncError> {
        let subject = stream::kv_subject(stream::ASSIGNMENTS_BUCKET, key);
        match self.client.direct_get(stream::ASSIGNMENTS, &subject).await {
            Ok(kept) => Ok(kept.map(|kept| kept.payload)),
            // The bucket is made by the server, which may never have been there.
            Err(nats::Error::NoResponders { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What was read last, from disk. A shard that is unreadable counts as one that has to be read.
    fn restore(&self) -> Held {
        let mut held = Held::default();
        let Ok(bytes) = std::fs::read(self.cache.join("meta.json")) else { return held };
        let mut meta: AssignmentMeta = match decode(&bytes, Encoding::Json) {
            Ok(meta) => meta,
            Err(error) => {
                tracing::warn!(%error, "cached assignments unreadable");
                return held;
            }
        };
        for (shard, hash) in meta.shards.iter_mut().enumerate() {
            if hash.is_empty() {
                held.shards.insert(shard, Vec::new());
                continue;
            }
            let packed = std::fs::read(self.shard_path(shard)).unwrap_or_default();
            match AssignmentShard::unpack(&packed) {
                Ok(unpacked) if AssignmentShard::hash(&packed) == *hash => {
                    held.shards.insert(shard, unpacked.assignments);
                }
                _ => {
                    tracing::warn!(shard, "cached shard unreadable");
                    "unknown".clone_into(hash);
                }
            }
        }
        held.meta = Some(meta);
        held
    }

    fn shard_path(&self, shard: usize) -> PathBuf {
        self.cache.join(format!("{shard}.shard"))
    }

    /// Writes the files of all instances of standing work that differ from what they should be. Who loses targets is told so
    /// before another is given them: if the agent dies between, what nobody was given is a gap, and not done twice.
    fn distribute(&self, held: &mut Held, supervisor: &Supervisor) {
        let members = self.roster.standing();
        let conditions = self.conditions(held, &members, supervisor);
        let mut before = held.holds.take().unwrap_or_else(|| self.restored(conditions.keys()));
        for instance in self.roster.take_forgotten() {
            before.forget(&instance);
            held.files.remove(&instance);
        }
        let mut holds = before.clone();
        let mut by_type: BTreeMap<&ModuleType, Vec<&Assignment>> = BTreeMap::new();
        for assignment in held.shards.values().flatten() {
            by_type.entry(&assignment.kind).or_default().push(assignment);
        }
        let mut wanted: Vec<(&Assignment, Option<&InstanceId>)> = Vec::new();
        for (kind, work) in by_type {
            self.roster.rounds_take(kind, work.iter().map(|one| longest(one)).max().unwrap_or_default());
            let members = members.get(kind).map(Vec::as_slice).unwrap_or_default();
            let takers = takers(members, &holds);
            // Without any it stays where it is.
            wanted.extend(split::split(&work, &takers).into_iter().map(|(one, by)| (one, by.map(acting))));
        }
        let now = tokio::time::Instant::now();
        let now_us = clock::now_us();
        let shares = holds.share(wanted.into_iter(), now_us, |instance| {
            conditions.get(instance).copied().unwrap_or(Condition::Gone)
        });
        held.again = shares.again_us.map(|at_us| now + Duration::from_micros((at_us - now_us).max(0) as u64));
        held.files.retain(|instance, _| conditions.get(instance).is_some_and(|is| *is != Condition::Gone));
        let mut files = shares.of;
        let shared = members.values().flatten().filter(|member| member.service != Service::Out);
        for instance in shared.map(|member| &member.instance).chain(held.files.keys()) {
            files.entry(instance.clone()).or_default();
        }
        let mut owed: BTreeMap<InstanceId, Option<i64>> =
            conditions.keys().map(|instance| (instance.clone(), None)).collect();
        let (mut losers, mut others) = (Vec::new(), Vec::new());
        for (instance, Share { mut kept, gained, until_us }) in files {
            owed.insert(instance.clone(), (!kept.is_empty() || !gained.is_empty()).then_some(until_us));
            if !shares.losers.contains(&instance) {
                kept.extend(gained);
                others.push((instance, kept));
            } else if gained.is_empty() {
                losers.push((instance, kept));
            } else {
                losers.push((instance.clone(), kept.clone()));
                kept.extend(gained);
                others.push((instance, kept));
            }
        }
        held.holds = Some(holds);
        let mut written = true;
        for (instance, share) in losers.into_iter().chain(others) {
            if let Err(error) = self.write(&mut held.files, &instance, share) {
                tracing::error!(%instance, %error, "standing work cannot be handed over; tried again");
                written = false;
                break;
            }
        }
        if written {
            // Only now: who has nothing left to make may go.
            for (instance, until_us) in &owed {
                self.roster.owes(instance, *until_us);
            }
        } else {
            // Nobody takes over what another was not told to give away.
            held.holds = Some(before);
            held.again = Some(now + RETRY);
        }
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        in_force.targets = held.shards.values().map(|shard| shard.len() as u64).sum();
        in_force.mark = held.meta.as_ref().map(mark).unwrap_or_default();
    }

    /// How everybody is who has standing work, may get some, or has a process.
    fn conditions(
        &self,
        held: &Held,
        members: &BTreeMap<ModuleType, Vec<Member>>,
        supervisor: &Supervisor,
    ) -> BTreeMap<InstanceId, Condition> {
        let running = supervisor.running();
        let members = members.values().flatten().map(|member| &member.instance);
        let all: BTreeSet<&InstanceId> = members.chain(held.files.keys()).chain(&running).collect();
        let now_us = clock::now_us();
        let condition = |instance: &InstanceId| match self.roster.ready_for(instance) {
            Some(time) => Condition::Ready { since_us: now_us - time.as_micros() as i64 },
            None if running.contains(instance) || self.roster.is_wanted(instance) => Condition::Alive,
            None if self.roster.state(instance).is_some() => Condition::Down,
            None => Condition::Gone,
        };
        all.into_iter().map(|instance| (instance.clone(), condition(instance))).collect()
    }

    /// Who has what, by the files of these instances. Those of others, who may come again, are of no more use.
    fn restored<'a>(&self, instances: impl Iterator<Item = &'a InstanceId>) -> Holds {
        let mut holds = Holds::default();
        let instances: BTreeSet<&InstanceId> = instances.collect();
        let read = |instance: &&InstanceId| Supervisor::assignment_file(&self.config, instance);
        let files: Vec<AssignmentFile> = instances.iter().filter_map(read).collect();
        holds.restore(&files);
        let of: BTreeSet<PathBuf> =
            instances.iter().map(|instance| Supervisor::assignment_path(&self.config, instance)).collect();
        let directory = self.cache.parent().map(std::fs::read_dir);
        for path in directory.into_iter().flatten().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "json")
                && !of.contains(&path)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "left-over assignments cannot be removed");
            }
        }
        holds
    }

    fn write(
        &self,
        files: &mut BTreeMap<InstanceId, Written>,
        instance: &InstanceId,
        mut share: Vec<Assignment>,
    ) -> Result<(), file::Error> {
        share.sort_by(|a, b| (&a.target, &a.kind, a.since_us).cmp(&(&b.target, &b.kind, b.since_us)));
        let hash = content_hash(&share);
        let path = Supervisor::assignment_path(&self.config, instance);
        let known = files.get(instance).map(|known| (known.generation, known.hash)).or_else(|| {
            let file = Supervisor::assignment_file(&self.config, instance)?;
            Some((file.generation, content_hash(&file.assignments)))
        });
        let generation = known.map_or(1, |(generation, known)| generation + u64::from(known != hash));
        files.insert(instance.clone(), Written { generation, hash });
        if known == Some((generation, hash)) {
            return Ok(());
        }
        let count = share.len();
        let content = AssignmentFile { v: 1, generation, instance: instance.clone(), assignments: share };
        let written = file::write_atomic(&path, &serde_json::to_vec(&content).unwrap_or_default());
        if written.is_err() {
            // To be tried again, whatever it should say then.
            files.remove(instance);
        } else {
            tracing::info!(%instance, generation, assignments = count, "standing work handed over");
        }
        written
    }
}

/// Those among whom work is split: who has been ready, or has some already; all, when there are none yet.
fn takers<'a>(members: &'a [Member], holds: &Holds) -> Vec<&'a Member> {
    let in_service = || members.iter().filter(|member| member.service != Service::Out);
    let takes = |member: &&Member| member.service == Service::In || holds.has_any(&member.instance);
    let takers: Vec<&Member> = in_service().filter(takes).collect();
    if takers.is_empty() { in_service().collect() } else { takers }
}

/// Who does what is the member's.
fn acting(member: &Member) -> &InstanceId {
    member.stand_in.as_ref().unwrap_or(&member.instance)
}

fn content_hash(assignments: &[Assignment]) -> u64 {
    xxh3_64(&serde_json::to_vec(assignments).unwrap_or_default())
}

/// How long a round may take: packets a second apart, what they wait for, and the same once more to confirm a loss.
fn longest(assignment: &Assignment) -> Duration {
    let (timeout, count) = (assignment.timeout_ms, u64::from(assignment.count));
    Duration::from_millis(timeout.saturating_add(count.saturating_mul(1_000)).saturating_mul(2))
}

fn mark(meta: &AssignmentMeta) -> AssignmentMark {
    let hash = format!("{:016x}", xxh3_64(meta.shards.join(",").as_bytes()));
    AssignmentMark { generation: meta.generation, hash }
}
