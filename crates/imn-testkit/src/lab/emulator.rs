//! The link emulator: one thread that moves packets between the two TUN devices of every link of a laboratory, each
//! at its time.
//!
//! Device `2n` is the end of link `n` at its first node and device `2n + 1` that at its second; direction `d` leads from
//! device `d` to device `d ^ 1`.

use crate::lab::capture::Capture;
use crate::lab::echo::EchoLog;
use crate::lab::packet::{Class, EchoKey, Seen};
use crate::lab::shape::{Shape, Shaper, Verdict, seed};
use crate::lab::stats::Stats;
use crate::{Error, Result, sys};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Packets read from one device before the others get their turn.
const BATCH: usize = 64;

/// One direction as the laboratory describes it.
pub(crate) struct Plan {
    pub(crate) device: OwnedFd,
    pub(crate) shape: Shape,
    /// The addresses of the node that sends into it.
    pub(crate) sender: Vec<IpAddr>,
}

/// What holds for all links of a laboratory.
pub(crate) struct Config {
    pub(crate) seed: u64,
    pub(crate) keep_echoes: bool,
    /// The emulator wakes at most once per this time, for the price of that much lateness.
    pub(crate) coalesce: Duration,
}

/// What the emulator and the tests share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) directions: Vec<Direction>,
    /// `None` when the laboratory keeps no echoes.
    pub(crate) echoes: Option<EchoLog>,
}

#[derive(Debug)]
pub(crate) struct Direction {
    pub(crate) shaper: Shaper,
    pub(crate) stats: Stats,
    pub(crate) capture: Option<Capture>,
    sender: Vec<IpAddr>,
    entered: u64,
    latest_delivered: u64,
    held: usize,
}

/// The running emulator; dropping it stops the thread and removes the devices.
#[derive(Debug)]
pub(crate) struct Emulator {
    state: Arc<Mutex<State>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    pub(crate) fn start(plans: Vec<Plan>, config: &Config) -> Result<Self> {
        let (mut devices, mut directions) = (Vec::new(), Vec::new());
        for (index, plan) in plans.into_iter().enumerate() {
            devices.push(plan.device);
            directions.push(Direction {
                shaper: Shaper::new(plan.shape, seed(config.seed, index)),
                stats: Stats::default(),
                capture: None,
                sender: plan.sender,
                entered: 0,
                latest_delivered: 0,
                held: 0,
            });
        }
        let state =
            Arc::new(Mutex::new(State { directions, echoes: config.keep_echoes.then(EchoLog::default) }));
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::errno("create an eventfd"))?;
        let stop = Arc::new(stop);
        let mover = Mover {
            devices,
            state: Arc::clone(&state),
            stop: Arc::clone(&stop),
            coalesce: config.coalesce,
            epoch: Instant::now(),
            held: BinaryHeap::new(),
            spare: Vec::new(),
            order: 0,
        };
        let thread = std::thread::Builder::new()
            .name("link-emulator".into())
            .spawn(move || mover.run())
            .map_err(Error::system("start the link emulator"))?;
        Ok(Self { state, stop, thread: Some(thread) })
    }

    /// What is shared, unless the emulator has stopped and the laboratory is no longer what it says.
    pub(crate) fn state(&self) -> Result<MutexGuard<'_, State>> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let stopped = std::io::Error::other("its thread ended; see the output of the test");
            return Err(Error::system("ask the link emulator")(stopped));
        }
        Ok(lock(&self.state))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Mover {
    devices: Vec<OwnedFd>,
    state: Arc<Mutex<State>>,
    stop: Arc<OwnedFd>,
    coalesce: Duration,
    epoch: Instant,
    held: BinaryHeap<Held>,
    spare: Vec<Vec<u8>>,
    order: u64,
}

/// A packet on its way.
struct Held {
    due: u64,
    order: u64,
    direction: usize,
    entered: u64,
    received: u64,
    copy: bool,
    seen: Seen,
    bytes: Vec<u8>,
}

