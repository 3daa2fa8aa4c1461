"""From a topic or a file to a configuration: looks at records and proposes what each field is used for."""

from stream_ad.proposing.command import Request, init

__all__ = ["Request", "init"]
