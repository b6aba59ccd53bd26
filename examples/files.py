"""Serve the files of one folder: list them, look at them, read them, follow them as they grow.

    ZMDP_FILES_ROOT=/srv/files zmdp worker examples.files

    zmdp call files.list
    zmdp call files.stat '{"path": "photo.jpg"}'
    zmdp stream files.read '{"path": "photo.jpg"}' > copy.jpg
    zmdp stream files.tail '{"path": "server.log"}'
    zmdp call files.content '{"path": "notes.txt"}'

The last one gives a whole text at once, as the file servers of many a Node tutorial do: see the folder files/ beside
this file.

Four of the services are plain functions and generators: the worker runs them in threads, so that neither a slow
disk nor a checksum holds up the event loop.  `files.tail` spends its life waiting, so it is async and costs no thread.
`zmdp demo` runs on these services too.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import os
import stat
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import trio

from zmdp_trio import Code, Final, Service, ServiceError, SyncRequest, service

#: Bytes in one partial reply of `files.read` and `files.tail`.
CHUNK = 256 * 1024

#: Bytes in the largest file that `files.content` gives.
LARGEST = 16 * 1024 * 1024

Natural = Annotated[int, msgspec.Meta(ge=0)]


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What to list."""

    #: A folder, relative to the root.
    path: str = "."
    #: Names up to and including this one are left out: the last name of the page before.
    after: str = ""
    #: Names in one reply.
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000


class Entry(msgspec.Struct):
    """One name in a folder."""

    name: str
    #: `file`, `folder`, `link`, or `other`; a link is not followed, as it may lead out of the root.
    kind: str
    #: Bytes.
    size: int
    #: Seconds since 1970.
    mtime: float


class Listing(msgspec.Struct):
    """Entries in the order of their names, and whether there are more."""

    entries: list[Entry]
    more: bool


class StatQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which file to look at; `sha256=False` saves reading it."""

    path: str
    sha256: bool = True


class FileStat(msgspec.Struct):
    """A file, and the worker process that looked at it."""

    name: str
    size: int
    mtime: float
    pid: int
    sha256: str | None


class ReadQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which bytes of which file; without `length`, all up to the end as it is now."""

    path: str
    offset: Natural = 0
    length: Natural | None = None


class Sent(msgspec.Struct):
    """The final reply of `files.read` and `files.tail`."""

    #: Bytes sent in all the chunks together.
    bytes: int
    #: Size of the file in bytes when it was opened.
    size: int


class TailQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which file to follow, and from where: by default from its end, so that only what is new comes."""

    path: str
    offset: Natural | None = None
    #: Seconds between two looks at a file that does not grow.
    poll: Annotated[float, msgspec.Meta(ge=0.01, le=60)] = 0.2


class ContentQuery(msgspec.Struct):
    """Which file to give whole."""

    path: str


class Content(msgspec.Struct):
    """A file as text, and the worker process that read it, as Node programs tell it."""

    #: UTF-8; bytes that are none are replaced.
    content: str
    #: Milliseconds since 1970.
    timestamp: int
    pid: int


class Folder:
    """A root, and safe ways to the files below it."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).resolve(strict=True)
        if not self.root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(root))

    def locate(self, path: str) -> Path:
        """Resolve a path, with all its `..` and symbolic links, and refuse it if it leads out of the root."""
        with _refusals(path):
            found = (self.root / path).resolve()
        if not found.is_relative_to(self.root):
            raise _refusal(Code.PERMISSION_DENIED, path, "is outside the served folder")
        return found

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading."""
        found = self.locate(path)
        with _refusals(path):
            mode = found.stat().st_mode
            if stat.S_ISDIR(mode):
                raise _refusal(Code.INVALID_ARGUMENT, path, "is a folder, not a file")
            if not stat.S_ISREG(mode):
                raise _refusal(Code.INVALID_ARGUMENT, path, "is not a regular file")
            return open(found, "rb", buffering=0, opener=_open_exactly)

    def page(self, query: ListQuery) -> Listing:
        """Read one page of a folder, without holding more than that page in memory."""
        found = self.locate(query.path)
        with _refusals(query.path), os.scandir(found) as entries:
            rest = (entry for entry in entries if _text(entry.name) > query.after)
            page = heapq.nsmallest(query.limit + 1, rest, key=lambda entry: _text(entry.name))
            shown = [_describe(entry) for entry in page[: query.limit]]
        return Listing(shown, more=len(page) > query.limit)


def file_services(root: str | os.PathLike[str]) -> list[Service[..., Any]]:
    """Make the services for the files below `root`.

    Raises:
        OSError: `root` does not exist, or is not a folder.
    """
    folder = Folder(root)

    @service("files.list")
    def list_files(query: ListQuery | None = None) -> Listing:
        return folder.page(query or ListQuery())

    @service("files.stat")
    def stat_file(query: StatQuery, request: SyncRequest) -> FileStat:
        with folder.open(query.path) as file:
            info = os.fstat(file.fileno())
            digest = _sha256(file, request) if query.sha256 else None
        name = Path(query.path).name
        return FileStat(name=name, size=info.st_size, mtime=info.st_mtime, pid=os.getpid(), sha256=digest)

    @service("files.read")
    def read_file(query: ReadQuery) -> Generator[bytes, None, Sent]:
        with folder.open(query.path) as file:
            size = _start_at(file, query.path, query.offset)
            left = size - query.offset if query.length is None else min(query.length, size - query.offset)
            sent = 0
            while sent < left and (chunk := file.read(min(CHUNK, left - sent))):
                sent += len(chunk)
                yield chunk
        return Sent(bytes=sent, size=size)

    @service("files.tail")
    async def tail_file(query: TailQuery) -> AsyncIterator[bytes | Final[Sent]]:
        with await trio.to_thread.run_sync(folder.open, query.path) as file:
            size = _start_at(file, query.path, query.offset)
            sent = 0
            while (chunk := await trio.to_thread.run_sync(_read_more, file)) is not None:
                if chunk:
                    sent += len(chunk)
                    yield chunk
                else:
                    await trio.sleep(query.poll)
        yield Final(Sent(bytes=sent, size=size))

    @service("files.content")
    def give_content(query: ContentQuery) -> Content:
        with folder.open(query.path) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"".join(iter(lambda: file.read(CHUNK), b"")) if size <= LARGEST else None
        if content is None:
            message = f"{query.path!r} has {size} bytes, more than {LARGEST}; files.read gives files of any size"
            raise ServiceError(Code.INVALID_ARGUMENT, message, {"path": query.path, "size": size})
        return Content(content.decode(errors="replace"), time.time_ns() // 1_000_000, os.getpid())

    return [list_files, stat_file, read_file, tail_file, give_content]


def _start_at(file: BinaryIO, path: str, offset: int | None) -> int:
    """Go to `offset`, or to the end for None, and return the file's size."""
    size = os.fstat(file.fileno()).st_size
    if offset is not None and offset > size:
        message = f"{path!r} has {size} bytes, so it can't be read from offset {offset}"
        raise ServiceError(Code.INVALID_ARGUMENT, message, {"path": path, "offset": offset, "size": size})
    file.seek(size if offset is None else offset)
    return size


