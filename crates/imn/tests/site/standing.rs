//! Many standing targets of one agent for a while: what it takes, and whether each round is stored once.

#![allow(dead_code, reason = "each scenario uses a part of it")]

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use imn_testkit::wait_until;

use super::{
    network::Network,
    usage::Meter,
    verdict::{self, Verdict},
};

/// What a process took: percent of a core, and MB.
pub(crate) struct Usage {
    pub(crate) cpu_pct: f64,
    pub(crate) rss_mb: f64,
}

/// How it went.
pub(crate) struct Standing {
    pub(crate) module: Usage,
    pub(crate) server: Usage,
    /// After the server was killed: what is committed is in files.
    pub(crate) verdict: Verdict,
}

/// Measures `targets` every `interval` for `span`, and holds to what holds whatever the machine: each round is stored
/// once, nothing is lost, and the kernel saw each packet that a row counts.
pub(crate) fn stand(targets: u32, interval: Duration, span: Duration) -> Standing {
    let network = Network::start();
    verdict::quiet(&network);
    let echoes_before = network.kernel_echoes().0;
    verdict::load(&network, targets, interval);
    verdict::wait_measured(&network, targets, interval);
    // What loading them took is over once each has been asked twice.
    let asked = || network.kernel_echoes().0 - echoes_before >= 2 * u64::from(targets);
    wait_until("all targets to be measured", interval * 4, || asked().then_some(())).unwrap();

    let meters = ["local-icmp-0", "server"].map(|part| (part, Meter::start(network.pid(part))));
    let (started, since) = (Instant::now(), jiff::Timestamp::now());
    // The load itself is the time under test: the end of it is no condition that could be waited for.
    sleep(span);
    let took = started.elapsed();
    let [module, server] = meters.map(|(part, meter)| {
        let (cpu_pct, rss_mb) = meter.read(took);
        eprintln!("{part}: {cpu_pct:.1} % of a core, {rss_mb:.0} MB");
        Usage { cpu_pct, rss_mb }
    });

    // Committed means on disk: the server is killed before anything is counted.
    let old = network.kill9("server");
    network.wait_restarted("server", old);
    network.wait_get("/readyz", Duration::from_secs(30), |_| Some(()));
    let verdict = verdict::verdict(&network, interval, since.as_microsecond()).unwrap();
    eprintln!("{verdict:?}");
    let rounds_each = took.as_secs() / interval.as_secs();
    assert_eq!(verdict.targets, u64::from(targets));
    assert!(verdict.rows >= u64::from(targets) * rounds_each, "{verdict:?}");
    assert_eq!((verdict.duplicates, verdict.unaccounted, verdict.gap_rounds), (0, 0, 0), "{verdict:?}");
    assert_eq!((verdict.sent, verdict.unknown), (verdict.received, 0), "packets of loopback were lost");

    // What the kernel saw beyond is still on its way to the files.
    let echoes = network.kernel_echoes().0 - echoes_before;
    assert!(echoes >= verdict.sent, "{echoes} echo requests, {} claimed", verdict.sent);
    Standing { module, server, verdict }
}
