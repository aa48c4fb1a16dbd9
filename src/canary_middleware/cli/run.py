"""
``canary run``: a controller of its own, beside the service or instead of its workers' own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import click

from .._control.controller import Controller
from .session import FINE, verb

if TYPE_CHECKING:
    from .session import Session


@click.command()
@click.option("--once", is_flag=True, help="Look and decide once, then end: for a timer.")
@verb
def run(session: Session, once: bool) -> None:
    """
    Decide for all rollouts of the store, by evidence, until stopped.

    Every worker does so by itself; with CANARY_CONTROLLER=off in the service only this process does. Several may run:
    one leads, the others take over when it ends.
    """
    store = session.control.store
    stopping = threading.Event()
    _on_signals(stopping)
    controller = Controller(
        session.control,
        f"{socket.gethostname()}:{os.getpid()}:run",
        complain=lambda component, error, consequence: session.say("ERROR", f"{component}: {error}; {consequence}"),
        told=lambda rollout, what, why: _tell(session, rollout, what, why),
    )
    session.say("INFO", f"deciding for the rollouts of {store.url}; Ctrl-C ends it")
    was_leading: bool | None = None
    try:
        while True:
            pause_s = controller.round()
            if controller.is_leading != was_leading:
                was_leading = controller.is_leading
                session.say("INFO", _state(leads=was_leading))
            if once or stopping.wait(pause_s):
                break
    finally:
        controller.rest()
    raise SystemExit(FINE)


def _state(*, leads: bool) -> str:
    return "this process decides" if leads else "nothing to decide here: no rollout moves, or another process decides"


def _tell(session: Session, rollout: str, what: str, why: str) -> None:
    if session.as_json:
        click.echo(json.dumps({"rollout": rollout, "verb": what, "reason": why}))
        return
    session.say("WARNING" if what in ("rollback", "hold", "pause") else "SUCCESS", f"{rollout}: {what}: {why}")


def _on_signals(stopping: threading.Event) -> None:
    """End in good order: the lease goes to the next one at once."""

    def stop(_number: int, _frame: Any) -> None:  # Any: the interpreter's frame
        stopping.set()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
