"""A broker and workers on ipc, as somebody would start them by hand; for the tests that are about them."""
import signal


class Cluster:
    def __init__(self, bench):
        self.bench, self.endpoint = bench, "ipc://" + bench.path("broker.sock")
        self.workers = []
        self.start_broker()

    def start_broker(self):
        ledger = self.bench.path("ledger.db")
        self.broker = self.bench.start([self.bench.broker, "--listen", self.endpoint, "--ledger", ledger], "broker")

    def add_worker(self, name, *more):
        argv = [self.bench.worker, "--broker", self.endpoint, "-m", self.bench.model(), "--name", name, *more]
        worker = self.bench.start(argv, name)
        self.workers.append(worker)
        return worker

    def client(self, command, *arguments, code=0, timeout=300):
        argv = [self.bench.octoflow, command, "--broker", self.endpoint, *arguments]
        return self.bench.run(*argv, code=code, name=command, timeout=timeout)

    def stop(self):
        for process in [*self.workers, self.broker]:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                self.bench.same(self.bench.finish(process, 60)[0], 0, f"{process.name}: exit code after SIGTERM")
