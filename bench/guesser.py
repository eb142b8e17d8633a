"""Who guesses passwords: a client inside the stack's network, with as many addresses as it wants.

Run by bench/guesses.py as `python -m bench.guesser flood|time`, in a container of its own, with one line of JSON on
stdin and one on stdout. From outside, all clients have one address: that of Docker's bridge.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

from bench.client import ask, connect, make_header

URL = "http://nginx:5000"
THREADS = 64
UNAUTHENTICATED = 401
# The kernel keeps 1,024 neighbours, and forgets none within 5 s: faster, connections from new addresses would hang.
PAUSE_SECONDS = 0.02
STARTED = "started"


def make_password() -> str:
    """Return a password that is nobody's."""
    return secrets.token_urlsafe(16)


def make_names(known: list[str]) -> Iterator[str]:
    """Alternate between users that exist and names that nobody has, without end."""
    for name in itertools.cycle(known):
        yield name
        yield f"nobody-{secrets.token_hex(4)}"


def flood(per_second: int, seconds: float, known: list[str]) -> dict[str, object]:
    """Send wrong logins at a fixed rate, from one address; count the answers by status."""
    names, lock = make_names(known), threading.Lock()
    statuses: Counter[int] = Counter()
    count = round(per_second * seconds)
    left = iter(range(count))
    start = time.monotonic()

    def work() -> None:
        connection = None
        while True:
            with lock:
                number = next(left, None)
                name = next(names)
            # Late guesses are not made up for after the end.
            if number is None or time.monotonic() > start + seconds:
                return
            time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            try:
                connection = connection or connect(URL)
                status, _ = ask(connection, make_header((name, make_password())))
            except OSError:
                connection, status = None, 0
            with lock:
                statuses[status] += 1

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"meant": count, "statuses": statuses, "seconds": time.monotonic() - start}


def add_addresses(count: int) -> list[str]:
    """Give this container addresses from the end of its network; Docker gives out those from its beginning."""
    shown = subprocess.run(["ip", "-json", "-4", "address", "show", "eth0"], check=True, capture_output=True, text=True)
    own = json.loads(shown.stdout)[0]["addr_info"][0]
    network = ipaddress.ip_interface(f"{own['local']}/{own['prefixlen']}").network
    count = min(count, network.num_addresses // 2)
    addresses = [str(network[-2 - number]) for number in range(count)]
    lines = "".join(f"address add {address}/{own['prefixlen']} dev eth0\n" for address in addresses)
    subprocess.run(["ip", "-batch", "-"], check=True, input=lines, text=True)
    return addresses


def time_guesses(count: int, known: list[str]) -> dict[str, object]:
    """Time wrong logins of users that exist and of names that nobody has, by turns, each from another address."""
    addresses = itertools.cycle(add_addresses(2 * count))
    names = make_names(known)
    milliseconds: dict[str, list[float]] = {"known": [], "unknown": []}
    statuses: Counter[int] = Counter()
    for kind in ("known", "unknown") * count:
        time.sleep(PAUSE_SECONDS)
        connection = connect(URL, next(addresses))
        status, taken = ask(connection, make_header((next(names), make_password())))
        connection.close()
        statuses[status] += 1
        if status == UNAUTHENTICATED:  # an answer of the throttle tells nothing about the name
            milliseconds[kind].append(taken)
    return {"statuses": statuses, **milliseconds}


def main() -> None:
    """Do what the first argument says."""
    order = json.loads(sys.stdin.readline())
    print(STARTED, flush=True)
    result = flood(**order) if sys.argv[1] == "flood" else time_guesses(**order)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