def _read_more(file: BinaryIO) -> bytes | None:
    """Read what was added: nothing yet, or None when the file was deleted.  One that was cut short starts anew."""
    info = os.fstat(file.fileno())
    if info.st_size < file.tell():
        file.seek(0)
    return file.read(CHUNK) or (b"" if info.st_nlink else None)


def _sha256(file: BinaryIO, request: SyncRequest) -> str:
    digest = hashlib.sha256()
    # Nobody waits for the checksum of a request that is no longer active: its reply goes nowhere.
    while request.active and (chunk := file.read(CHUNK)):
        digest.update(chunk)
    return digest.hexdigest()


def _describe(entry: os.DirEntry[str]) -> Entry:
    info = entry.stat(follow_symlinks=False)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
    return Entry(name=_text(entry.name), kind=kind, size=info.st_size, mtime=info.st_mtime)


def _text(name: str) -> str:
    """Make a name that is not valid UTF-8 on disk fit to be sent."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _open_exactly(path: str, flags: int) -> int:
    """Open what was looked at a moment ago: not a link, nor a pipe to wait at, put in its place since."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


#: How an error of the operating system reads to the caller; any other is INTERNAL.
_REFUSALS = {
    errno.ENOENT: (Code.NOT_FOUND, "does not exist"),
    errno.ENOTDIR: (Code.NOT_FOUND, "does not lead through folders"),
    errno.EACCES: (Code.PERMISSION_DENIED, "may not be read by the worker"),
    errno.EPERM: (Code.PERMISSION_DENIED, "may not be read by the worker"),
    errno.ELOOP: (Code.INVALID_ARGUMENT, "is a symbolic link that can't be followed"),
    errno.ENAMETOOLONG: (Code.INVALID_ARGUMENT, "is too long"),
}


@contextmanager
def _refusals(path: str) -> Iterator[None]:
    """Turn what the operating system says of a path into an error for the caller."""
    try:
        yield
    except OSError as error:
        code, what = _REFUSALS.get(error.errno or 0, (Code.INTERNAL, "can't be read"))
        raise _refusal(code, path, what) from error
    except (ValueError, RuntimeError) as error:  # a NUL in the path; a loop of links, until Python 3.12
        raise _refusal(Code.INVALID_ARGUMENT, path, "is not a usable path") from error


def _refusal(code: Code, path: str, what: str) -> ServiceError:
    shown = path if len(path) <= 200 else path[:200] + "..."
    return ServiceError(code, f"{shown!r} {what}", {"path": shown})


#: What `zmdp worker examples.files` offers.
SERVICES = file_services(os.environ.get("ZMDP_FILES_ROOT", "."))
