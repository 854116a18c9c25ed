"""Which server embeds the Flask application: what a step costs on each, in turns within one run.

    pip install waitress gunicorn
    python benchmarks/wsgi.py [--rounds 300]

The same application is served by waitress, gunicorn (threads), cheroot as it comes, and ours: cheroot with connections
that know a step's call when they see one (`spliteasy.server.connections`). gunicorn does not run on Windows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

import requests
import torch

import spliteasy as se
from spliteasy.server.process import SETTINGS, server_environment

SERVERS = ("waitress", "gunicorn", "cheroot", "ours")


def main() -> None:
    """Print the table, or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="steps of the tiny network (default: 300)")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], int(options.serve[1]))
        return
    if sys.platform == "linux" and not all(name in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], server_environment())
    torch.set_num_threads(1)
    present = [name for name in SERVERS if name == "ours" or importlib.util.find_spec(name)]
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(running(name, 8800 + i)) for i, name in enumerate(present)}
        compare("tiny", urls, options.rounds, "tiny_network:perceptron", ("2", "4"), (1, 8, 8), 8)
        compare("6.4 MB messages", urls, max(options.rounds // 10, 10), "tiny_network:wide", ("0", "1"), (1, 8, 8), 8)


def compare(
    title: str, urls: dict[str, str], rounds: int, model: str, cuts: tuple[str, ...], shape: tuple[int, ...], batch: int
) -> None:
    """Median milliseconds a step by server."""
    x, y = torch.rand(batch, *shape), torch.arange(batch)
    trainers = {
        name: se.Trainer(se.split(se.load_model(model), cuts, shape), url)
        for name, url in {"in process": None, **urls}.items()
    }
    for _ in range(10 + rounds):
        for trainer in trainers.values():
            trainer.step(x, y)
    for name, trainer in trainers.items():
        taken = [1e3 * record.seconds["total"] for record in trainer.log.records[10:]]
        print(f"{title:16} {name:12}{statistics.median(taken):8.2f} ms", flush=True)
        trainer.close()


@contextlib.contextmanager
def running(name: str, port: int) -> Iterator[str]:
    """The address of a server process."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, __file__, "--serve", name, str(port)])
    try:
        for _ in range(600):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{url}/v1/health", timeout=10).raise_for_status()
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise RuntimeError(f"{name} ended with {process.wait(0.1)}")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def serve(name: str, port: int) -> None:
    """Serve the application."""
    from spliteasy.server.app import create_app
    from spliteasy.server.process import serve as serve_ours
    from spliteasy.server.sessions import Sessions

    allow = ["tiny_network:perceptron", "tiny_network:wide"]
    if name == "ours":
        serve_ours(port=port, threads=1, allow=allow)
        return
    if name == "gunicorn":
        from gunicorn.app.base import BaseApplication

        class Application(BaseApplication):  # type: ignore[misc]
            def load_config(self) -> None:
                self.cfg.set("bind", f"127.0.0.1:{port}")
                self.cfg.set("worker_class", "gthread")
                self.cfg.set("threads", 20)
                self.cfg.set("keepalive", 60)

            def load(self) -> object:
                return create_app(Sessions(threads=1, allow=allow))

        sys.argv = sys.argv[:1]
        Application().run()
        return
    app = create_app(Sessions(threads=1, allow=allow))
    if name == "waitress":
        import waitress

        waitress.serve(app, host="127.0.0.1", port=port, threads=20, max_request_body_size=1 << 34)
    else:
        from cheroot.wsgi import Server

        server = Server(("127.0.0.1", port), app, numthreads=20)
        server.nodelay = True
        server.start()


if __name__ == "__main__":
    main()
