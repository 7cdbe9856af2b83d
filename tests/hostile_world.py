"""What hostile scripts attack: a process with secrets, sockets, a victim and a sibling script.

Run as a program, as whatever user: reads {"source", "seconds"} lines, runs each script in one
`Sandbox`, and prints how it ended and what it did to its surroundings. Standard library only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mxa_lite.sandbox.box import CallRequest, Ended, Job, Limits, Sandbox

SECRET = "the-gold-answer-is-42"
SIBLING = f"""
open("notes.txt", "w").write("{SECRET}")
reply = Agent("sibling")("{SECRET}")
answer(open("notes.txt").read() == "{SECRET}")
"""
HONEST = 'answer(Agent("solver")(question))'


def children(pid: int) -> set[int]:
    """Living child processes."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(stat.parent.name))
    return found


def alive(pid: int | str) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class World:
    """The trainer and its surroundings."""

    def __init__(self, folder: Path, at_most: str) -> None:
        os.environ["HF_TOKEN"] = SECRET
        self.folder = folder
        (folder / "token").write_text(SECRET)
        (folder / "token").chmod(0o600)
        self.tcp, self.udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        self.path, self.abstract = (socket.socket(socket.AF_UNIX) for _ in range(2))
        self.dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        addresses = {
            self.tcp: ("127.0.0.1", 0),
            self.udp: ("127.0.0.1", 0),
            self.path: str(folder / "stream"),
            self.dgram: str(folder / "dgram"),
            self.abstract: f"\0mxa-{os.getpid()}",
        }
        for sock, address in addresses.items():
            sock.bind(address)
            sock.setblocking(False)
            if sock.type == socket.SOCK_STREAM:
                sock.listen()
        self.sockets = list(addresses)
        self.victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.limits = Limits(seconds=10, memory_mb=256, disk_mb=16, max_calls=8)
        self.box = Sandbox(self.limits, at_most=at_most)
        self.server = self.box.server.process.pid
        self.sibling = self.box.start(Job(SIBLING, "q"))
        (self.waiting,) = self.box.poll(20)
        (self.sibling_pid,) = children(self.server)
        self.places = {
            "$TOKEN": str(folder / "token"),
            "$OUTSIDE": str(folder),
            "$TRAINER": str(os.getpid()),
            "$SERVER": str(self.server),
            "$SIBLING_PID": str(self.sibling_pid),
            "$SIBLING_FOLDER": os.path.join(self.box.server.folder, str(self.sibling)),
            "$BOX": self.box.server.folder,
            "$VICTIM": str(self.victim.pid),
            "$TCP": str(self.tcp.getsockname()[1]),
            "$UDP": str(self.udp.getsockname()[1]),
            "$ABSTRACT": f"mxa-{os.getpid()}",
        }
        self.before = self.surroundings()

    def run(self, source: str, seconds: float = 10) -> dict[str, object]:
        """One script to its end, with every call answered `\\boxed{4}`."""
        for name in sorted(self.places, key=len, reverse=True):
            source = source.replace(name, self.places[name])
        self.box.limits = dataclasses.replace(self.limits, seconds=seconds)
        calls = 0
        job = self.box.start(Job(source, "2+2?"))
        while True:
            for event in self.box.poll(None):
                if isinstance(event, Ended) and event.job == job:
                    changed = self.surroundings() != self.before
                    ended = dataclasses.asdict(event)
                    return {**ended, "calls": calls, "changed": changed}
                assert isinstance(event, CallRequest) and event.job == job, event
                calls += 1
                self.box.reply(job, event.id, "\\boxed{4}")

    def surroundings(self) -> list[object]:
        """All that a script must leave as it was."""
        heard = []
        for sock in self.sockets:
            try:
                heard.append(sock.accept() if sock.type == socket.SOCK_STREAM else sock.recv(99))
            except BlockingIOError:
                continue
        tree = [(str(p), p.stat().st_mode, p.stat().st_size) for p in self.folder.rglob("*")]
        boxes = sorted(os.listdir(self.box.server.folder))
        alive = self.victim.poll() is None and self.box.server.process.poll() is None
        mine = sorted(os.listdir(f"/proc/{self.sibling_pid}/fd")) if alive else []
        shared = [name for name in os.listdir("/dev/shm") if name.startswith("mxa-")]
        limits = Path(f"/proc/{self.sibling_pid}/limits").read_text()
        return [heard, sorted(tree), boxes, alive, mine, shared, limits, children(self.server)]

    def close(self) -> dict[str, object]:
        """The sibling goes on undisturbed; then everything is gone."""
        self.box.reply(self.sibling, self.waiting.id, "go on")
        (ended,) = self.box.poll(20)
        folder, server = self.box.server.folder, self.server
        self.box.close()
        self.victim.kill()
        self.victim.wait()
        left = os.path.exists(folder) or os.path.exists(f"/proc/{server}")
        return {"sibling": ended.message, "left": left}


def main() -> None:
    """Serves the tests."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), sys.argv[1])
        print(json.dumps({"level": world.box.level}), flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(world.run(request["source"], request["seconds"])), flush=True)
        print(json.dumps(world.close()), flush=True)


if __name__ == "__main__":
    main()
