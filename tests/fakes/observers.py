"""Who is told how a run goes, in tests."""

from ffcore.training.loop import Report


class Listens:
    """An observer that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def report(self, report: Report) -> None:
        pass

    def progress(self, what: str, done: int, total: int) -> None:
        pass
