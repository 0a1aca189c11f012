"""The files of a fake container: a workspace and a /tmp of limited size, in memory; everything else is read-only."""

from __future__ import annotations

import io
import posixpath
import tarfile
import time
from dataclasses import dataclass

_BLOCK = 4096
_TAR_BLOCK = 512


class FileProblem(Exception):
    """What a system call would have said; the text is strerror's."""


@dataclass(slots=True)
class FakeFile:
    """A file's bytes and its permission bits."""

    data: bytearray
    mode: int = 0o644


class Files:
    """Folders and files by absolute path."""

    def __init__(self, workspace: str, shared_folder: str, *, size_mib: int, inodes: int) -> None:
        self.files: dict[str, FakeFile] = {}
        self.folders = {"/", "/bin", "/dev", "/etc", "/proc", "/sys", "/tmp", "/usr", "/var", workspace}
        self._workspace = workspace
        self._writable = (*([shared_folder] if shared_folder else []), workspace, "/tmp")
        self.folders.update(self._writable)
        self._room = dict.fromkeys(self._writable, size_mib * 2**20)
        self._inodes = dict.fromkeys(self._writable, inodes - 1)

    def read(self, path: str) -> bytearray:
        """A file's content; it grows under the reader's hands."""
        if path in self.folders:
            raise FileProblem("Is a directory")
        if path not in self.files:
            raise FileProblem("No such file or directory")
        return self.files[path].data

    def create(self, path: str, mode: int = 0o644) -> FakeFile:
        """An empty file, also in place of an old one."""
        if path in self.folders:
            raise FileProblem("Is a directory")
        root = self._root(path)
        if path in self.files:
            file = self.files[path]
            self._room[root] += _blocks(len(file.data))
            file.data = bytearray()
            return file
        self._need_folder(posixpath.dirname(path))
        self._take_inode(root)
        self.files[path] = FakeFile(bytearray(), mode)
        return self.files[path]

    def append(self, path: str, data: bytes) -> None:
        """Write at the end. As much as fits is written before FileProblem says that the room is used up."""
        file, root = self.files.get(path), self._root(path)
        if file is None:
            return  # removed while it was open
        spare = -len(file.data) % _BLOCK + self._room[root]
        before = _blocks(len(file.data))
        file.data += data[:spare]
        self._room[root] -= _blocks(len(file.data)) - before
        if len(data) > spare:
            raise FileProblem("No space left on device")

    def make_folder(self, path: str, *, parents: bool) -> None:
        if path in self.folders and parents:
            return
        if path in self.folders or path in self.files:
            raise FileProblem("File exists")
        above = posixpath.dirname(path)
        if parents and above not in self.folders:
            self.make_folder(above, parents=True)
        root = self._root(path)
        self._need_folder(above)
        self._take_inode(root)
        self.folders.add(path)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        root = self._root(path)
        if path not in self.files and path not in self.folders:
            raise FileProblem("No such file or directory")
        for name in [name for name in self.files if name == path or name.startswith(path + "/")]:
            self._room[root] += _blocks(len(self.files.pop(name).data))
            self._inodes[root] += 1
        gone = {name for name in self.folders if name == path or name.startswith(path + "/")}
        self.folders -= gone
        self._inodes[root] += len(gone)

    def children(self, folder: str) -> list[str]:
        """The names in a folder."""
        return sorted(
            posixpath.basename(path)
            for path in (*self.files, *self.folders)
            if path != "/" and posixpath.dirname(path) == folder
        )

    def unpack(self, tar: bytes) -> None:
        """Unpack a tar into the workspace; raises FileProblem where tar(1) would give up."""
        at = 0
        long_name = ""
        while True:
            header = tar[at : at + _TAR_BLOCK]
            if len(header) < _TAR_BLOCK:
                raise FileProblem("short read")
            if header.count(0) == _TAR_BLOCK:
                return
            size = _number(header[124:136])
            content = tar[at + _TAR_BLOCK : at + _TAR_BLOCK + size]
            at += _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK
            if len(content) < size:
                raise FileProblem("short read")
            if header[156:157] == b"L":
                long_name = _text(content)
                continue
            self._unpack_member(long_name or _text(header[:100]), header, content)
            long_name = ""

    def packed(self, path: str) -> bytes:
        """A tar of a file or folder as an engine's archive call gives it: the path's last name on top."""
        if path not in self.files and path not in self.folders:
            raise FileProblem("No such file or directory")
        out = io.BytesIO()
        above = posixpath.dirname(path)
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
            for name in sorted((*self.folders, *self.files)):
                if name == path or name.startswith(path.rstrip("/") + "/"):
                    self._pack(tar, name, posixpath.relpath(name, above))
        return out.getvalue()

    def _pack(self, tar: tarfile.TarFile, path: str, name: str) -> None:
        member = tarfile.TarInfo(name)
        member.uid = member.gid = 65534
        member.mtime = int(time.time())
        if path in self.folders:
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
            return
        file = self.files[path]
        member.size, member.mode = len(file.data), file.mode
        tar.addfile(member, io.BytesIO(file.data))

    def _unpack_member(self, name: str, header: bytes, content: bytes) -> None:
        path = posixpath.normpath(posixpath.join(self._workspace, name.lstrip("/")))
        if header[156:157] == b"5":
            self.make_folder(path, parents=True)
            return
        above = posixpath.dirname(path)
        if above not in self.folders:
            self.make_folder(above, parents=True)
        file = self.create(path, _number(header[100:108]))
        file.mode = _number(header[100:108])
        self.append(path, content)

    def _need_folder(self, path: str) -> None:
        if path in self.files:
            raise FileProblem("Not a directory")
        if path not in self.folders:
            raise FileProblem("No such file or directory")

    def _root(self, path: str) -> str:
        for root in self._writable:
            if path.startswith(root + "/"):
                return root
        raise FileProblem("Read-only file system")

    def _take_inode(self, root: str) -> None:
        if self._inodes[root] <= 0:
            raise FileProblem("No space left on device")
        self._inodes[root] -= 1


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _number(field: bytes) -> int:
    """A tar header's octal number."""
    digits = field.strip(b" \0")
    return int(digits, 8) if digits else 0


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
