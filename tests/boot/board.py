"""A board for tests: a Debian tree in namespaces of its own, with a real systemd as its process 1."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
PATIENCE_S = 90.0
CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def hierarchies() -> list[str]:
    """Return the cgroup hierarchies that a systemd inside can be given; one, ``""``, where there is one for all."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [""]
    wanted = ("cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio", "systemd", "unified")
    return [name for name in wanted if (CGROUPS / name / "cgroup.procs").exists()]


class Board:
    """From ``boot`` to ``power_off``; what it writes lies in ``folder/upper``, above the layers."""

    def __init__(self, folder: Path, layers: Sequence[Path], shared: Sequence[tuple[Path, str]] = ()) -> None:
        self.folder = folder
        self.upper = folder / "upper"
        self._layers = layers
        self._shared = shared
        self._name = f"fedmq-board-{os.getpid()}-{folder.name}"
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()

    def boot(self) -> None:
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lower = ":".join(str(layer) for layer in self._layers)
        overlay = f"lowerdir={lower},upperdir={self.upper},workdir={self.folder / 'work'}"
        arguments = [str(HERE / "enter.sh"), str(self.folder / "root"), overlay, ",".join(hierarchies()) or "v2"]
        arguments += [f"{path}:{name}" for path, name in self._shared]
        with (self.folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                ["unshare", *NAMESPACES, "--fork", "--kill-child", "--propagation", "private", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=self._enter_cgroups,  # noqa: PLW1509 - before unshare, which makes this the root of what is seen
            )
        self.wait(self._is_up, "systemd to boot")

    def power_off(self) -> None:
        """Shut down in good order."""
        assert self._process
        self.run("systemctl", "poweroff", check=False)
        self._process.wait(PATIENCE_S)
        self.cut_power()

    def cut_power(self) -> None:
        """Kill everything at once."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE_S)
        self._process, self.leader = None, 0
        self._remove_cgroups()

    def run(self, *command: str, check: bool = True, timeout_s: float = 300.0, text: str | None = None) -> str:
        """Run a command on the board, as root; return what it printed, errors too."""
        done = self.start(*command, text=text, timeout_s=timeout_s)
        if check:
            assert done.returncode == 0, f"{' '.join(command)} -> {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(
        self, *command: str, text: str | None = None, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """The same, with the exit code."""
        return subprocess.run(
            self.inside(*command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            input=text,
            timeout=timeout_s,
            check=False,
        )

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs the command on the board."""
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return [*enter, "env", "-i", f"PATH={CLEAN_PATH}", "HOME=/root", "LC_ALL=C.UTF-8", *command]

    def signal(self, name: str, unit: str) -> None:
        """Send a signal to a service's process, as a stranger would: not through systemd."""
        self.run("sh", "-c", f"kill -{name} {self.show(unit, 'MainPID')}")

    @property
    def most_files(self) -> int:
        """How many files a process may be allowed at most: where systemd itself was given less, that."""
        return resource.prlimit(self.leader, resource.RLIMIT_NOFILE)[1]

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, *arguments: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", *arguments)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.run("sh", "-c", f"mkdir -p '{Path(path).parent}' && cat > '{path}' && chmod {mode:o} '{path}'", text=text)

    def exists(self, path: str) -> bool:
        return self.start("test", "-e", path).returncode == 0

    def wait(self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what}\n{self._last_words()}"
            time.sleep(0.2)  # between two looks; the condition decides

    def wait_active(self, unit: str, patience_s: float = PATIENCE_S) -> None:
        self.wait(lambda: self.show(unit, "ActiveState") == "active", f"{unit} to be active", patience_s)

    def _is_up(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.folder / "console.log").read_text()
        if not self.leader:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self.leader = int(children[0]) if children else 0
        if not self.leader or Path(f"/proc/{self.leader}/comm").read_text().strip() != "systemd":
            return False
        return self.start("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def _last_words(self) -> str:
        if not self.leader:
            return (self.folder / "console.log").read_text()
        return self.start("journalctl", "--no-pager", "--lines=40").stdout

    def _enter_cgroups(self) -> None:
        for hierarchy in hierarchies():
            group = CGROUPS / hierarchy / self._name
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def _remove_cgroups(self) -> None:
        for hierarchy in hierarchies():
            top = CGROUPS / hierarchy / self._name
            deadline = time.monotonic() + PATIENCE_S
            for group in sorted(top.glob("**/"), key=lambda path: -len(path.parts)):
                while not _removed(group):  # until the kernel has buried the last of its processes
                    assert time.monotonic() < deadline, f"{group} is still in use"
                    time.sleep(0.05)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