impl Mover {
    fn run(mut self) {
        // Either may be refused; the lateness then shows what it costs.
        sys::become_real_time();
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut buffer = vec![0; 1 << 16];
        let stop = Arc::clone(&self.stop);
        let devices = std::mem::take(&mut self.devices);
        let mut sources: Vec<PollFd<'_>> =
            devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        sources.push(PollFd::new(&stop, PollFlags::IN));
        let shared = Arc::clone(&self.state);
        let mut woken = Instant::now();
        loop {
            // What is there already is done at once: a packet may have reached the next link while this one wrote it.
            let mut ready = ready_within(&mut sources, Some(Duration::ZERO));
            if ready == Ok(0) && self.until_next() != Some(Duration::ZERO) {
                std::thread::sleep(self.coalesce.saturating_sub(woken.elapsed()));
                ready = ready_within(&mut sources, self.until_next());
                woken = Instant::now();
            }
            if ready.is_err() {
                return;
            }
            if sources.last().is_some_and(|stop| !stop.revents().is_empty()) {
                return;
            }
            let mut state = lock(&shared);
            for (index, device) in devices.iter().enumerate() {
                if sources[index].revents().contains(PollFlags::IN) {
                    for _ in 0..BATCH {
                        let Ok(length) = rustix::io::read(device, &mut buffer[..]) else { break };
                        self.enter(&mut state, index, &buffer[..length]);
                    }
                }
            }
            while self.held.peek().is_some_and(|next| next.due <= self.now()) {
                if let Some(packet) = self.held.pop() {
                    self.deliver(&mut state, packet, &devices);
                }
            }
        }
    }

    /// The time until a packet is due; `None` when none is held.
    fn until_next(&self) -> Option<Duration> {
        self.held.peek().map(|next| Duration::from_nanos(next.due.saturating_sub(self.now())))
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn enter(&mut self, state: &mut State, index: usize, bytes: &[u8]) {
        let received = self.now();
        let seen = Seen::new(bytes);
        let direction = &mut state.directions[index];
        if let Some(capture) = &mut direction.capture {
            capture.packet(bytes);
        }
        let echo = seen.echo.as_ref().zip(state.echoes.as_mut());
        let counts = &mut direction.stats.counts[seen.class as usize];
        counts.received += 1;
        let verdict = direction.shaper.decide(received, seen.class, bytes.len(), direction.held);
        if let Some((key, echoes)) = echo {
            if is_departure(seen.class, key, &direction.sender) {
                echoes.begin(*key, received);
            }
            if matches!(verdict, Verdict::Lost | Verdict::QueueFull) {
                echoes.dropped(key, seen.class);
            }
        }
        match verdict {
            Verdict::Lost => counts.lost += 1,
            Verdict::QueueFull => counts.queue_dropped += 1,
            Verdict::Deliver { due, twice } => {
                direction.entered += 1;
                let entered = direction.entered;
                for copy in [false, true].into_iter().take(1 + usize::from(twice)) {
                    direction.held += 1;
                    self.order += 1;
                    let mut kept = self.spare.pop().unwrap_or_default();
                    kept.clear();
                    kept.extend_from_slice(bytes);
                    let order = self.order;
                    self.held.push(Held {
                        due,
                        order,
                        direction: index,
                        entered,
                        received,
                        copy,
                        seen,
                        bytes: kept,
                    });
                }
            }
        }
    }

    fn deliver(&mut self, state: &mut State, packet: Held, devices: &[OwnedFd]) {
        let delivered = self.now();
        let taken = rustix::io::write(&devices[packet.direction ^ 1], &packet.bytes).is_ok();
        let home = &state.directions[packet.direction ^ 1].sender;
        let returned = packet.seen.class == Class::IcmpEchoReply
            && packet.seen.echo.is_some_and(|key| home.contains(&key.source));
        let direction = &mut state.directions[packet.direction];
        direction.held -= 1;
        let class = packet.seen.class as usize;
        let counts = &mut direction.stats.counts[class];
        if !taken {
            counts.refused += 1;
        } else if packet.copy {
            counts.duplicated += 1;
        } else {
            counts.delivered += 1;
            if packet.entered < direction.latest_delivered {
                counts.reordered += 1;
            }
            direction.latest_delivered = direction.latest_delivered.max(packet.entered);
            let applied = delivered - packet.received;
            direction.stats.delays[class].add(Duration::from_nanos(applied));
            direction.stats.lateness.add(Duration::from_nanos(delivered - packet.due));
            if let Some((key, echoes)) = packet.seen.echo.as_ref().zip(state.echoes.as_mut()) {
                echoes.crossed(key, packet.direction, applied, returned);
            }
        }
        if self.spare.len() < 4096 {
            self.spare.push(packet.bytes);
        }
    }
}

/// How many sources are readable, waiting for the first as long as `timeout` says.
fn ready_within(sources: &mut [PollFd<'_>], timeout: Option<Duration>) -> rustix::io::Result<usize> {
    let timeout = timeout
        .map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) });
    match poll(sources, timeout.as_ref()) {
        Err(rustix::io::Errno::INTR) => Ok(0),
        other => other,
    }
}

/// Whether an echo enters the laboratory here: its source is the node itself.
fn is_departure(class: Class, key: &EchoKey, sender: &[IpAddr]) -> bool {
    class == Class::IcmpEchoRequest && sender.contains(&key.source)
}

impl Ord for Held {
    /// The earliest is the greatest, for the heap; equal times in the order of arrival.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}
