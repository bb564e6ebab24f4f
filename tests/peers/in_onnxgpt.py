"""Runs onnxgpt's command line in an environment of the peers, where it is not installed.

in_onnxgpt.py SITE ARGUMENTS …    SITE is a directory that holds onnxgpt
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    from onnxgpt.cli import main

    main(sys.argv[2:])
