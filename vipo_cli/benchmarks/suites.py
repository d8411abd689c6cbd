"""The benchmarks of clips by dimensions, which have commands of their own."""

from collections.abc import Mapping

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.benchmarks.vbench_suite import Suite

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (VBENCH, VBENCH2)}
