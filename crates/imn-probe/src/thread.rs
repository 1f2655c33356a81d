//! The threads of engines: named, and before others where the host allows.

use std::{io, thread};

/// Starts one. What is sent late counts against this host, so it should not wait for a processor.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        crate::sys::come_first();
        work();
    })
}
