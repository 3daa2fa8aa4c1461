"""The demo: the real worker on a simulated plant, no broker needed, and at the end how well it did."""

from stream_ad.demo.running import run_demo

__all__ = ["run_demo"]
