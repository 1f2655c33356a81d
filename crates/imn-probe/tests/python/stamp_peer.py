"""The other end of STAMP sessions: packets by scapy's layers where it has them, by the figures of RFC 8762 where not.

stamp_peer.py send HOST PORT [KEY]      asks a reflector and checks every answer
stamp_peer.py reflect HOST BEHAVIOUR [KEY]  answers until killed; prints its port
"""

import hashlib
import hmac
import socket
import struct
import sys
import time

from scapy.contrib.stamp import (
    ErrorEstimate,
    STAMPSessionReflectorTestUnauthenticated as Answer,
    STAMPSessionSenderTestUnauthenticated as Request,
    STAMPTestTLV,
)

NTP = 2208988800
# RFC 8972 section 4: the first bit, which scapy's letters count from the other end.
UNRECOGNIZED = 0x80
ESTIMATE = ErrorEstimate(S=1, Z=0, scale=20, multiplier=3)


def family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def tag(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()[:16]


def ntp(stamp):
    """Seconds since the Unix epoch of an NTP stamp of 64 bits."""
    return (stamp >> 32) - NTP + (stamp & 0xFFFFFFFF) / 2**32


def now_ntp():
    nanos = time.time_ns()
    return (nanos // 10**9 + NTP) << 32 | ((nanos % 10**9) << 32) // 10**9


def unauthenticated(sequence, stamp, ssid, tlvs=b""):
    fixed = Request(seq=sequence, ts=0, err_estimate=ESTIMATE, ssid=ssid)
    data = bytearray(bytes(fixed))
    # scapy keeps NTP stamps as floating point; the field is what matters here, to the last bit.
    data[4:12] = struct.pack("!Q", stamp)
    assert len(data) == 44
    return bytes(data) + tlvs


def authenticated(key, sequence, stamp, ssid):
    # RFC 8762 figure 3, with the session identifier of RFC 8972 figure 2.
    data = struct.pack("!I12xQ2sH68x", sequence, stamp, bytes(ESTIMATE), ssid)
    assert len(data) == 96
    return data + tag(key, data)


def ask(sock, peer, data, wait=1.0):
    sock.settimeout(wait)
    sock.sendto(data, peer)
    try:
        answer, source = sock.recvfrom(70000)
    except socket.timeout:
        return None
    assert source[:2] == peer[:2], source
    return answer


def check_times(received, sent, before, after):
    assert before - 0.001 <= received <= sent <= after + 0.001, (before, received, sent, after)


def send(host, port, key):
    sock = socket.socket(family(host), socket.SOCK_DGRAM)
    sock.bind((host, 0))
    if family(host) == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 77)
    peer = (host, port)
    if key:
        send_authenticated(sock, peer, key)
    else:
        send_unauthenticated(sock, peer)
    print("ok")


def send_unauthenticated(sock, peer):
    # Ours are numbered 100, 101 …, its own count from 0: it is stateful.
    for count in range(5):
        before, stamp = time.time(), now_ntp()
        data = ask(sock, peer, unauthenticated(100 + count, stamp, 4711))
        after = time.time()
        assert len(data) == 44
        answer = Answer(data)
        assert (answer.seq, answer.seq_sender, answer.ssid) == (count, 100 + count, 4711), answer.show(dump=True)
        assert data[28:36] == struct.pack("!Q", stamp)
        assert bytes(answer.err_estimate_sender) == bytes(ESTIMATE)
        assert answer.ttl_sender == 77 and answer.mbz1 == 0 and answer.mbz2 == 0
        assert answer.err_estimate.Z == 0 and answer.err_estimate.multiplier > 0
        stamps = struct.unpack("!Q", data[16:24])[0], struct.unpack("!Q", data[4:12])[0]
        check_times(ntp(stamps[0]), ntp(stamps[1]), before, after)
    # Another session has another count.
    assert Answer(ask(sock, peer, unauthenticated(7, now_ntp(), 4712))).seq == 0

    # TLVs: padding is understood, type 99 is not, and the last is longer than the packet.
    tlvs = bytes(STAMPTestTLV(flags=UNRECOGNIZED, type=1, len=6, value=b"abcdef"))
    tlvs += bytes(STAMPTestTLV(flags=UNRECOGNIZED, type=99, len=2, value=b"xy"))
    tlvs += bytes(STAMPTestTLV(flags=UNRECOGNIZED, type=1, len=400, value=b"z"))
    data = ask(sock, peer, unauthenticated(8, now_ntp(), 4712, tlvs))
    assert len(data) == 44 + len(tlvs)
    padding, unknown, cut = data[44:54], data[54:60], data[60:]
    assert padding == b"\x00\x01\x00\x06abcdef", padding
    assert unknown == b"\x80\x63\x00\x02xy", unknown
    assert cut == b"\x40\x01\x01\x90z", cut

    # The time format of IEEE 1588, in seconds since 1970 and nanoseconds.
    request = bytearray(unauthenticated(9, 0, 4712))
    nanos = time.time_ns()
    request[4:12] = struct.pack("!II", nanos // 10**9, nanos % 10**9)
    request[12:14] = bytes(ErrorEstimate(S=1, Z=1, scale=0, multiplier=1))
    answer = ask(sock, peer, bytes(request))
    assert Answer(answer).err_estimate.Z == 1
    (received, received_ns), (sent, sent_ns) = struct.unpack("!II", answer[16:24]), struct.unpack("!II", answer[4:12])
    tai = 37 if abs(received - time.time() - 37) < 5 else 0
    check_times(received + received_ns / 1e9 - tai, sent + sent_ns / 1e9 - tai, nanos / 1e9, time.time())

    # TWAMP-light senders: any size from 14 octets, with padding that is no TLV. As much comes back as was sent.
    for size in list(range(14, 64)) + [500, 1472, 9000]:
        request = bytearray(b"\x5a" * size)
        stamp = now_ntp()
        request[:14] = struct.pack("!IQ2s", size, stamp, bytes(ESTIMATE))
        answer = ask(sock, peer, bytes(request))
        assert len(answer) == size, (len(answer), size)
        if size >= 41:
            assert struct.unpack("!IQ2s", answer[24:38]) == (size, stamp, bytes(ESTIMATE))
            assert answer[40] == 77
        assert answer[44:] == request[44:]
    # Its padding names no session: they are all one, of which those below 41 octets are part too.
    assert Answer(answer).seq == 52

    for junk in (b"", b"x", b"\x00" * 13):
        assert ask(sock, peer, junk, 0.1) is None
    # From the port of another reflector, which would take the answer for a request.
    if sock.family == socket.AF_INET:
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("127.0.0.2", peer[1]))
        assert ask(other, peer, unauthenticated(10, now_ntp(), 4712), 0.1) is None
    assert Answer(ask(sock, peer, unauthenticated(10, now_ntp(), 4712))).seq == 3


def send_authenticated(sock, peer, key):
    for count in range(4):
        before, stamp = time.time(), now_ntp()
        data = ask(sock, peer, authenticated(key, 50 + count, stamp, 99))
        after = time.time()
        # RFC 8762 figure 6.
        names = "!I12xQ2sH4xQ8xI12xQ2s6xB15x16s"
        sequence, sent, estimate, ssid, received, asked, echoed, own, ttl, mac = struct.unpack(names, data)
        assert mac == tag(key, data[:96])
        assert (sequence, asked, ssid, echoed, own, ttl) == (count, 50 + count, 99, stamp, bytes(ESTIMATE), 77)
        assert ErrorEstimate(estimate).multiplier > 0
        check_times(ntp(received), ntp(sent), before, after)
        for zero in (data[4:16], data[28:32], data[40:48], data[52:64], data[74:80], data[81:96]):
            assert not any(zero), data
    good = authenticated(key, 60, now_ntp(), 99)
    for at in (0, 20, 40, 95, 96, 111):
        assert ask(sock, peer, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], 0.1) is None
    assert ask(sock, peer, good[:111], 0.1) is None
    assert ask(sock, peer, unauthenticated(61, now_ntp(), 99), 0.1) is None
    # An HMAC TLV over the sequence number and the TLV before it (RFC 8972 section 4.8).
    padding = b"\x80\x01\x00\x04wxyz"
    mac = tag(key, good[:4] + padding)
    answer = ask(sock, peer, good + padding + b"\x80\x08\x00\x10" + mac)
    tlvs = answer[112:]
    assert tlvs[:8] == b"\x00\x01\x00\x04wxyz" and tlvs[8:12] == b"\x00\x08\x00\x10", tlvs
    assert tlvs[12:] == tag(key, answer[:4] + tlvs[:8])
    answer = ask(sock, peer, good + padding + b"\x80\x08\x00\x10" + mac[::-1])
    assert answer[112] == 0x20 and answer[120] == 0x20, answer[112:]


