"""Parses the tracked files that no compiler reads, and says which cannot be parsed."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path


def shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip())


PARSERS = {".json": json.loads, ".lock": tomllib.loads, ".toml": tomllib.loads, ".py": ast.parse, ".sh": shell}
INTERPRETERS = {"python3": ast.parse, "bash": shell, "sh": shell}


def parser(path: Path, text: str):
    """By the name, else by the first line."""
    if path.suffix or not text.startswith("#!"):
        return PARSERS.get(path.suffix)
    return INTERPRETERS.get(text.split("\n", 1)[0].replace("/", " ").split()[-1])


checked, bad = 0, 0
for name in subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout.split("\0"):
    path = Path(name)
    if not name or not path.is_file() or path.is_symlink():
        continue
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        continue
    parse = parser(path, text)
    if parse is None:
        continue
    checked += 1
    try:
        parse(text)
    except (SyntaxError, ValueError) as error:
        bad += 1
        print(f"{name}: {error}")
print(f"{checked} files, {bad} bad")
sys.exit(bool(bad))
