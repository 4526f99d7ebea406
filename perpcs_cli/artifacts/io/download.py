"""Large files from a server: what is there already is not asked for again, and a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import msgspec

from perpcs_cli import __version__
from perpcs_cli.artifacts.io import atomic, limits, typed_files
from perpcs_cli.errors import PerpcsError, UsageError

BLOCK = 1 << 18
TRIES = 5
"""How often the rest is asked for again where a connection breaks, before giving up."""
WAIT_SECONDS = 1.0
"""Before the second try; doubled each time."""
TIMEOUT_SECONDS = 30.0


MEGABYTE = 1_000_000


class Bar(Protocol):
    """How far a download has come."""

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Go on by so many megabytes."""


Progress = Callable[[str, int], AbstractContextManager[Bar]]
"""Something of a label and so many megabytes begins."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.part/1"):
    """Beside the beginning of a file: where the rest is, and which version of it this is the beginning of."""

    url: str
    validator: str


def check_url(url: str, flag: str) -> None:
    """Raise UsageError for an address that is not on a web server: no file of this machine is fetched."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"is no address of a web server: {url!r:.100}", where=flag, hint="It begins with https://.")


def download(url: str, target: Path, *, note: Callable[[str], None], progress: Progress) -> str:
    """Put what is at `url` into the file `target`, and return its SHA-256.

    The beginning that an earlier run has left, `.NAME.part`, is not asked for again where the server says that the
    file is still the same. Raises PerpcsError where the server does not give it; what has come stays for the next run.
    """
    part = target.parent / f".{target.name}.part"
    card = target.parent / f".{target.name}.part.json"
    with atomic.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    for number in range(TRIES):
        try:
            _rest(url, part, card, progress)
            break
        except urllib.error.HTTPError as error:
            hint = "Look at the address, or give another server with --base-url." if error.code == 404 else None
            raise PerpcsError(f"the server says {error.code} {error.reason}", where=url, hint=hint) from None
        except (OSError, http.client.HTTPException, _Broken) as error:
            reason = getattr(error, "reason", None) or error
            if number == TRIES - 1:
                come = part.stat().st_size if part.exists() else 0
                hint = f"The same command goes on after {come:,} bytes." if come else "Is the network there?"
                raise PerpcsError(f"cannot be downloaded: {reason}", where=url, hint=hint) from None
            note(f"{target.name}: {reason}; trying again")
            time.sleep(WAIT_SECONDS * 2**number)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with atomic.writing(target):
        part.replace(target)
        card.unlink(missing_ok=True)
    return digest


def _rest(url: str, part: Path, card: Path, progress: Progress) -> None:
    """Let what is missing of a file come. Raises OSError where the connection ends before the file does."""
    come, validator = _beginning(url, part, card)
    headers = {"User-Agent": f"perpcs/{__version__}", "Accept-Encoding": "identity"}
    if come:
        headers |= {"Range": f"bytes={come}-", "If-Range": validator}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()
        raise ConnectionError("the file on the server has become shorter") from None
    with answer:
        if "text/html" in answer.headers.get("Content-Type", ""):
            hint = "Look at the address, or give another server with --base-url."
            raise PerpcsError("the server answers with a page instead of the file", where=url, hint=hint)
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            come = 0
            typed_files.write_json(card, _Part(url=url, validator=answer.headers.get("ETag", "")))
        length = answer.headers.get("Content-Length", "")
        size = come + int(length) if length.isdecimal() else 0
        label = part.name.removeprefix(".").removesuffix(".part")
        with (
            progress(f"{label} (MB)", size // MEGABYTE) as bar,
            atomic.writing(part),
            part.open("ab" if come else "wb") as file,
        ):
            bar.advance(come // MEGABYTE)
            while block := _block(answer):
                file.write(block)
                before, come = come, come + len(block)
                if come > limits.DATA_BYTES:
                    raise PerpcsError(f"is larger than {limits.DATA_BYTES >> 20} MiB, the most that is read", where=url)
                bar.advance(come // MEGABYTE - before // MEGABYTE)
    if size and come < size:
        raise ConnectionError(f"the connection ended after {come:,} of {size:,} bytes")


def _beginning(url: str, part: Path, card: Path) -> tuple[int, str]:
    """(the bytes of a file that are there already and can be gone on with, the server's tag of its version).

    A weak tag may be the same for other bytes.
    """
    with contextlib.suppress(PerpcsError):
        found = typed_files.read_json(card, _Part)
        if found.url == url and found.validator.startswith('"') and part.is_file():
            return part.stat().st_size, found.validator
    return 0, ""


class _Broken(Exception):
    """The connection, and not the disk."""


def _block(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes. What a connection raises is kept apart from what writing raises."""
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from error
