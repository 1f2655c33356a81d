"""Answers traces with packets of scapy's making: a path with MPLS extensions, or forgeries.

path                    a TUN device with a route to 203.0.113.0/24 and 2001:db8::/64; five hops, of which the second,
                        third and fourth carry label stacks
forge SOURCE TARGET     watches the probes that leave for TARGET and answers each with lies
"""

import fcntl
import os
import struct
import subprocess
import sys

from scapy.all import ICMP, IP, TCP, UDP, IPv6, Raw, conf
from scapy.contrib.mpls import MPLS
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6TimeExceeded

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def extension(labels):
    """RFC 4884 structure with one RFC 4950 object, label stack entries encoded by scapy's MPLS layer."""
    stack = b"".join(bytes(MPLS(label=label, cos=cos, s=s, ttl=ttl)) for label, cos, s, ttl in labels)
    body = struct.pack(">HBB", 4 + len(stack), 1, 1) + stack
    head = struct.pack(">BBH", 0x20, 0, 0)
    return struct.pack(">BBH", 0x20, 0, checksum(head + body)) + body


STACKS = {
    2: ([(16001, 5, 1, 1)], True),
    3: ([(24000, 0, 0, 3), (1048575, 7, 1, 254)], True),
    4: ([(77, 1, 1, 9)], False),
}


def exceeded(packet, hop, six):
    quote = bytes(packet)
    if hop in STACKS:
        labels, compliant = STACKS[hop]
        if not compliant and six:
            labels, compliant = [], True
        quote = quote[:128].ljust(128, b"\0")
        structure = extension(labels) if labels else b""
        words = len(quote) // (8 if six else 4) if compliant and labels else 0
        quote += structure
    else:
        # Eight bytes of the transport, as a router of old.
        quote = quote[: (40 if six else 20) + 8]
        words = 0
    if six:
        return IPv6(src=f"2001:db8::{hop}", dst=packet.src, hlim=64) / ICMPv6TimeExceeded(
            length=words
        ) / Raw(quote)
    return IP(src=f"203.0.113.{hop}", dst=packet.src, ttl=64) / ICMP(
        type=11, code=0, length=words
    ) / Raw(quote)


def reached(packet, six):
    if six:
        head = IPv6(src=packet.dst, dst=packet.src)
        if TCP in packet:
            return head / TCP(sport=packet[TCP].dport, dport=packet[TCP].sport, flags="RA", ack=packet[TCP].seq + 1)
        if UDP in packet:
            return head / ICMPv6DestUnreach(code=4) / Raw(bytes(packet))
        request = bytes(packet)[40:]
        identifier, sequence = struct.unpack(">HH", request[4:8])
        return head / ICMPv6EchoReply(id=identifier, seq=sequence, data=request[8:])
    head = IP(src=packet.dst, dst=packet.src)
    if TCP in packet:
        return head / TCP(sport=packet[TCP].dport, dport=packet[TCP].sport, flags="RA", ack=packet[TCP].seq + 1)
    if UDP in packet:
        return head / ICMP(type=3, code=3) / Raw(bytes(packet))
    request = bytes(packet)[20:]
    identifier, sequence = struct.unpack(">HH", request[4:8])
    return head / ICMP(type=0, id=identifier, seq=sequence) / Raw(request[8:])


def path():
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", b"path", IFF_TUN | IFF_NO_PI))
    for command in (
        "link set dev path up",
        "route add 203.0.113.0/24 dev path",
        "route add 2001:db8::/64 dev path",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    print("ready", flush=True)
    while True:
        data = os.read(tun, 4096)
        six = data[0] >> 4 == 6
        packet = IPv6(data) if six else IP(data)
        if packet.dst not in ("203.0.113.9", "2001:db8::9"):
            continue
        ttl = packet.hlim if six else packet.ttl
        answer = exceeded(packet, ttl, six) if ttl < 5 else reached(packet, six)
        os.write(tun, bytes(answer))


def forge(source, target):
    watch = conf.L2listen(iface="r1")
    send = conf.L3socket()
    print("ready", flush=True)
    while True:
        packet = watch.recv()
        if packet is None or IP not in packet:
            continue
        packet = packet[IP]
        if (packet.src, packet.dst) != (source, target):
            continue
        genuine = bytes(packet)
        liar = IP(src="198.51.100.66", dst=source)
        # The tag of the payload is another's; the destination is another's; the identification is another's.
        wrong_tag = bytearray(genuine)
        wrong_tag[40] ^= 0xFF
        wrong_target = bytearray(genuine)
        wrong_target[19] ^= 0x40
        wrong_sequence = bytearray(genuine[:28])
        wrong_sequence[27] ^= 0x55
        for lie in (wrong_tag, wrong_target, wrong_sequence):
            send.send(liar / ICMP(type=11, code=0) / Raw(bytes(lie)))
        if packet.proto == 1:
            send.send(IP(src=target, dst=source) / ICMP(type=0, id=packet[ICMP].id, seq=packet[ICMP].seq)
                      / Raw(bytes(wrong_tag[28:])))


if __name__ == "__main__":
    if sys.argv[1] == "path":
        path()
    else:
        forge(sys.argv[2], sys.argv[3])
