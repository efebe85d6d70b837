"""What may stand between a client and its server: a relay that changes what the server says."""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.postgres import Server, free_port
from support.workers import SERVICES, wait_until


@contextlib.contextmanager
def relay(server: Server, change: Callable[[bytes], bytes]) -> Iterator[int]:
    """A relay on a port of its own; `change` is given each piece of what the server says."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(listener, selectors.EVENT_READ)
        over = threading.Event()
        thread = threading.Thread(target=_pass_on, args=(listener, selector, server, change, over, stack))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join()


def _pass_on(
    listener: socket.socket,
    selector: selectors.BaseSelector,
    server: Server,
    change: Callable[[bytes], bytes],
    over: threading.Event,
    stack: contextlib.ExitStack,
) -> None:
    while not over.is_set():
        for key, _ in selector.select(0.02):
            if key.fileobj is listener:
                client = stack.enter_context(listener.accept()[0])
                backend = stack.enter_context(socket.create_connection((server.host, server.port)))
                selector.register(client, selectors.EVENT_READ, (backend, None))
                selector.register(backend, selectors.EVENT_READ, (client, change))
                continue
            source, (target, changed) = key.fileobj, key.data
            assert isinstance(source, socket.socket)
            with contextlib.suppress(OSError):
                if data := source.recv(65536):
                    target.sendall(changed(data) if changed else data)
                    continue
                target.shutdown(socket.SHUT_WR)
            selector.unregister(source)


@contextlib.contextmanager
def pgbouncer(server: Server, folder: Path, mode: str) -> Iterator[int]:
    """A real PgBouncer in front of a server, in a pool mode; the port that it listens on."""
    port = free_port()
    folder.chmod(0o755)
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\nlocks = host=127.0.0.1 port={server.port} dbname=locks\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nauth_file = {folder}/users\n"
        f"pool_mode = {mode}\nunix_socket_dir =\nmax_client_conn = 20\n"
    )
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    process = subprocess.Popen(
        [program, folder / "ini"], user=server.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    SERVICES.add(process.pid)
    try:
        wait_until(lambda: _listens(port), "a PgBouncer that listens")
        yield port
    finally:
        process.kill()
        process.wait()
        SERVICES.discard(process.pid)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
