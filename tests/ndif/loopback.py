"""Ports of the loopback interface: which are free, which are listened on, and by whom."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def free_ports(n: int) -> list[int]:
    """Ports below those that the system hands to outgoing connections, so that a restart finds its own still free."""
    found: list[int] = []
    candidates = random.SystemRandom()
    while len(found) < n:
        port = candidates.randrange(15_000, 30_000)
        if port not in found and not listening(port) and _bindable(port):
            found.append(port)
    return found


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def listeners(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which a process listens."""
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return set()
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:  # 0A: listening
                host, port = words[1].split(":")
                raw = bytes.fromhex(host)
                packed = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                address = ipaddress.ip_address(packed)
                found.add((str(getattr(address, "ipv4_mapped", None) or address), int(port, 16)))
    return found
