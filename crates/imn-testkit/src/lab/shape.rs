//! What an emulated link does to the packets of one direction: the knobs, and the decision for each packet.

use crate::lab::packet::Class;
use serde::{Deserialize, Deserializer, de};
use std::collections::VecDeque;
use std::time::Duration;

/// Packets that one direction holds at most when no `queue` limit is given for its transmitter.
const IN_FLIGHT: usize = 1 << 18;

/// What one direction of a link does to packets. The default does nothing: no delay, no loss, no limit.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// Constant part of the delay, after transmission. Text such as `"10ms"`, `"250us"`, `"1.5s"`.
    #[serde(deserialize_with = "duration")]
    pub delay: Duration,
    /// Spread of the delay: half the width when uniform, the standard deviation when normal. A delay is never
    /// negative. Packets overtake each other when their delays say so, unless `keep_order`.
    #[serde(deserialize_with = "duration")]
    pub jitter: Duration,
    /// How the jitter is distributed.
    pub distribution: Distribution,
    /// Whether a packet waits for those that came before it.
    pub keep_order: bool,
    /// Probability in 0..=1 that a packet is lost.
    pub loss: f64,
    /// Loses every nth packet, exactly; 0 for none.
    pub loss_every: u64,
    /// The classes that `loss` and `loss_every` apply to and count; empty for all.
    pub loss_of: Vec<Class>,
    /// Probability in 0..=1 that a packet is delivered twice.
    pub duplicate: f64,
    /// Probability in 0..=1 that a packet is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How long such a packet is held back, in addition to its delay.
    #[serde(deserialize_with = "duration")]
    pub reorder_by: Duration,
    /// Bits per second of the transmitter, counted over IP packets; 0 for no limit.
    pub rate: u64,
    /// Packets that wait for the transmitter at most, the one in transmission included; more are dropped. Applies with
    /// `rate`. Without it, a direction drops when it holds 262,144 packets.
    pub queue: usize,
}

/// The distribution of the jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Evenly within `delay ± jitter`.
    #[default]
    Uniform,
    /// Normal with standard deviation `jitter`, cut at zero delay.
    Normal,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            distribution: Distribution::Uniform,
            keep_order: false,
            loss: 0.0,
            loss_every: 0,
            loss_of: Vec::new(),
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(10),
            rate: 0,
            queue: 1000,
        }
    }
}

impl Shape {
    /// Why this is not a shape, if so.
    pub(crate) fn fault(&self) -> Option<String> {
        let probabilities = [("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder)];
        probabilities
            .iter()
            .find(|(_, value)| !(0.0..=1.0).contains(value))
            .map(|(name, value)| format!("{name} = {value} is not a probability, 0 to 1"))
    }
}

/// What happens to one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Lost by chance or by count.
    Lost,
    /// Dropped because the queue was full.
    QueueFull,
    /// Delivered at this time, in nanoseconds of the laboratory's clock, and once more when `twice`.
    Deliver { due: u64, twice: bool },
}

/// The state behind the decisions for one direction.
#[derive(Debug)]
pub(crate) struct Shaper {
    pub(crate) shape: Shape,
    random: SplitMix,
    subject_to_loss: u64,
    transmitter_free: u64,
    waiting: VecDeque<u64>,
    last_due: u64,
}

impl Shaper {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: SplitMix(seed),
            subject_to_loss: 0,
            transmitter_free: 0,
            waiting: VecDeque::new(),
            last_due: 0,
        }
    }

    /// Decides on a packet of `length` bytes that arrived at `now` while `in_flight` others are held.
    ///
    /// Every packet takes the same number of random draws, whatever happens to it, so that a change of one knob leaves
    /// the fate of all packets under the other knobs as it was.
    pub(crate) fn decide(&mut self, now: u64, class: Class, length: usize, in_flight: usize) -> Verdict {
        let shape = &self.shape;
        let [loss, duplicate, reorder, first, second] = self.random.draws();
        if shape.loss_of.is_empty() || shape.loss_of.contains(&class) {
            self.subject_to_loss += 1;
            if loss < shape.loss
                || (shape.loss_every > 0 && self.subject_to_loss.is_multiple_of(shape.loss_every))
            {
                return Verdict::Lost;
            }
        }
        let mut sent = now;
        if shape.rate > 0 {
            while self.waiting.front().is_some_and(|departure| *departure <= now) {
                self.waiting.pop_front();
            }
            if self.waiting.len() >= shape.queue {
                return Verdict::QueueFull;
            }
            let transmission = u128::from(8 * length as u64) * 1_000_000_000 / u128::from(shape.rate);
            sent = self.transmitter_free.max(now) + transmission as u64;
            self.transmitter_free = sent;
            self.waiting.push_back(sent);
        } else if in_flight >= IN_FLIGHT {
            return Verdict::QueueFull;
        }
        let spread = shape.jitter.as_nanos() as f64
            * match shape.distribution {
                Distribution::Uniform => 2.0 * first - 1.0,
                Distribution::Normal => {
                    (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos()
                }
            };
        let held = if reorder < shape.reorder { shape.reorder_by.as_nanos() as f64 } else { 0.0 };
        let delay = (shape.delay.as_nanos() as f64 + spread).max(0.0) + held;
        let mut due = sent + delay as u64;
        if shape.keep_order {
            due = due.max(self.last_due);
        }
        self.last_due = self.last_due.max(due);
        Verdict::Deliver { due, twice: duplicate < shape.duplicate }
    }
}

