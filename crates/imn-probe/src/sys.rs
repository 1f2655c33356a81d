//! The system calls that have no safe wrapper, behind safe ones. All `unsafe` of the engines is below this module.
#![expect(unsafe_code, reason = "batched socket calls, their control messages and a few socket options")]

mod epoll;
mod mmsg;
mod option;
mod priority;
mod wake;

pub(crate) use epoll::{Epoll, Interest};
pub(crate) use mmsg::{Control, RecvBatch, SendBatch, SendControl};
pub(crate) use option::{attach_filter, receive_drops, set_option, tcp_rtt};
pub(crate) use priority::come_first;
pub(crate) use wake::Waker;
