"""The results of `onnxgpt generate --batch`: a JSON Lines file that outlives interruptions.

Each completion is a line, and those of one prompt are written at once, as soon as they are there: so a run that was
killed leaves whole results and at most one torn end. `ResultFile.open` keeps the results, drops the torn end and what
failed, and refuses a file whose results belong to other requests. `finish` puts all into the order of the input.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runtime.errors import OnnxGptError, OutputExistsError

_BEGINNING = b'{"line": '  # of each line that is written here
_OPENING = os.O_RDWR | getattr(os, "O_BINARY", 0)  # Windows would change line ends without it


@dataclass(frozen=True)
class _Span:
    """Where the results of one line of the input are: byte offset and length."""

    start: int
    length: int


class ResultFile:
    """Results by the number of the input's line that they answer. One process writes; also a context manager."""

    def __init__(self, path: Path, descriptor: int):
        self.path = path
        self.seeds: dict[int, int | None] = {}  # of the results that were there already
        self._descriptor = descriptor
        self._spans: dict[int, _Span] = {}
        self._size = 0
        self._is_ordered = True

    @classmethod
    def open(
        cls, path: Path, requests: Mapping[int, str], sequences_of: Callable[[int], int], *, force: bool = False
    ) -> ResultFile:
        """Begin a file, or go on with one.

        Args:
            path: the file; a symbolic link is followed.
            requests: of each line of the input the digest of what it asks for.
            sequences_of: how many completions a line of the input asks for.
            force: forget what the file holds.

        Raises:
            OutputExistsError: it holds something else than results of these requests, or another process writes it.
            OnnxGptError: it can't be opened or written.
        """
        path = Path(os.path.realpath(path))
        try:
            descriptor = os.open(path, _OPENING | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise _unwritable(path, error) from error
        file = cls(path, descriptor)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OnnxGptError(f"{path} is no file that can be gone on with: expected a plain file for results")
            _lock(descriptor, path)
            if force:
                os.ftruncate(descriptor, 0)
            elif file._read(requests, sequences_of):
                file._rewrite(file._spans)
        except BaseException:
            file.close()
            raise
        return file

    @property
    def done(self) -> frozenset[int]:
        """The numbers of the input's lines whose results are here."""
        return frozenset(self._spans)

    def append(self, line: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the results of a line of the input, as one piece.

        Raises:
            OnnxGptError: they can't be written; what was there before still is.
        """
        data = b"".join(_encode({"line": line, **record}) for record in records)
        start = self._size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, start)
            raise _unwritable(self.path, error) from error
        self._is_ordered = self._is_ordered and line > max(self._spans, default=0)
        self._spans[line] = _Span(start, len(data))
        self._size += len(data)

    def finish(self) -> None:
        """Put the results into the order of the input, once all are there.

        Raises:
            OnnxGptError: there is no room for a second file; the results stay in the order in which they came.
        """
        if not self._is_ordered:
            self._rewrite(sorted(self._spans))
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close and unlock the file. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Going on

    def _read(self, requests: Mapping[int, str], sequences_of: Callable[[int], int]) -> bool:
        """Find the results that are there; whether something has to be dropped."""
        drops, counts, last = False, dict[int, int](), 0
        with open(self._descriptor, "rb", closefd=False) as stream:
            for number, data in enumerate(stream, start=1):
                start, self._size = self._size, self._size + len(data)
                if not data.endswith(b"\n"):
                    self._require_torn(data, number)
                    drops = True
                    break
                record = self._parse(data, number)
                line = record["line"]
                if "error" in record:
                    drops = True
                    continue
                if requests.get(line) != record["request"] or (line != last and line in self._spans):
                    raise OutputExistsError(
                        f"{self.path} has results of another input, model or other options (its line {number}): "
                        "expected those of this command; give them again, another --out, or --force to begin anew"
                    )
                self._is_ordered = self._is_ordered and line >= last
                first = self._spans.get(line, _Span(start, 0))
                self._spans[line] = _Span(first.start, self._size - first.start)
                counts[line] = counts.get(line, 0) + 1
                last = line
                self.seeds[line] = record.get("seed")
        if last and counts[last] < sequences_of(last):  # a prompt's completions are one piece: only the last can tear
            del self._spans[last]
            drops = True
        return drops

    def _parse(self, data: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(data)
            if isinstance(record["line"], int) and isinstance(record["request"], str):
                return dict(record)
        except (ValueError, KeyError, TypeError):
            pass
        raise self._foreign(number)

    def _require_torn(self, data: bytes, number: int) -> None:
        """Refuse an end that is not the beginning of a result; a crash of the machine may leave zeros behind it."""
        beginning = data.rstrip(b"\0")[: len(_BEGINNING)]
        if not _BEGINNING.startswith(beginning):
            raise self._foreign(number)

    def _foreign(self, number: int) -> OutputExistsError:
        return OutputExistsError(
            f"{self.path} is there, and its line {number} is no result of generate --batch: "
            "give another --out, or --force to replace the file"
        )

    def _rewrite(self, lines: Iterable[int]) -> None:
        """Write the results of some lines in this order into a new file, which takes the place of the old one."""
        spans: dict[int, _Span] = {}
        size = 0
        copy = self.path.with_name(f".{self.path.name}.tmp")  # one name: what a killed run leaves is overwritten
        try:
            with open(copy, "wb") as new, open(self.path, "rb") as old:
                for line in lines:
                    old.seek(self._spans[line].start)
                    spans[line] = _Span(size, new.write(old.read(self._spans[line].length)))
                    size += spans[line].length
                new.flush()
                os.fsync(new.fileno())
            os.chmod(copy, stat.S_IMODE(os.fstat(self._descriptor).st_mode))
            self.close()  # a file that is open can't be replaced on Windows
            os.replace(copy, self.path)
            self._descriptor = os.open(self.path, _OPENING | os.O_APPEND)
        except OSError as error:
            with suppress(OSError):
                copy.unlink()
            raise _unwritable(self.path, error) from error
        _lock(self._descriptor, self.path)
        self._spans, self._size = spans, size
        self._is_ordered = list(spans) == sorted(spans)


def _encode(record: Mapping[str, Any]) -> bytes:
    # Texts may hold half a surrogate pair, which JSON can write and UTF-8 can't.
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", errors="replace")


def _unwritable(path: Path, error: OSError) -> OnnxGptError:
    return OnnxGptError(
        f"{path} can't be written ({error.strerror}): make that possible, and run the same command again; "
        "it goes on from what is there"
    )


def _lock(descriptor: int, path: Path) -> None:
    """Refuse a file that another process writes, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputExistsError(
            f"{path} is being written by another process: wait for its end, or give another --out"
        ) from error
