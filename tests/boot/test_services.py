"""The services under a real systemd: ready, supervised, limited, confined, and told of when they are given up."""

from __future__ import annotations

import re

from tests.boot.board import Board
from tests.boot.federation import device_state, versions

AGENT = "fedmq-agent.service"
IMPATIENT = "[Service]\nWatchdogSec=4s\nRestartSec=500ms\nTimeoutStopSec=3s\n"


def drop_in(board: Board, unit: str, text: str) -> None:
    """What ``systemctl edit`` writes; a later one of these replaces the one before."""
    board.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
    board.run("systemctl", "daemon-reload")


def restarts(board: Board, unit: str = AGENT) -> int:
    return int(board.show(unit, "NRestarts"))


def wait_for_another_start(board: Board, before: str, unit: str = AGENT) -> None:
    board.wait(
        lambda: board.show(unit, "ActiveState") == "active" and board.show(unit, "InvocationID") != before,
        f"another start of {unit}",
    )


def test_both_are_ready_after_a_boot_and_go_on_learning(board: Board) -> None:
    status = board.show(AGENT, "StatusText")
    assert re.search(r"version \d+", status), status
    before = versions(board)
    board.wait(lambda: versions(board) > before, "a version after the boot")
    assert "1 of 1 devices there" in board.show("fedmq-aggregator.service", "StatusText")
    assert device_state(board)["state"] in {"idle", "fetching", "training", "reporting"}
    assert restarts(board) == 0


def test_they_are_who_they_should_be_and_see_little(board: Board) -> None:
    pid = board.show(AGENT, "MainPID")
    status = board.run("cat", f"/proc/{pid}/status")
    user = board.run("id", "-u", "fedmq-agent").strip()
    assert re.search(rf"^Uid:\t{user}\t", status, re.MULTILINE), status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    inside = ["nsenter", f"--target={pid}", "--mount", "--user", "--preserve-credentials"]
    assert board.start(*inside, "touch", "/usr/x").returncode != 0
    assert board.start(*inside, "ls", "/root/keystore").returncode != 0
    key = board.run("sh", "-c", "stat -c '%U %a' /etc/fedmq/identity-*/*.key").split()
    assert key == ["fedmq-agent", "600"]
    assert board.start("runuser", "-u", "fedmq", "--", "sh", "-c", "cat /etc/fedmq/identity-*/*.key").returncode != 0


def test_a_process_that_hangs_is_ended_by_the_watchdog_and_started_again(board: Board) -> None:
    drop_in(board, AGENT, IMPATIENT)
    board.run("systemctl", "restart", AGENT)
    before = board.show(AGENT, "InvocationID")
    board.signal("STOP", AGENT)
    wait_for_another_start(board, before)
    assert "Watchdog timeout" in board.journal("--unit", AGENT)
    goes_on = versions(board)
    board.wait(lambda: versions(board) > goes_on, "a version with the new process")


def test_a_trainer_that_hangs_is_noticed_and_its_stack_told(board: Board) -> None:
    drop_in(board, AGENT, IMPATIENT)
    board.run("systemctl", "stop", AGENT)
    board.run("sh", "-c", "mkfifo /srv/never.csv && chmod 644 /srv/never.csv")  # reading it waits for ever
    board.run("sed", "-i", "s#/srv/samples.npz#/srv/never.csv#", "/etc/fedmq/agent.toml")
    board.run("sed", "-i", "s/^# max_step_s.*/max_step_s = 2.0/", "/etc/fedmq/agent.toml")
    board.run("systemctl", "start", AGENT)
    board.wait(lambda: restarts(board) >= 1, "the watchdog to end it")
    told = board.journal("--unit", AGENT)
    assert "Watchdog timeout" in told
    assert "Fatal Python error: Aborted" in told
    assert "data.py" in told, "the stack of the trainer's thread says where it hung"


def test_kill_9_costs_nothing(board: Board) -> None:
    drop_in(board, AGENT, IMPATIENT)
    board.run("systemctl", "restart", AGENT)
    before = board.show(AGENT, "InvocationID")
    board.signal("KILL", AGENT)
    wait_for_another_start(board, before)
    goes_on = versions(board)
    board.wait(lambda: versions(board) > goes_on, "a version afterwards")


def test_it_starts_without_a_network_and_joins_when_there_is_one(board: Board) -> None:
    board.run("systemctl", "stop", AGENT, "mosquitto.service")
    board.run("systemctl", "start", AGENT)  # returns when it is ready
    assert "no connection" in board.show(AGENT, "StatusText")
    board.run("systemctl", "start", "mosquitto.service")
    board.wait(lambda: "connected" in board.show(AGENT, "StatusText"), "the connection")
    goes_on = versions(board)
    board.wait(lambda: versions(board) > goes_on, "a version")


def test_who_takes_too_much_memory_is_ended_alone_and_started_again(board: Board) -> None:
    drop_in(board, AGENT, "[Service]\nMemoryMax=10M\nMemorySwapMax=0\nRestartSec=500ms\n")
    aggregator = board.show("fedmq-aggregator.service", "InvocationID")
    board.start("systemctl", "restart", AGENT)
    board.wait(lambda: restarts(board) >= 1, "the limit to end it")
    assert re.search(r"status=9/KILL|oom-kill", board.journal("--unit", AGENT))
    assert board.show("fedmq-aggregator.service", "InvocationID") == aggregator
    drop_in(board, AGENT, "[Service]\nRestartSec=500ms\n")
    board.wait_active(AGENT)


