//! The classic BPF programs that keep other people's ICMP out of our raw sockets.

use libc::sock_filter;

use super::packet::Family;

/// Identifiers an engine uses: an aligned range, of which a round's flow selects one.
pub(crate) const FLOWS: u16 = 16;

const ACCEPT: u32 = u32::MAX;

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Accepts echo replies whose identifier is in the range that starts at `base`, and errors that quote an echo
/// request with such an identifier. A raw IPv4 socket sees the IP header, an IPv6 one does not.
pub(crate) fn program(family: Family, base: u16) -> Vec<sock_filter> {
    let mask = u32::from(!(FLOWS - 1));
    let base = u32::from(base);
    let errors = family.errors();
    let mut program = match family {
        // X = length of the IP header.
        Family::V4 => vec![statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0)],
        Family::V6 => vec![statement(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, 0)],
    };
    program.push(statement(LOAD_BYTE, 0));
    // An echo reply goes to the four statements below the error tests and the rejection.
    program.push(jump(EQUAL, u32::from(family.echo_reply()), errors.len() as u8 + 1, 0));
    for (index, kind) in errors.iter().enumerate() {
        // Past the other tests, the rejection and the five statements for replies.
        program.push(jump(EQUAL, u32::from(*kind), (errors.len() - index - 1 + 1 + 5) as u8, 0));
    }
    program.push(statement(RETURN, 0));
    let own_id = |offset| {
        [
            statement(LOAD_HALF, offset),
            statement(AND, mask),
            jump(EQUAL, base, 0, 1),
            statement(RETURN, ACCEPT),
            statement(RETURN, 0),
        ]
    };
    program.extend(own_id(4));
    match family {
        Family::V4 => program.extend([
            // Quoted protocol must be ICMP.
            statement(LOAD_BYTE, 8 + 9),
            jump(EQUAL, 1, 1, 0),
            statement(RETURN, 0),
            // X += length of the quoted IP header.
            statement(LOAD_BYTE, 8),
            statement(AND, 0x0f),
            statement(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 2),
            statement(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
            statement(libc::BPF_MISC | libc::BPF_TAX, 0),
            statement(LOAD_BYTE, 8),
        ]),
        Family::V6 => program.extend([
            statement(LOAD_BYTE, 8 + 6),
            jump(EQUAL, 58, 1, 0),
            statement(RETURN, 0),
            statement(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, 40),
            statement(LOAD_BYTE, 8),
        ]),
    }
    program.push(jump(EQUAL, u32::from(family.echo_request()), 1, 0));
    program.push(statement(RETURN, 0));
    program.extend(own_id(8 + 4));
    program
}
