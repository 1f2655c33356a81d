//! Processors that do not sleep: waking one that does costs tens of microseconds, which nothing on a path would
//! account for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{Error, Result, sys};

/// One thread per processor that spins whenever nobody else wants it; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    pub(crate) fn start() -> Result<Self> {
        let ours = sched_getaffinity(None).map_err(Error::errno("ask for the processors"))?;
        let mut awake = Self { stop: Arc::default(), threads: Vec::new() };
        for processor in (0..CpuSet::MAX_CPU).filter(|processor| ours.is_set(*processor)) {
            let stop = Arc::clone(&awake.stop);
            let spin = move || {
                let mut one = CpuSet::new();
                one.set(processor);
                // Without the lowest priority it would take what it is to keep ready.
                if sys::become_idle() && sched_setaffinity(None, &one).is_ok() {
                    while !stop.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            };
            let thread = std::thread::Builder::new().name("awake".into()).spawn(spin);
            awake.threads.push(thread.map_err(Error::system("keep a processor awake"))?);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
