"""GGUF files for llama.cpp, by its own converters, where they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from perpcs_cli.errors import PerpcsError, UsageError

CONVERTERS = {"adapter": "convert_lora_to_gguf.py", "merged": "convert_hf_to_gguf.py"}
FILES = {"adapter": "adapter.gguf", "merged": "model.gguf"}
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def find_converter(form: str, checkout: Path | None) -> list[str]:
    """How llama.cpp's converter is called: the one of a checkout, else the one on the PATH.

    Raises UsageError where there is none, with how to get it.
    """
    name = CONVERTERS[form]
    if checkout:
        if not (checkout / name).is_file():
            raise UsageError(f"holds no {name}", where=checkout, hint="Give the directory of a checkout of llama.cpp.")
        return [sys.executable, str((checkout / name).resolve())]
    if found := shutil.which(name):
        return [found]
    raise UsageError(
        f"llama.cpp's {name} is not on the PATH",
        where="--gguf",
        hint="Get it with `git clone https://github.com/ggml-org/llama.cpp`, install its requirements "
        "(llama.cpp/requirements.txt), and give --llama-cpp llama.cpp.",
    )


def convert(call: list[str], form: str, directory: Path, base: Path, dtype: str) -> str:
    """Write the GGUF file of what lies in `directory` beside it; its name. `base`: the base model's directory.

    Raises PerpcsError with what the converter said last where it fails.
    """
    path = directory / FILES[form]
    more = ["--base", str(base)] if form == "adapter" else []
    line = [*call, str(directory), "--outfile", str(path), "--outtype", TYPES[dtype], *more]
    done = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not path.is_file():
        said = [one for one in (done.stderr or done.stdout).splitlines() if one.strip()] or ["nothing"]
        raise PerpcsError(
            f"the converter ended with {done.returncode} and said: {said[-1][:500]}",
            where=call[-1],
            hint="Export without --gguf, and convert the directory by hand to see more.",
        )
    return path.name
