"""What benchmarks share: a command line, and sides in processes of their own that take turns.

It runs under the interpreter of either side, and so imports neither.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PHOTO = Path(__file__).parent.parent / "examples" / "photos" / "coffee.jpg"


def arguments(doc: str | None, *hidden: str) -> argparse.ArgumentParser:
    """A parser whose help is the head of the script. ``hidden``: what a script says to itself in another process."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in hidden:
        parser.add_argument(option, help=argparse.SUPPRESS)
    return parser


class Worker:
    """A process that runs one side, and answers each line in JSON; the first answer comes unasked."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended early, exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, what: str = "") -> Any:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def sides(peer: str, script: str, *options: str) -> tuple[Worker, Worker]:
    """Ours and the peer's, each by the script with ``--serve`` under its own interpreter."""
    theirs, ours = (
        Worker([python, script, *options, "--peer", peer, "--serve", side])
        for side, python in (("peer", peer), ("ours", sys.executable))
    )
    return ours, theirs


def told(pairs: Sequence[Sequence[float]], other: str, digits: int = 0) -> str:
    """Medians of (ours, the other's) seconds, and of their ratios, which alone means much on a shared machine."""
    a, b = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    ratios, more = sorted(x / y for x, y in pairs), digits + 2
    return (
        f"ours {a:.{digits}f} ms, {other} {b:.{digits}f} ms, ratio {statistics.median(ratios):.{more}f} "
        f"({ratios[0]:.{more}f} to {ratios[-1]:.{more}f} in {len(pairs)} pairs)"
    )
