//! The allocator's one setting that has no safe function.

/// Arenas that threads share.
const ARENAS: i32 = 2;

/// Keeps glibc from giving each thread an arena of its own: memory that one thread needed once a minute would stay with
/// it for ever. To be called before the first thread is started.
pub(crate) fn bound_arenas() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "no crate offers mallopt as a safe function")]
    // SAFETY: `mallopt` takes two integers and refuses what it does not know; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
