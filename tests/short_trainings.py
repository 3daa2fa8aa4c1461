"""The command `stream-ad`, with trainings that are short: tests of the worker as a process wait for each of them."""

from stream_ad.cli import main
from stream_ad.learning import learner
from tests.running import SHORT

learner.Recipe = lambda: SHORT  # type: ignore[assignment, misc]  # stands in for the class

if __name__ == "__main__":
    main()