/// SplitMix64, written out so that a seed means the same packets for ever.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn draws<const N: usize>(&mut self) -> [f64; N] {
        std::array::from_fn(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Seeds for the directions of a laboratory: far apart, and a function of the laboratory's seed and the position only.
pub(crate) fn seed(laboratory: u64, direction: usize) -> u64 {
    let mut mix = SplitMix(laboratory ^ (direction as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
    mix.next()
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| {
        de::Error::custom(format!("{text:?} is not a duration such as \"10ms\", \"250us\", \"1.5s\""))
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.trim().parse::<f64>().ok()? * scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Class = Class::IcmpEchoRequest;

    fn verdicts(shape: Shape, packets: u64) -> Vec<Verdict> {
        let mut shaper = Shaper::new(shape, 7);
        (0..packets).map(|n| shaper.decide(n * 1_000_000, ECHO, 100, 0)).collect()
    }

    fn delays(verdicts: &[Verdict]) -> Vec<f64> {
        let delay = |(n, verdict): (usize, &Verdict)| match verdict {
            Verdict::Deliver { due, .. } => Some((due - n as u64 * 1_000_000) as f64),
            _ => None,
        };
        verdicts.iter().enumerate().filter_map(delay).collect()
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("250 us"), Some(Duration::from_micros(250)));
        for bad in ["", "10", "ms", "-1ms", "1h", "1e400s", "NaNs"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_seed_means_the_same_packets_and_knobs_do_not_disturb_each_other() {
        let lossy = || Shape { loss: 0.1, ..Shape::default() };
        let lost = |shape| {
            let lost = |verdict: &Verdict| *verdict == Verdict::Lost;
            verdicts(shape, 10_000).iter().map(lost).collect::<Vec<_>>()
        };
        let reference = lost(lossy());
        let count = reference.iter().filter(|lost| **lost).count();
        assert!((900..1100).contains(&count), "{count}");
        assert_eq!(reference, lost(lossy()));
        let busy = Shape { jitter: Duration::from_millis(1), duplicate: 0.5, reorder: 0.5, ..lossy() };
        assert_eq!(reference, lost(busy));
    }

    #[test]
    fn periodic_loss_is_exact_and_counts_its_classes_only() {
        let mut shaper = Shaper::new(Shape { loss_every: 10, loss_of: vec![ECHO], ..Shape::default() }, 1);
        for _ in 0..25 {
            assert_ne!(shaper.decide(0, Class::Tcp, 40, 0), Verdict::Lost);
        }
        let lost = (1..=100).filter(|_| shaper.decide(0, ECHO, 40, 0) == Verdict::Lost).count();
        assert_eq!(lost, 10);
    }

    #[test]
    fn jitter_has_the_stated_distribution() {
        let ms = 1e6;
        for (distribution, deviation) in
            [(Distribution::Uniform, 2.0 / 3.0f64.sqrt()), (Distribution::Normal, 2.0)]
        {
            let shape = Shape {
                delay: Duration::from_millis(20),
                jitter: Duration::from_millis(2),
                distribution,
                ..Shape::default()
            };
            let delays = delays(&verdicts(shape, 20_000));
            let mean = delays.iter().sum::<f64>() / delays.len() as f64;
            let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / delays.len() as f64;
            assert!((mean - 20.0 * ms).abs() < 0.1 * ms, "{distribution:?}: mean {mean}");
            assert!((variance.sqrt() - deviation * ms).abs() < 0.05 * ms, "{distribution:?}: {variance}");
        }
    }

    #[test]
    fn a_transmitter_serialises_and_its_queue_overflows() {
        // 125 bytes at 1 Mbit/s take 1 ms each; five may wait.
        let mut shaper = Shaper::new(Shape { rate: 1_000_000, queue: 5, ..Shape::default() }, 1);
        let burst: Vec<_> = (0..7).map(|_| shaper.decide(0, ECHO, 125, 0)).collect();
        for (n, verdict) in burst[..5].iter().enumerate() {
            assert_eq!(*verdict, Verdict::Deliver { due: (n as u64 + 1) * 1_000_000, twice: false });
        }
        assert_eq!(burst[5..], [Verdict::QueueFull, Verdict::QueueFull]);
        assert_eq!(shaper.decide(3_000_000, ECHO, 125, 0), Verdict::Deliver { due: 6_000_000, twice: false });
    }

    #[test]
    fn order_is_kept_when_asked() {
        let shape = Shape { jitter: Duration::from_millis(5), keep_order: true, ..Shape::default() };
        let dues: Vec<u64> = verdicts(shape, 1000)
            .iter()
            .map(|verdict| match verdict {
                Verdict::Deliver { due, .. } => *due,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(dues.is_sorted());
    }
}
