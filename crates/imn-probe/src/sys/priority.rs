/// How much this thread comes before others, as nice(2) counts.
const NICE: libc::c_int = -10;

/// Lets the calling thread come before others that want its processor. Without the right to (`CAP_SYS_NICE`) it is
/// refused, which costs lateness on a busy host and nothing else.
pub(crate) fn come_first() {
    // SAFETY: the call takes three integers; 0 stands for the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
