//! Requests a URL again and again, each over a connection of its own, and prints the median time in microseconds:
//! `fetch COUNT URL [FILE]`, with a file of certificate authorities to believe.

#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::time::Duration;

use imn_probe::http::{Engine, Spec, parse_url};
use imn_probe::tls::Trust;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().ok_or("how often?")?.parse()?;
    let url = parse_url(&args.next().ok_or("which URL?")?)?;
    let trust = match args.next() {
        Some(file) => Trust::none().with_pem(&std::fs::read(file)?)?,
        None => Trust::none(),
    };
    let engine = Engine::new(Spec::default(), trust, false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times: Vec<Duration> = Vec::with_capacity(count);
    runtime.block_on(async {
        for _ in 0..count {
            let outcome = engine.measure(&url, |_, _| {}).await;
            match outcome.error {
                None => times.push(outcome.elapsed),
                Some(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    times.sort_unstable();
    println!("{:.1}", imn_metric::percentile(&times, 0.5).unwrap_or_default().as_secs_f64() * 1e6);
    Ok(())
}
