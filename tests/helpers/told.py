"""A monitor that keeps what it is told."""

from hgsp_core.runtime.monitor import LogMonitor


class Told(LogMonitor):
    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)
