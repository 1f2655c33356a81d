//! The one system call that this crate makes by itself: no safe wrapper of `adjtimex` exists.

#![expect(unsafe_code, reason = "no crate offers adjtimex as a safe function")]

/// What the kernel says of its clock.
pub(super) struct Kernel {
    /// Remaining correction, in nanoseconds: what the clock is thought to be off.
    pub(super) offset_ns: i64,
    /// Whether somebody keeps it synchronized.
    pub(super) synced: bool,
    /// Bound of its error, in microseconds.
    pub(super) error_us: i64,
    /// Seconds that atomic time is ahead of UTC; 0 where nobody has told the kernel.
    pub(super) tai_offset: i32,
}

/// Reads the state of the kernel's clock discipline; `None` when the kernel refuses.
pub(super) fn read() -> Option<Kernel> {
    // SAFETY: `timex` is plain integers, for which zero is a value; with `modes` zero the call only writes to it.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    if state < 0 {
        return None;
    }
    let unit_ns = if timex.status & libc::STA_NANO == 0 { 1_000 } else { 1 };
    let synced = state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0;
    Some(Kernel {
        offset_ns: timex.offset * unit_ns,
        synced,
        error_us: timex.maxerror,
        tai_offset: timex.tai,
    })
}
