"""`python benchmarks/compare`: makes this directory a package and calls its command line."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from compare.cli import main  # noqa: E402  # only now is the package found

main()
