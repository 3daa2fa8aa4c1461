"""Print what pyproject.toml asks for, one requirement a line, with the extras that are named as arguments.

The image installs the dependencies before it has the sources; pip by itself cannot.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = project["dependencies"] + [line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]]
sys.stdout.write("\n".join(wanted) + "\n")
