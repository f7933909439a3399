"""What the scripts of this folder share: the broker, the pinning, the commands of both sides."""
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = "target/release/examples/bench_streams"


def common(parser):
    """The options that every script has."""
    parser.add_argument("--guarantee", default="at_least_once", choices=["at_least_once", "exactly_once_v2"])
    parser.add_argument("--java-opts", default="-XX:+UseG1GC -Xmx1g", help="G1 as Kafka's own scripts choose")
    parser.add_argument("--ours", default=OURS, help="our command; 'none' measures Kafka Streams alone")
    parser.add_argument("--theirs", default="java", choices=["java", "none"], help="'none' measures ours alone")
    parser.add_argument("--no-build", action="store_true", help="do not build our commands first")
    parser.add_argument("--bootstrap", help="use this broker (not pinned by us) instead of starting one")
    parser.add_argument("--dir", help="where to keep the broker's data while it runs (default: a temporary folder)")


def sides(chosen):
    return (["ours"] if chosen.ours != "none" else []) + (["java"] if chosen.theirs != "none" else [])


def say(text):
    print(text, file=sys.stderr, flush=True)


def json_line(command, env=None):
    """Runs a command; its last line of output is JSON."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0:
        sys.exit(f"bench: {shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    try:
        return json.loads(lines[-1]) if lines else {}
    except ValueError:
        sys.exit(f"bench: {shlex.join(command)} printed no JSON line but: {lines[-1]}")


class Bench:
    def __init__(self, chosen):
        self.chosen = chosen
        self.classpath = subprocess.run(["scripts/java-build", "bench/java"], cwd=ROOT, check=True, text=True,
                                        stdout=subprocess.PIPE).stdout.strip()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.pin, self.broker_pin = [], ""
        if shutil.which("taskset") and len(cores) > 1:
            self.broker_pin = f"taskset -c {cores[-1]}"
            self.pin = ["taskset", "-c", ",".join(map(str, cores[:-1]))]
        else:
            say("bench: nothing is pinned (one core, or no taskset): figures will scatter")
        if chosen.bootstrap:
            self.broker_pin = ""
        self.topics = 0

    def command(self, who, *args):
        """The measured command of a side, and its environment."""
        if who == "java":
            java = ["java", *shlex.split(self.chosen.java_opts), "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "StreamsBench"]
        else:
            java = shlex.split(who)
        return self.pin + java + [*map(str, args)], {"CLASSPATH": self.classpath} if who == "java" else {}

    def helper(self, *args):
        """A command of StreamsBench that is not measured."""
        command = ["java", "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "StreamsBench", *map(str, args)]
        return json_line(command, {"CLASSPATH": self.classpath})

    def measured(self, who, *args):
        return json_line(*self.command(who, *args))

    def start(self, who, work, *args):
        """An application that runs until it is told to end: see `serve`. The answer is the line of its start."""
        process = self.spawn(who, "serve", work, *args)
        return process, heard(process)

    def begin(self, who, *args):
        """A command that goes on until its stdin ends, when it has said that it is there."""
        process = self.spawn(who, *args)
        heard(process)
        return process

    def spawn(self, who, *args):
        command, env = self.command(who, *args)
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                env={**os.environ, **env})

    def run(self, *args):
        """A command that is not measured and says nothing."""
        subprocess.run([*map(str, args)], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)

    def name(self):
        self.topics += 1
        return f"bench-{os.getpid()}-{self.topics}"

    def topic(self, partitions):
        name = self.name()
        self.helper("topics", "--bootstrap", self.bootstrap, "--create", name, "--partitions", partitions)
        return name

    def delete(self, *topics):
        self.helper("topics", "--bootstrap", self.bootstrap, "--delete", ",".join(topics))


def heard(process):
    line = process.stdout.readline()
    if not line:
        sys.exit(f"bench: {shlex.join(process.args)} ended with {process.wait()}")
    return json.loads(line)


def look(process):
    """What an application that serves has come to."""
    process.stdin.write("look\n")
    process.stdin.flush()
    return heard(process)


def end(process):
    process.stdin.close()
    if process.wait(timeout=150) != 0:
        sys.exit(f"bench: {shlex.join(process.args)} ended with {process.returncode}")


def commit():
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.strip()
    return found or "unknown"


def with_broker(chosen, work):
    """Builds, starts a broker unless there is one, and does the work."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the broker is taken down
    if not chosen.no_build and OURS in chosen.ours + getattr(chosen, "copy", ""):
        subprocess.run(["cargo", "build", "--release", "--locked", "--example", "bench_streams"], cwd=ROOT, check=True)
    bench = Bench(chosen)
    if chosen.bootstrap:
        bench.bootstrap = chosen.bootstrap
        return work(bench)
    folder = chosen.dir or tempfile.mkdtemp(prefix="mainstem-bench-")
    kafka = os.path.join(folder, "kafka")
    try:
        started = subprocess.run(["scripts/kafka", "up", "--dir", kafka, "--heap", "2g"], cwd=ROOT, check=True, text=True,
                                 stdout=subprocess.PIPE, env={**os.environ, "MAINSTEM_KAFKA_PREFIX": bench.broker_pin})
        bench.bootstrap = started.stdout.strip()
        return work(bench)
    finally:
        subprocess.run(["scripts/kafka", "down", "--dir", kafka], cwd=ROOT)
        if not chosen.dir:
            shutil.rmtree(folder, ignore_errors=True)
