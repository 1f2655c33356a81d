//! Whether a program keeps the contract of a module: it is started as an agent would, on a NATS of its own, and asked
//! what an agent and a server ask.

mod bench;
mod cases;

use std::path::PathBuf;

use imn_contract::ModuleType;
use imn_runtime::credential::Authority;
use serde_json::{Map, Value};

use crate::Result;
use bench::Bench;

/// A program that says it is a module.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The type that it is to be.
    pub kind: ModuleType,
    /// What it is asked to measure.
    pub target: String,
    /// Parameters of a job that succeeds.
    pub params: Map<String, Value>,
    /// Parameters of a job that takes a second or more; without them what needs one is left out.
    pub slow: Option<Map<String, Value>>,
}

/// Where it is tried.
#[derive(Debug)]
pub struct Place<'a> {
    /// A nats-server with JetStream, that nothing else uses.
    pub nats_url: String,
    /// Whose account it trusts.
    pub authority: &'a Authority,
    /// Where the candidate's output goes.
    pub log: PathBuf,
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It keeps it.
    Kept,
    /// It does not, and what it did instead.
    Broken(String),
    /// It could not be tried, and why.
    LeftOut(String),
}

/// Tries every case in turn, and tells each verdict as it is known; whether all that was tried is kept.
///
/// # Errors
/// When the place cannot be used, or the program not be started at all.
pub async fn check(
    candidate: &Candidate,
    place: &Place<'_>,
    mut tell: impl FnMut(&'static str, &Verdict),
) -> Result<bool> {
    let mut bench = Bench::start(candidate, place).await?;
    let mut kept = true;
    for case in cases::ALL {
        let verdict = match (case.slow, &candidate.slow) {
            (true, None) => Verdict::LeftOut("name the parameters of a job that takes a second".to_owned()),
            _ => match (case.run)(&mut bench).await {
                Ok(()) => Verdict::Kept,
                Err(instead) => Verdict::Broken(instead),
            },
        };
        let broken = matches!(verdict, Verdict::Broken(_));
        tell(case.name, &verdict);
        kept &= !broken;
        if broken && case.vital {
            break;
        }
    }
    bench.end().await;
    Ok(kept)
}
