"""The delay of the service under a steady load, open loop: requests start on time, however late answers come.

python experiments/serve.py --workdir=runs/ku --port=8000 &
python benchmarks/serving.py --url=http://127.0.0.1:8000/recommend?k=10 --users=204 --rate=200 --seconds=20
"""

import argparse
import asyncio
import time
import urllib.parse

import numpy as np


async def ask(place: urllib.parse.SplitResult, path: str, start: float, delays: list[float]) -> None:
    """One request on a connection of its own; its delay counts from when it was due."""
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{path}: expected status 200, found {answer[:60]!r}")
    delays.append(time.perf_counter() - start)


async def load(url: str, users: int, rate: float, seconds: float) -> np.ndarray:
    """Delays in seconds of ``rate * seconds`` requests for random users."""
    place, rng, delays = urllib.parse.urlsplit(url), np.random.default_rng(0), []
    begin, tasks = time.perf_counter() + 0.1, []
    for n in range(int(rate * seconds)):
        due = begin + n / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        path = f"{place.path}?{place.query}&user={rng.integers(users)}"
        tasks.append(asyncio.create_task(ask(place, path, due, delays)))
    await asyncio.gather(*tasks)
    return np.array(delays)


def main() -> None:
    """Print the quantiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/recommend?k=10")
    for name, default in (("users", 204), ("rate", 200), ("seconds", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    try:
        delays = 1e3 * asyncio.run(load(asked.url, asked.users, asked.rate, asked.seconds))
    except ConnectionRefusedError as error:
        raise SystemExit(f"{asked.url}: expected a service there, found {error}; see --help") from None
    shown = ", ".join(f"{100 * q:g} % within {np.quantile(delays, q):.1f} ms" for q in (0.5, 0.95, 0.99))
    print(f"{len(delays):,} requests, {asked.rate} a second: {shown}")


if __name__ == "__main__":
    main()