def reflect(host, behaviour, key):
    sock = socket.socket(family(host), socket.SOCK_DGRAM)
    sock.bind((host, 0))
    liar = socket.socket(family(host), socket.SOCK_DGRAM)
    liar.bind((host, 0))
    print(sock.getsockname()[1], flush=True)
    count = seen = 0
    while True:
        request, source = sock.recvfrom(70000)
        received = now_ntp()
        seen += 1
        if behaviour == "stateful" and seen % 5 == 0:
            continue  # Lost on the way here, as far as anybody can tell.
        asked, stamp, estimate, ssid = parse(request, key)
        sequence = count if behaviour == "stateful" else asked
        count += 1
        if behaviour == "stateful" and seen % 7 == 0:
            continue  # Lost on the way back.
        answer = build(key, sequence, received, now_ntp(), (asked, stamp, estimate), ssid)
        if behaviour == "twamp":
            # RFC 5357 section 4.2.1: no session identifier, 41 octets, and padding of its own.
            answer = answer[:14] + b"\x00\x00" + answer[16:41] + b"\x77" * 6
        if behaviour == "ptp":
            at, left = ptp(), ptp()
            answer = answer[:4] + left + b"\xd0\x01" + answer[14:16] + at + answer[24:]
        if behaviour == "hostile":
            for junk in (b"", answer[:40], b"\xff" * 44, bytes(len(answer))):
                sock.sendto(junk, source)
            forged = bytearray(answer)
            forged[30] ^= 1  # Not the stamp that was sent.
            sock.sendto(bytes(forged), source)
            forged = bytearray(answer)
            forged[24:28] = struct.pack("!I", asked + 1000)  # Nothing was sent under this number.
            sock.sendto(bytes(forged), source)
            liar.sendto(answer, source)  # Genuine, from elsewhere.
            sock.sendto(answer, source)
            sock.sendto(answer, source)  # A copy.
            continue
        if behaviour == "forger":
            sock.sendto(answer[:-1] + bytes([answer[-1] ^ 1]), source)
            if seen % 2:
                continue
        sock.sendto(answer, source)


