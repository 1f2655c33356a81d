//! The classic BPF programs that keep other people's packets out of our raw sockets.

use libc::sock_filter;

use crate::icmp::Family;

use super::config::FLOWS;
use super::packet::{ICMP, ICMPV6, TCP, UDP};

const ACCEPT: u32 = u32::MAX;
const MASK: u32 = !(FLOWS as u32 - 1) & 0xffff;

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// X = where the message begins: behind the IP header for IPv4; an IPv6 socket does not see the header.
const fn skip_header(family: Family) -> sock_filter {
    match family {
        Family::V4 => statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        Family::V6 => statement(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, 0),
    }
}

/// Accepts if the half word just loaded is a flow identifier of the range that starts at `base`.
fn own_flow(base: u16) -> [sock_filter; 4] {
    [
        statement(AND, MASK),
        jump(EQUAL, u32::from(base), 0, 1),
        statement(RETURN, ACCEPT),
        statement(RETURN, 0),
    ]
}

/// For the ICMP socket: echo replies with an identifier of the range, and errors that quote a packet of ours.
pub(crate) fn icmp(family: Family, base: u16) -> Vec<sock_filter> {
    let errors = family.errors();
    let mut program = vec![skip_header(family), statement(LOAD_BYTE, 0)];
    // Replies go to the five statements below the error tests and the rejection, errors past those.
    program.push(jump(EQUAL, u32::from(family.echo_reply()), errors.len() as u8 + 1, 0));
    for (index, kind) in errors.iter().enumerate() {
        program.push(jump(EQUAL, u32::from(*kind), (errors.len() - index - 1 + 1 + 5) as u8, 0));
    }
    program.push(statement(RETURN, 0));
    program.push(statement(LOAD_HALF, 4));
    program.extend(own_flow(base));
    let (protocol, icmp) = match family {
        Family::V4 => (8 + 9, ICMP),
        Family::V6 => (8 + 6, ICMPV6),
    };
    match family {
        Family::V4 => program.extend([
            // M[0] = X + length of the quoted IP header.
            statement(LOAD_BYTE, 8),
            statement(AND, 0x0f),
            statement(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 2),
            statement(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
        ]),
        Family::V6 => program.push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_IMM, 40)),
    }
    program.extend([
        statement(libc::BPF_ST, 0),
        statement(LOAD_BYTE, protocol),
        statement(libc::BPF_LDX | libc::BPF_W | libc::BPF_MEM, 0),
        jump(EQUAL, u32::from(icmp), 3, 0),
        jump(EQUAL, u32::from(TCP), 4, 0),
        jump(EQUAL, u32::from(UDP), 3, 0),
        statement(RETURN, 0),
        // The identifier of ICMP, or the source port of the others.
        statement(LOAD_HALF, 8 + 4),
        statement(libc::BPF_JMP | libc::BPF_JA, 1),
        statement(LOAD_HALF, 8),
    ]);
    program.extend(own_flow(base));
    program
}

/// For the TCP socket: resets, and SYN with ACK, to a port of the range.
pub(crate) fn tcp(family: Family, base: u16) -> Vec<sock_filter> {
    let mut program = vec![
        skip_header(family),
        statement(LOAD_BYTE, 13),
        jump(ANY_BIT, 0x04, 3, 0),
        statement(AND, 0x12),
        jump(EQUAL, 0x12, 1, 0),
        statement(RETURN, 0),
        statement(LOAD_HALF, 2),
    ];
    program.extend(own_flow(base));
    program
}

/// For the UDP socket, which only sends.
pub(crate) fn nothing() -> Vec<sock_filter> {
    vec![statement(RETURN, 0)]
}
