"""The files of a fake container: a workspace, a /tmp and volumes of limited size, in memory; everything else is read-only."""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import posixpath
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_BLOCK = 4096


class FileProblem(Exception):
    """What a system call would have said; the text is strerror's."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@dataclass(slots=True)
class FakeFile:
    """A file's bytes and its permission bits."""

    data: bytearray
    mode: int = 0o644
    mtime_s: int = 0  # since 1970


@dataclass(slots=True)
class Tree:
    """One place that can be written to: what is in it, by absolute path, and what it can still hold."""

    root: str
    room: int  # bytes
    inodes: int
    files: dict[str, FakeFile] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)  # its root is not among them


class Files:
    """Folders and files by absolute path."""

    def __init__(
        self, workspace: str, shared_folder: str, *, size_mib: int, inodes: int, volumes: Iterable[tuple[Tree, bool]] = ()
    ) -> None:
        """``volumes``: places that other containers may have too, and whether each is read-only here."""
        volumes = tuple(volumes)
        places = (*([shared_folder] if shared_folder else []), workspace, "/tmp")
        own = [Tree(root=place, room=size_mib * 2**20, inodes=inodes - 1) for place in places]
        self._workspace = workspace
        self._trees = (*own, *(tree for tree, _ in volumes))
        self._read_only = {tree.root for tree, read_only in volumes if read_only}
        self._fixed = {"/", "/bin", "/dev", "/etc", "/proc", "/sys", "/usr", "/var"}
        for tree in self._trees:
            self._fixed.update((tree.root, posixpath.dirname(tree.root)))

    def find(self, path: str) -> FakeFile | None:
        """The file of that path."""
        tree = self._tree(path)
        return None if tree is None else tree.files.get(path)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder of that path."""
        tree = self._tree(path)
        return path in self._fixed or (tree is not None and path in tree.folders)

    def exists(self, path: str) -> bool:
        """Whether there is anything of that path."""
        return self.find(path) is not None or self.is_folder(path)

    def size(self) -> int:
        """Bytes in all files that can be written."""
        mine = (tree for tree in self._trees if tree.root not in self._read_only)
        return sum(len(file.data) for tree in mine for file in tree.files.values())

    def read(self, path: str) -> bytearray:
        """A file's content; it grows under the reader's hands."""
        if self.is_folder(path):
            raise FileProblem(errno.EISDIR)
        file = self.find(path)
        if file is None:
            raise FileProblem(errno.ENOENT)
        return file.data

    def create(self, path: str, mode: int = 0o644) -> FakeFile:
        """An empty file, also in place of an old one."""
        if self.is_folder(path):
            raise FileProblem(errno.EISDIR)
        tree = self._writable(path)
        if path in tree.files:
            file = tree.files[path]
            tree.room += _blocks(len(file.data))
            file.data = bytearray()
            return file
        self._need_folder(posixpath.dirname(path))
        _take_inode(tree)
        tree.files[path] = FakeFile(bytearray(), mode)
        return tree.files[path]

    def put(self, path: str, data: bytes, mode: int) -> FakeFile:
        """A file, in place of whatever had that path; the folders on its way are made."""
        if self.exists(path):
            self.remove(path)
        above = posixpath.dirname(path)
        if not self.is_folder(above):
            self.make_folder(above, parents=True)
        file = self.create(path, mode)
        file.mtime_s = int(time.time())
        self.append(path, data)
        return file

    def append(self, path: str, data: bytes) -> None:
        """Write at the end. As much as fits is written before FileProblem says that the room is used up."""
        tree = self._writable(path)
        file = tree.files.get(path)
        if file is None:
            return  # removed while it was open
        spare = -len(file.data) % _BLOCK + tree.room
        before = _blocks(len(file.data))
        file.data += data[:spare]
        tree.room -= _blocks(len(file.data)) - before
        if len(data) > spare:
            raise FileProblem(errno.ENOSPC)

    def make_folder(self, path: str, *, parents: bool) -> None:
        if self.is_folder(path) and parents:
            return
        if self.exists(path):
            raise FileProblem(errno.EEXIST)
        above = posixpath.dirname(path)
        if parents and not self.is_folder(above):
            self.make_folder(above, parents=True)
        tree = self._writable(path)
        self._need_folder(above)
        _take_inode(tree)
        tree.folders.add(path)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        tree = self._writable(path)
        if not self.exists(path):
            raise FileProblem(errno.ENOENT)
        for name in [name for name in tree.files if name == path or name.startswith(path + "/")]:
            tree.room += _blocks(len(tree.files.pop(name).data))
            tree.inodes += 1
        gone = {name for name in tree.folders if name == path or name.startswith(path + "/")}
        tree.folders -= gone
        tree.inodes += len(gone)

    def children(self, folder: str) -> list[str]:
        """The names in a folder."""
        return sorted(
            posixpath.basename(path)
            for path in self._paths()
            if path != "/" and posixpath.dirname(path) == folder
        )

    def below(self, folder: str) -> Iterator[tuple[str, FakeFile | None]]:
        """Paths below a folder, each with its file; a folder has none. Raises FileProblem where it is no folder."""
        if not self.is_folder(folder):
            raise FileProblem(errno.ENOENT if self.find(folder) is None else errno.ENOTDIR)
        start = folder.rstrip("/") + "/"
        for path in sorted(set(self._paths())):
            if path.startswith(start) and path != start:
                yield path, self.find(path)

    def matching(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        """Paths below a folder whose names match, part by part, as in a shell; raises FileProblem where it is no folder."""
        if not parts:
            yield folder
            return
        if not self.is_folder(folder):
            raise FileProblem(errno.ENOENT)
        for name in fnmatch.filter(self.children(folder), parts[0]):
            path = f"{folder}/{name}"
            is_meant = parts[0].startswith(".") or not name.startswith(".")
            if is_meant and (len(parts) == 1 or self.is_folder(path)):
                yield from self.matching(path, parts[1:])

    def is_full(self, folder: str) -> tuple[bool, bool]:
        """Whether no bytes, and whether no inodes, are free in the place that has this folder."""
        tree = next((tree for tree in self._trees if tree.root == folder), None) or self._tree(folder)
        return (False, False) if tree is None else (tree.room <= 0, tree.inodes <= 0)

    def fill(self, folder: str, *, inodes: bool) -> None:
        """Use up what is free in a place."""
        tree = next(tree for tree in self._trees if tree.root == folder)
        if inodes:
            for number in range(tree.inodes):
                self.create(f"{folder}/fill{number}")
        else:
            self.put(f"{folder}/fill", bytes(tree.room), 0o644)

    def packed(self, path: str) -> bytes:
        """A tar of a file or folder as an engine's archive call gives it: the path's last name on top."""
        if not self.exists(path):
            raise FileProblem(errno.ENOENT)
        out = io.BytesIO()
        above = posixpath.dirname(path)
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
            for name in sorted(self._paths()):
                if name == path or name.startswith(path.rstrip("/") + "/"):
                    self._pack(tar, name, posixpath.relpath(name, above))
        return out.getvalue()

    def _pack(self, tar: tarfile.TarFile, path: str, name: str) -> None:
        member = tarfile.TarInfo(name)
        member.uid = member.gid = 65534
        member.mtime = int(time.time())
        file = self.find(path)
        if file is None:
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
            return
        member.size, member.mode = len(file.data), file.mode
        tar.addfile(member, io.BytesIO(file.data))

    def _need_folder(self, path: str) -> None:
        if self.find(path) is not None:
            raise FileProblem(errno.ENOTDIR)
        if not self.is_folder(path):
            raise FileProblem(errno.ENOENT)

    def _paths(self) -> Iterator[str]:
        yield from self._fixed
        for tree in self._trees:
            yield from tree.folders
            yield from tree.files

    def _tree(self, path: str) -> Tree | None:
        """The place below whose root this path is."""
        for tree in self._trees:
            if path.startswith(tree.root + "/"):
                return tree
        return None

    def _writable(self, path: str) -> Tree:
        tree = self._tree(path)
        if tree is None or tree.root in self._read_only:
            raise FileProblem(errno.EROFS)
        return tree


def _take_inode(tree: Tree) -> None:
    if tree.inodes <= 0:
        raise FileProblem(errno.ENOSPC)
    tree.inodes -= 1


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