def test_keys_as_credentials_are_seen_by_the_service_alone(board: Board) -> None:
    identity = board.run("sh", "-c", "echo /etc/fedmq/identity-*").strip()
    key = board.run("sh", "-c", f"ls {identity}/*.key").strip()
    board.run("sh", "-c", f"chown root:root {key} && chmod 600 {key}")
    board.run("sed", "-i", "-E", 's#^key = ".*"#key = "credential:device.key"#', "/etc/fedmq/agent.toml")
    drop_in(board, AGENT, f"[Service]\nLoadCredential=device.key:{key}\n")
    board.run("systemctl", "restart", AGENT)
    board.wait(lambda: "connected" in board.show(AGENT, "StatusText"), "a connection by that key")
    copy = f"/run/credentials/{AGENT}/device.key"
    assert board.exists(copy)
    assert board.start("runuser", "-u", "fedmq", "--", "cat", copy).returncode != 0
    assert board.start("runuser", "-u", "fedmq-agent", "--", "cat", key).returncode != 0
    board.run("systemctl", "stop", AGENT)
    assert not board.exists(copy)


def test_the_federation_is_told_what_systemd_has_given_up(board: Board) -> None:
    board.run("sed", "-i", "s#^state_dir = .*#state_dir = '/proc/nowhere'#", "/etc/fedmq/agent.toml")
    drop_in(board, AGENT, "[Unit]\nStartLimitBurst=2\n[Service]\nRestartSec=500ms\n")
    board.start("systemctl", "restart", AGENT)
    board.wait(lambda: board.show(AGENT, "ActiveState") == "failed", "systemd to give up")
    board.wait(lambda: "given up by systemd" in str(device_state(board).get("reason")), "the state to say so")
    state = device_state(board)
    assert state["state"] == "stopped"
    assert "exit code 1 (failed: disk, store" in str(state["reason"])
    told = board.journal("--identifier", "fedmq-failure")
    assert f"unit={AGENT} result=exit-code exit=exited status=1" in told
    assert f"the federation was told unit={AGENT}" in told


def test_a_failure_is_logged_when_nobody_can_be_told(board: Board) -> None:
    board.run("systemctl", "stop", "mosquitto.service")
    board.run("sh", "-c", "printf '\\nnonsense = 1\\n' >> /etc/fedmq/agent.toml")
    board.start("systemctl", "restart", AGENT)
    failed = f"fedmq-failure@{AGENT}.service"
    board.wait(lambda: "was not told" in board.journal("--identifier", "fedmq-failure"), "the line in the journal")
    told = board.journal("--identifier", "fedmq-failure")
    assert f"unit={AGENT} result=exit-code exit=exited status=2" in told
    board.wait(lambda: board.show(failed, "ActiveState") == "inactive", "the failure unit to end")
    assert restarts(board) == 0  # wrong configuration: another start would change nothing


def test_several_agents_on_one_device(board: Board) -> None:
    bundle = "/root/keystore/bundles/press-002.fedmq"
    board.run("fedmq", "provision", "device", "press-002", "--keystore", "/root/keystore")
    arguments = ["--data", "/srv/samples.npz", "--owner", "fedmq-agent", "--to", "/etc/fedmq/hall-2"]
    board.run("fedmq-agent", "enroll", bundle, *arguments)
    board.run("systemctl", "enable", "--now", "fedmq-agent@hall-2")
    board.wait(lambda: "connected" in board.show("fedmq-agent@hall-2.service", "StatusText"), "the second one")
    assert "press-002" in board.journal("--unit", "fedmq-agent@hall-2.service")
    assert board.run("stat", "-c", "%U %a", "/var/lib/fedmq/agent-hall-2").strip() == "fedmq-agent 700"
    assert board.show(AGENT, "ActiveState") == "active"


def test_mosquitto_works_in_its_hardening(board: Board) -> None:
    pid = board.show("mosquitto.service", "MainPID")
    status = board.run("cat", f"/proc/{pid}/status")
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    files = re.search(r"open files +(\d+)", board.run("cat", f"/proc/{pid}/limits"))
    assert files
    assert int(files[1]) == min(65536, board.most_files)
    board.run("systemctl", "reload", "mosquitto.service")
    exposure = re.search(
        r"level for mosquitto.service: ([\d.]+)", board.run("systemd-analyze", "security", "--no-pager", "mosquitto")
    )
    assert exposure
    assert float(exposure[1]) <= 1.5
    board.run("systemctl", "stop", "mosquitto.service")  # writes what it retains
    board.run("systemctl", "start", "mosquitto.service")
    assert board.run("stat", "-c", "%U", "/var/lib/mosquitto/mosquitto.db").strip() == "mosquitto"
    goes_on = versions(board)
    board.wait(lambda: versions(board) > goes_on, "a version over the restarted broker")
