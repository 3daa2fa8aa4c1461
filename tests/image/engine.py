"""Building and running the image: by Docker if its daemon answers, else by buildah and podman.

Without Docker nothing comes from an image registry: the base is made of Debian packages (debootstrap), PyTorch and
the other wheels are fetched by pip, and both are given to the build of deploy/Dockerfile.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from tests.cache import CACHE

TOP = Path(__file__).parents[2]
IMAGE = "localhost/stream-ad:test"
PACKAGES = ["buildah", "podman", "runc", "debootstrap"]


def say(message: str) -> None:
    sys.stderr.write(f"image: {message}\n")
    sys.stderr.flush()


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and keep its output; a failure shows the end of it."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        output = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{output}")
    return done


@cache
def engine() -> list[str]:
    """The command that containers are run with; installs podman and what belongs to it where nothing is there."""
    if shutil.which("docker") and run("docker", "info", check=False).returncode == 0:
        return ["docker"]
    if missing := [name for name in PACKAGES if not shutil.which(name)]:
        say(f"no Docker daemon answers; installing {', '.join(missing)} by apt-get")
        run("apt-get", "update", "-qq")
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=quiet)
    # A store of our own: images and containers of others are not touched.
    CACHE.mkdir(parents=True, exist_ok=True)
    storage = CACHE / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "{storage_driver()}"\n'
        f'graphroot = "{CACHE}/containers"\nrunroot = "/run/stream-ad-containers"\n'
    )
    os.environ["CONTAINERS_STORAGE_CONF"] = str(storage)
    return ["podman", "--runtime", "runc", "--cgroup-manager=cgroupfs"]


def storage_driver() -> str:
    """overlay if this machine can mount one (not inside every container), else vfs, which copies."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("lower", "upper", "work", "merged"):
            (Path(folder) / name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        mount = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, f"{folder}/merged"]
        return "overlay" if run(*mount, check=False).returncode == 0 else "vfs"


def build() -> dict[str, Any]:
    """Build the image and return its configuration."""
    if engine() == ["docker"]:
        # As in the Makefile: another place for PyTorch, if the environment names one.
        command = ["docker", "build", "--build-arg=TORCH_INDEX_URL"]
    else:
        base, wheels = base_image(), fetch_wheels()
        command = ["buildah", "bud", "--format=docker", "--layers", f"--build-context=wheels={wheels}"]
        command += [f"--build-arg=BASE={base}", "--build-arg=PIP_NO_INDEX=1"]
    say("building deploy/Dockerfile (minutes the first time)")
    command += ["-f", str(TOP / "deploy" / "Dockerfile"), "-t", IMAGE, str(TOP)]
    run(*command, env=os.environ | {"BUILDAH_ISOLATION": "chroot"})
    [description] = json.loads(run(*engine(), "image", "inspect", IMAGE).stdout)
    say(f"{IMAGE} has {description['Size'] / 1e6:.0f} MB")
    # Docker shows the health check in the configuration, podman beside it.
    return {"Healthcheck": description.get("Healthcheck")} | dict(description["Config"])


def base_image() -> str:
    """A minimal Debian with Python, of this machine's release and from the archive that its apt uses."""
    targets = run("apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages").stdout
    archive, release = targets.splitlines()[0].split()
    name = f"localhost/stream-ad-base:{release}"
    if run("buildah", "inspect", "--type=image", name, check=False).returncode == 0:
        return name
    say(f"making a base image of Debian {release} by debootstrap (2 minutes; kept in {CACHE})")
    with tempfile.TemporaryDirectory(prefix="stream-ad-base-") as temporary:
        root = Path(temporary) / "root"
        packages = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", packages, release, root, archive)
        unneeded = [f"--exclude=./{path}" for path in ("dev/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
        run("tar", "-C", root, "--numeric-owner", *unneeded, "-cf", Path(temporary) / "base.tar", ".")
        (Path(temporary) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        run("buildah", "bud", "--layers=false", "-t", name, temporary, env=os.environ | {"BUILDAH_ISOLATION": "chroot"})
    return name


def fetch_wheels() -> Path:
    """A folder with every wheel of the image; PyTorch is that of TORCH_INDEX_URL, if the environment names one."""
    constraints = TOP / "constraints.txt"
    index = os.environ.get("TORCH_INDEX_URL", "")
    requirements = run(sys.executable, "deploy/requirements.py", "s3", cwd=TOP).stdout
    mark = hashlib.sha256((requirements + index).encode() + constraints.read_bytes()).hexdigest()[:12]
    if (folder := CACHE / f"wheels-{mark}").is_dir():
        return folder
    say("fetching the wheels (3 GB with the CUDA build of PyTorch); what was built of others goes")
    for outdated in CACHE.glob("wheels-*"):
        shutil.rmtree(outdated)
    run(*engine(), "image", "prune", "--force")
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        wanted = Path(temporary) / "requirements.txt"
        wanted.write_text(f"{requirements}setuptools>=77\n")
        wheels = Path(temporary) / "wheels"
        # For the Python of the base image, which need not be ours.
        version = run(*engine(), "run", "--rm", *LIMITS, base_image(), "python3", "-V").stdout.split()[1]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--python-version", version]
        pip += ["--only-binary=:all:", "--dest", str(wheels), "--find-links", str(wheels)]
        if index:
            torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
            run(*pip, "--no-deps", "--index-url", index, torch)
        run(*pip, "--constraint", constraints, "--requirement", wanted)
        wheels.rename(folder)
    return folder


LIMITS = ["--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
LOCKED_DOWN = [
    *LIMITS,
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--memory=2g",
    "--tmpfs=/tmp",
]


class Container:
    """A container of the image; removed at the end of the `with`."""

    def __init__(self, *command: str, options: list[str]) -> None:
        self.name = f"stream-ad-{uuid.uuid4().hex[:8]}"
        podman = [] if engine() == ["docker"] else ["--read-only-tmpfs=false"]
        run(*engine(), "run", "--detach", "--name", self.name, *podman, *options, IMAGE, *command)

    def state(self) -> dict[str, Any]:
        return dict(json.loads(run(*engine(), "inspect", self.name).stdout)[0]["State"])

    def logs(self) -> str:
        done = run(*engine(), "logs", self.name)
        return done.stdout + done.stderr

    def exec(self, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return run(*engine(), "exec", *options, self.name, *command, check=False)

    def processes(self) -> list[int]:
        """Numbers, as this machine has them, of all processes in the container."""
        column = [] if engine() == ["docker"] else ["hpid"]
        lines = run(*engine(), "top", self.name, *(column or ["-o", "pid"])).stdout.splitlines()
        return [int(line.split()[-1]) for line in lines[1:]]

    def stop(self, seconds: int) -> int:
        """Send SIGTERM, wait up to `seconds` before a SIGKILL, return the exit code."""
        run(*engine(), "stop", "-t", str(seconds), self.name)
        return int(self.state()["ExitCode"])

    def wait(self, seconds: float) -> int:
        """The exit code of a container that ends by itself."""
        return int(run(*engine(), "wait", self.name, timeout=seconds).stdout)

    def changed_paths(self) -> list[str]:
        """What was written outside the volumes."""
        return [line.split()[1] for line in run(*engine(), "diff", self.name).stdout.splitlines()]

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        run(*engine(), "rm", "--force", "--volumes", self.name)
