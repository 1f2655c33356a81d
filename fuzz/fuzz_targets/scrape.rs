//! Any text as what Prometheus asks of `/probe`.
#![no_main]

use imn_domain::{ScrapeModules, ScrapeRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (target, hostname) = text.split_once('\n').unwrap_or((text, ""));
    let modules = ScrapeModules::default();
    for module in ["icmp", "tcp_connect", "http_2xx", "dns", target] {
        let request = ScrapeRequest {
            module: Some(module),
            target: Some(target),
            hostname: Some(hostname),
            patience: None,
        };
        match modules.scrape(&request) {
            Ok(scrape) => assert!(!scrape.debug_page(&Default::default(), scrape.limit, "").is_empty()),
            Err(fault) => assert!(fault.field.is_some() && fault.message.len() < 1_000),
        }
    }
});