def ptp():
    nanos = time.time_ns()
    # Atomic time, which is 37 s ahead.
    return struct.pack("!II", nanos // 10**9 + 37, nanos % 10**9)


def parse(request, key):
    if key:
        assert request[96:112] == tag(key, request[:96])
        sequence, stamp, estimate, ssid = struct.unpack("!I12xQ2sH68x", request[:96])
        return sequence, stamp, estimate, ssid
    parsed = Request(request)
    assert parsed.mbz == 0 and all(tlv.type == 1 for tlv in parsed.tlv_objects), parsed.show(dump=True)
    return parsed.seq, struct.unpack("!Q", request[4:12])[0], bytes(parsed.err_estimate), parsed.ssid


def build(key, sequence, received, sent, asked, ssid):
    if key:
        estimate = bytes(ESTIMATE)
        data = struct.pack("!I12xQ2sH4xQ8xI12xQ2s6xB15x", sequence, sent, estimate, ssid, received, *asked, 200)
        return data + tag(key, data)
    answer = Answer(seq=sequence, err_estimate=ESTIMATE, ssid=ssid, seq_sender=asked[0], ttl_sender=200)
    data = bytearray(bytes(answer))
    data[4:12], data[16:24], data[28:36] = (struct.pack("!Q", stamp) for stamp in (sent, received, asked[1]))
    data[36:38] = asked[2]
    return bytes(data)


if __name__ == "__main__":
    role, host, what, *rest = sys.argv[1:]
    secret = rest[0].encode() if rest else None
    if role == "send":
        send(host, int(what), secret)
    else:
        reflect(host, what, secret)
