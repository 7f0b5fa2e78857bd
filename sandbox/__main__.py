"""The sandbox's command line: python -m sandbox up | down | status | logs | start | stop."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.home import Home, find_home
from sandbox.settings import HOST, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 not done with one line that says why, 2 bad use."""
    options = _parser().parse_args(arguments)
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST, "localhost"]))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = direct
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(options.run(find_home(), options))
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("sandbox: interrupted; 'make down' stops what was started", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start what does not run yet")
    up.add_argument(
        "--without", action="append", default=[], metavar="PART", help="airflow, traffic or guard; repeatable"
    )
    up.set_defaults(run=_up)
    commands.add_parser("down", help="stop everything").set_defaults(run=_down)
    commands.add_parser("status", help="show what runs; 1 if something that should does not").set_defaults(run=_status)
    logs = commands.add_parser("logs", help="show the last lines")
    logs.add_argument("name", nargs="?", help="one program, otherwise all")
    logs.add_argument("--lines", type=int, default=None)
    logs.add_argument("--follow", action="store_true")
    logs.set_defaults(run=_logs)
    for verb, run in (("start", _start), ("stop", _stop)):
        one = commands.add_parser(verb, help=f"{verb} one program of a sandbox that is up")
        one.add_argument("name")
        one.set_defaults(run=run)
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _up(home: Home, options: argparse.Namespace) -> int:
    from sandbox.status import address
    from sandbox.up import settings_with, up

    settings = settings_with(options.without)
    up(home, settings, _say)
    _say(f"router {address(settings, 'envoy')}   environment {home.environment_file}")
    if settings.programs.airflow:
        _say(f"airflow {address(settings, 'airflow-api-server')} (no login)")
    return 0


def _down(home: Home, _: argparse.Namespace) -> int:
    from sandbox.s3 import remove_sockets
    from sandbox.up import down

    down(home, _say)
    remove_sockets(load_settings())
    return 0


def _status(home: Home, _: argparse.Namespace) -> int:
    from sandbox.processes import members
    from sandbox.status import rows, table
    from sandbox.supervisor import Supervisor

    found = rows(home, load_settings())
    if not found:
        print("the sandbox is down; 'make up' starts it")
        return 1
    print(table(found))
    if not Supervisor(home).is_up():
        print(f"supervisord is gone and left {len(members(home))} processes; run 'make down', then 'make up'")
    return 0 if all(row.ok for row in found) else 1


def _logs(home: Home, options: argparse.Namespace) -> int:
    from sandbox.supervisor import tail

    known = {path.stem: path for path in sorted(home.logs.glob("*.log"))}
    if options.name and options.name not in known:
        message = f"no log of {options.name!r}. There are: {', '.join(known) or 'none; the sandbox was never up'}."
        raise SandboxError(message)
    chosen = [options.name] if options.name else list(known)
    lines = options.lines or (200 if options.name else 10)
    for name in chosen:
        if len(chosen) > 1:
            print(f"==> {name} <==")
        print(tail(known[name], lines))
    if options.follow and options.name:
        _follow(known[options.name])
    return 0


def _follow(path: Path) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        while True:
            line = file.readline()
            if line:
                print(line, end="", flush=True)
            else:
                time.sleep(0.3)


def _known(home: Home, name: str) -> None:
    from sandbox.supervisor import Supervisor

    states = Supervisor(home).states()
    if name not in states:
        message = f"no program {name!r}. There are: {', '.join(states) or 'none; the sandbox is down'}."
        raise SandboxError(message)


def _start(home: Home, options: argparse.Namespace) -> int:
    from sandbox.supervisor import Supervisor

    _known(home, options.name)
    Supervisor(home).start_program(options.name)
    return 0


def _stop(home: Home, options: argparse.Namespace) -> int:
    from sandbox.supervisor import Supervisor

    _known(home, options.name)
    Supervisor(home).stop_programs([options.name], timeout_s=30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
