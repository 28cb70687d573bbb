"""Runs of `refseg` that begin in milliseconds: forked from one process that has imported everything already.

with ForkServer() as server:
    run = server.start("train", recipe, "--out", folder)
    os.kill(run.pid, signal.SIGKILL)
    code, out, err = run.end()
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# The server itself starts no thread and draws no number, so that what it forks is like a fresh process.
SERVER = """
import json, os, signal, sys, time
import torch, torch._dynamo, torch.nn.parallel, accelerate, accelerate.state, cv2
torch.set_num_threads(1)
import refseg.training.loop, refseg.predictor, refseg.data.scenes.dataset, refseg.models.scout.family
import refseg.models.referformer.family, refseg.models.scout.objectives, refseg.training.data
from refseg.cli import load_verbs, main
load_verbs()
refseg.data.scenes.sprites.load_atlas()  # kept for the life of a process; takes a second or two

def reap(pid, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None

def serve():
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if "reap" in job:
            print(json.dumps(reap(job["reap"], job["seconds"])), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            return job
        print(pid, flush=True)
    os._exit(0)

job = serve()
os.setsid()
for number, path in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, number)
    os.close(opened)
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run in the background, which ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or under nohup
os.environ.update(job["environment"])
sys.argv = ["refseg", *job["arguments"]]
exec(job["code"])
main()
"""


@dataclass
class Forked:
    """A run of `refseg`, which leads a process group of its own."""

    server: "ForkServer"
    pid: int
    out: Path
    err: Path

    def is_running(self):
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def end(self, seconds=120):
        """The exit code (below 0: of the signal that killed it), and what it printed."""
        code = self.server.ask({"reap": self.pid, "seconds": seconds})
        assert code is not None, f"still running after {seconds} s: {self.err.read_text()}"
        return code, self.out.read_text(), self.err.read_text()


class ForkServer:
    def __enter__(self):
        source = str(Path(__file__).parents[2] / "src")
        # One thread: sums over threads are added in the order in which they end.
        environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = 0
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # a run that a test has left hanging
            self.process.kill()
            self.process.wait()

    def ask(self, job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments, told, code="", **environment):
        """Starts `refseg ARGUMENTS`, which prints to files in the folder `told`; `code` runs before it."""
        self.count += 1
        out, err = told / f"out{self.count}.txt", told / f"err{self.count}.txt"
        out.touch(), err.touch()
        job = {"arguments": [*map(str, arguments)], "out": str(out), "err": str(err), "code": code}
        return Forked(self, self.ask(job | {"environment": environment}), out, err)
