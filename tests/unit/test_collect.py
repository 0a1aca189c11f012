"""Collecting files from a hostile tree, by a runner's answers: regular files come back, bounded, and nothing else."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from jobmanager import Limits
from jobmanager.ipc.messages import GradingSettings, MonitorContainer
from jobmanager.results.facts import Collected
from jobmanager.runner.frames import BringPath, Entries, Fetch, FolderEntry, ListFolder, PathKind, Piece, encode
from jobmanager.watching import collect as collect_module
from jobmanager.watching.collect import Working, collecting
from tests.support.collecting import collected as answered

MIB = 2**20
GRADING = GradingSettings(images={"": "i"}, cpu_time_s=1, memory_mib=64, network="none", most_students=1)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What is at one path."""

    content: bytes = b""
    kind: PathKind = PathKind.FILE
    mode: int = 0o644
    mtime_s: int = 0
    size: int | None = None  # as listed; None: the true one
    errno: int = 0  # of a Fetch


@dataclass
class ScriptedRunner:
    """Answers requests from folders that it has, in the order in which they are written down."""

    folders: Mapping[str, Mapping[str | bytes, Node]]
    list_errno: int = 0
    piece_bytes: int = 60_000
    asked: list[ListFolder | Fetch] = field(default_factory=list)

    def answer(self, request: ListFolder | Fetch) -> list[Any]:
        encode(request)  # it can be sent
        self.asked.append(request)
        return self._list(request) if isinstance(request, ListFolder) else self._fetch(request)

    @property
    def fetched(self) -> list[str]:
        return [asked.path.decode() for request in self.asked if isinstance(request, Fetch) for asked in request.files]

    def _list(self, request: ListFolder) -> list[Entries]:
        nodes = self.folders.get(request.path.decode())
        if nodes is None:
            return [Entries(request=request.request, errno=errno.ENOENT, last=True, entries=())]
        entries = tuple(
            FolderEntry(path=as_bytes(name), kind=node.kind, mode=node.mode, mtime_s=node.mtime_s, size=_size(node))
            for name, node in nodes.items()
        )
        first = Entries(request=request.request, errno=0, last=False, entries=entries[:2])
        return [first, Entries(request=request.request, errno=self.list_errno, last=True, entries=entries[2:])]

    def _fetch(self, request: Fetch) -> list[Piece]:
        return [piece for asked in request.files for piece in self._pieces(request, asked)]

    def _pieces(self, request: Fetch, asked: BringPath) -> list[Piece]:
        node = self._node(asked.path.decode())
        error = node.errno or (errno.EFBIG if len(node.content) > asked.most else 0)
        content = b"" if error else node.content
        starts = range(0, len(content), self.piece_bytes) or range(1)
        given = {"mode": node.mode, "mtime_s": node.mtime_s, "size": len(node.content), "errno": error}
        return [
            piece_of(
                request, content[start : start + self.piece_bytes], asked.path, offset=start, last=start == starts[-1], **given
            )
            for start in starts
        ]

    def _node(self, path: str) -> Node:
        inside = [
            (nodes, path.removeprefix(f"{folder}/")) for folder, nodes in self.folders.items() if path.startswith(f"{folder}/")
        ]
        return next(nodes[name] for nodes, name in inside if name in nodes)


def piece_of(request: ListFolder | Fetch, data: bytes = b"", path: bytes = b"/job/a", **fields: Any) -> Piece:
    given = {"mode": 0o644, "mtime_s": 0, "size": len(data), "errno": 0, "offset": 0, "last": True}
    return Piece(request=request.request, path=path, data=data, **{**given, **fields})


def as_bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def _size(node: Node) -> int:
    return len(node.content) if node.size is None else node.size


def job(**fields: Any) -> MonitorContainer:
    given = {"job_id": "j", "container_id": "c", "container_name": "n", "command": "true", "env": {}, "files": {}}
    return MonitorContainer(**{**given, "stdin": b"", "limits": Limits(archive_mib=1), "collect": (), **fields})


def of_tree(nodes: Mapping[str | bytes, Node], patterns: tuple[str, ...] = ("*",), **fields: Any) -> Collected:
    return answered(job(collect=patterns, **fields), ScriptedRunner({"/job": nodes}).answer)


def unpacked(found: Collected) -> dict[str, bytes]:
    assert found.archive is not None
    with tarfile.open(fileobj=io.BytesIO(found.archive), mode="r:gz") as packed:
        return {info.name: packed.extractfile(info).read() for info in packed}  # type: ignore[union-attr]


def file(content: bytes = b"1", **fields: Any) -> Node:
    return Node(content=content, **fields)


FOLDER = Node(kind=PathKind.FOLDER, mode=0o755)
LINK = Node(kind=PathKind.LINK, mode=0o777)
OTHER = Node(kind=PathKind.OTHER)
GOOD: dict[str | bytes, Node] = {"a.txt": file(b"A"), "sub": FOLDER, "sub/b.txt": file(b"B" * 5000), "sub/c.bin": file(b"\0")}


def test_files_that_match_come_back_by_their_names_in_the_workspace() -> None:
    runner = ScriptedRunner({"/job": GOOD})

    found = answered(job(collect=("*.txt",)), runner.answer)

    assert unpacked(found) == {"a.txt": b"A", "sub/b.txt": b"B" * 5000}
    assert (found.error, found.not_collected, found.test_files) == ("", "", {})
    assert runner.asked == [
        ListFolder(request=1, path=b"/job"),
        Fetch(request=2, files=(BringPath(path=b"/job/a.txt", most=1), BringPath(path=b"/job/sub/b.txt", most=5000))),
    ]


def sizes_asked_at_once(nodes: Mapping[str | bytes, Node], archive_mib: int = 16) -> list[list[int]]:
    runner = ScriptedRunner({"/job": nodes})
    answered(job(collect=("*",), limits=Limits(archive_mib=archive_mib)), runner.answer)
    return [[asked.most for asked in request.files] for request in runner.asked if isinstance(request, Fetch)]


def test_small_files_are_asked_for_together_and_a_large_one_alone() -> None:
    sizes = [10, 3 * MIB, 20, MIB - 21, 1, 2, 2 * MIB, 0]

    asked = sizes_asked_at_once({f"{number}": file(bytes(size)) for number, size in enumerate(sizes)})

    assert asked == [[10], [3 * MIB], [20, MIB - 21, 1], [2], [2 * MIB], [0]]


def test_a_thousand_small_files_take_a_few_requests() -> None:
    assert [len(sizes) for sizes in sizes_asked_at_once({f"{number:03}": file(bytes(100)) for number in range(1000)})] == [1000]


def test_long_names_take_more_requests_and_each_can_be_sent() -> None:
    asked = sizes_asked_at_once({f"{number:03}" + "n" * 997: file() for number in range(100)})

    assert sum(map(len, asked)) == 100
    assert {len(sizes) for sizes in asked[:-1]} == {32}  # 4 + 32 * (8 + 5 + 1000) bytes are less than 32 KiB


def test_between_the_messages_of_an_answer_nothing_is_asked() -> None:
    runner = ScriptedRunner({"/job": GOOD}, piece_bytes=1000)
    requests = collecting(job(collect=("*",)))
    first, last = runner.answer(next(requests))  # type: ignore[arg-type]
    assert requests.send(first) is None
    fetch = requests.send(last)
    assert isinstance(fetch, Fetch)
    assert [requests.send(piece) for piece in runner.answer(fetch)[:-1]] == [None] * 6


def test_messages_of_another_request_are_passed_over() -> None:
    def answer(request: ListFolder | Fetch) -> list[Any]:
        stale = Piece(request=77, path=b"x", mode=0, mtime_s=0, size=0, errno=5, offset=0, last=True, data=b"")
        return [stale, *ScriptedRunner({"/job": GOOD}).answer(request)]

    found = answered(job(collect=("*",)), answer)

    assert (set(unpacked(found)), found.not_collected) == ({"a.txt", "sub/b.txt", "sub/c.bin"}, "")


def test_much_that_is_compressed_leaves_others_their_turn() -> None:
    content = os.urandom(MIB) * 12
    runner = ScriptedRunner({"/job": {"big": file(content)}})
    requests = collecting(job(collect=("*",), limits=Limits(archive_mib=16)))
    messages: list[Any] = []
    turns, due = 0, next(requests)
    with pytest.raises(StopIteration) as end:
        while True:
            if isinstance(due, (ListFolder, Fetch)):
                messages = runner.answer(due)
            turns += isinstance(due, Working)
            due = requests.send(None if isinstance(due, Working) else messages.pop(0))

    assert turns == 2  # one for each 4 MiB, but the last
    assert unpacked(end.value.value) == {"big": content}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("*",), {"a.txt", "sub/b.txt", "sub/c.bin"}),
        (("sub",), {"sub/b.txt", "sub/c.bin"}),
        (("sub/",), {"sub/b.txt", "sub/c.bin"}),
        (("sub/*.bin", "a.*"), {"a.txt", "sub/c.bin"}),
        (("[ab].txt",), {"a.txt"}),
        (("A.TXT",), set()),
        (("su",), set()),
        (("nothing",), set()),
    ],
)
def test_a_pattern_is_a_name_a_wildcard_or_a_folder(patterns: tuple[str, ...], names: set[str]) -> None:
    found = of_tree(GOOD, patterns)

    assert set(unpacked(found)) == names
    assert found.error == ""


@pytest.mark.parametrize("piece_bytes", [1, 7, 4999, 5000, 5001])
def test_a_file_is_the_same_in_pieces_of_any_size(piece_bytes: int) -> None:
    found = answered(job(collect=("*",)), ScriptedRunner({"/job": GOOD}, piece_bytes=piece_bytes).answer)

    assert unpacked(found)["sub/b.txt"] == b"B" * 5000


def test_files_are_in_the_order_of_their_names_whatever_the_order_of_the_list() -> None:
    names = ["b", "a/z", "a", "C", "a.b"]

    assert list(unpacked(of_tree({name: file() for name in names}))) == sorted(names)


def test_a_workspace_with_nothing_but_what_the_job_brought_gives_an_empty_archive() -> None:
    found = of_tree({".jobmanager": FOLDER, ".jobmanager/runner": file()})

    assert (unpacked(found), found.error, found.not_collected) == ({}, "", "")


def test_without_patterns_nothing_is_asked() -> None:
    runner = ScriptedRunner({})

    assert answered(job(), runner.answer) == Collected()
    assert runner.asked == []


HOSTILE: dict[str, tuple[str | bytes, Node]] = {
    "a link": ("x", LINK),
    "a fifo": ("x", OTHER),
    "a folder": ("x", FOLDER),
    "a name that goes up": ("../x", file()),
    "a name that goes up later": ("sub/../../x", file()),
    "a name that goes nowhere": ("sub/./x", file()),
    "an absolute name": ("/x", file()),
    "an absolute name elsewhere": ("//etc/x", file()),
    "no name": ("", file()),
    "a name of a folder": ("x/", file()),
    "a name with a newline": ("x\ny", file()),
    "a name with an escape": ("\x1b[2Jx", file()),
    "a name with a carriage return": ("x\r", file()),
    "a name with a C1 control": ("x\x9b", file()),
    "a name that is no UTF-8": (b"x\xff", file()),
    "a name that turns its direction": ("x\u202egpj.exe", file()),
    "a name that turns its direction for a while": ("\u2067x\u2069", file()),
    "a name with a line separator": ("x\u2028y", file()),
    "a name that goes up on Windows": ("sub/y\\..\\..\\x", file()),
    "a name that is absolute on Windows": ("\\x", file()),
    "a name with a drive": ("C:x", file()),
    "a very long name": ("x/" * 600 + "x", file()),
    "a name of more bytes than a path may have": ("\U00020000" * 1022 + "/\U00020000", file()),
    "our own folder": (".jobmanager/command", file()),
    "our own token": (".jobmanager.0123456789", file()),
}


@pytest.mark.case(40)
@pytest.mark.parametrize(("name", "node"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_regular_file_of_the_workspace_is_not_even_asked_for(name: str | bytes, node: Node) -> None:
    runner = ScriptedRunner({"/job": {"a.txt": file(b"A"), name: node, "sub/c.bin": file(b"\0")}})

    found = answered(job(collect=("*", "x", "../x", "etc", ".jobmanager")), runner.answer)

    assert unpacked(found) == {"a.txt": b"A", "sub/c.bin": b"\0"}
    assert found.error == ""
    assert runner.fetched == ["/job/a.txt", "/job/sub/c.bin"]


def test_owners_modes_and_odd_times_do_not_come_along() -> None:
    nodes: dict[str | bytes, Node] = {
        "x": file(mode=0o6777, mtime_s=2**62),
        "y": file(b"", mode=0o600, mtime_s=-5),
        "z": file(mode=0),
    }
    archive = of_tree(nodes).archive

    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as found:
        x, y, z = found.getmembers()
    assert (x.mode, y.mode, z.mode) == (0o755, 0o644, 0o644)
    assert (x.uname, x.uid, x.isreg()) == ("", 0, True)
    assert (x.mtime, y.mtime) == (2**33, 0)
    assert not x.pax_headers.keys() - {"mtime"}


# ---- caps


def test_past_the_cap_the_rest_is_missing_and_it_says_which() -> None:
    half = os.urandom(MIB // 2)

    found = of_tree({"a": file(half), "b": file(half), "c": file(b"1"), "d": file(b"1")})

    assert set(unpacked(found)) == {"a", "b"}
    assert found.error == "they are larger than archive_mib = 1: 'c' and what follows are missing"


def test_what_does_not_match_does_not_count() -> None:
    found = of_tree({"big": file(bytes(3 * MIB)), "small": file()}, ("small",))

    assert (unpacked(found), found.error) == ({"small": b"1"}, "")


def test_a_file_with_holes_counts_with_its_size_and_is_not_asked_for() -> None:
    runner = ScriptedRunner({"/job": {"a": file(), "huge": file(b"", size=8 * 2**60)}})

    found = answered(job(collect=("*",)), runner.answer)

    assert unpacked(found) == {"a": b"1"}
    assert "archive_mib = 1: 'huge'" in found.error
    assert runner.fetched == ["/job/a"]


def test_a_file_that_is_larger_than_the_list_said_reaches_the_cap() -> None:
    found = of_tree({"a": file(), "b": file(bytes(2 * MIB), size=1), "c": file()})

    assert unpacked(found) == {"a": b"1"}
    assert found.error == "they are larger than archive_mib = 1: 'b' and what follows are missing"


def test_more_bytes_than_were_asked_for_are_not_taken() -> None:
    def answer(request: ListFolder | Fetch) -> list[Any]:
        if isinstance(request, ListFolder):
            return ScriptedRunner({"/job": {"a": file(), "b": file()}}).answer(request)
        return [piece_of(request, b"1", last=False), piece_of(request, b"1", offset=1), piece_of(request, b"2", b"/job/b")]

    found = answered(job(collect=("*",)), answer)

    assert unpacked(found) == {"b": b"2"}
    assert found.not_collected == "'a' (the runner's answer makes no sense)"


def test_a_file_that_has_grown_since_is_asked_for_again_alone() -> None:
    runner = ScriptedRunner({"/job": {"a": file(), "b": file(b"B" * 5000, size=1), "c": file()}})

    found = answered(job(collect=("*",)), runner.answer)

    assert unpacked(found) == {"a": b"1", "b": b"B" * 5000, "c": b"1"}
    assert list(unpacked(found)) == ["a", "b", "c"]
    assert runner.asked[-1] == Fetch(request=3, files=(BringPath(path=b"/job/b", most=MIB - 1),))


def test_files_that_grow_do_not_come_past_the_cap_of_all() -> None:
    half = bytes(MIB // 2 + 1)
    found = of_tree({"a": file(half, size=1), "b": file(half, size=1), "c": file()})

    assert set(unpacked(found)) == {"a"}
    assert found.error == "they are larger than archive_mib = 1: 'b' and what follows are missing"


def test_a_cap_that_one_answer_reaches_does_not_break_what_is_asked_for_next() -> None:
    runner = ScriptedRunner({"/job": {"a": file(), "b": file(bytes(2 * MIB), size=1), "c": file()}})

    found = answered(job(collect=("*",), tests=("c",)), runner.answer)

    assert (unpacked(found), found.test_files) == ({"a": b"1"}, {"c": b"1"})


def test_too_many_files_that_match_are_cut_off() -> None:
    found = of_tree({f"{number:05}": file() for number in range(10_050)})

    assert list(unpacked(found)) == [f"{number:05}" for number in range(10_000)]
    assert found.error == "more than 10000 files match"


def test_of_a_list_that_was_cut_what_it_has_stands() -> None:
    found = answered(job(collect=("a.txt",)), ScriptedRunner({"/job": GOOD}, list_errno=errno.E2BIG).answer)

    assert unpacked(found) == {"a.txt": b"A"}
    assert found.error == "the workspace holds more than 100000 files, or is more than 64 folders deep: a part was not seen"


def test_more_entries_than_a_runner_lists_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "MOST_ENTRIES", 3)
    found = of_tree({"d": file(), "c": file(), "b": file(), "a": file()})

    assert set(unpacked(found)) == {"b", "c", "d"}
    assert "holds more than 3 files" in found.error


# ---- what fails


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ENOENT, "'b' (it is gone by now)"),
        (errno.ENOTDIR, "'b' (something else is in its place by now)"),
        (errno.EINVAL, "'b' (something else is in its place by now)"),
        (errno.EACCES, "'b' (it cannot be opened)"),
        (errno.EIO, "'b' (not read: Input/output error)"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_the_others_come(error: int, words: str) -> None:
    found = of_tree({"a": file(), "b": file(errno=error), "c": file()})

    assert set(unpacked(found)) == {"a", "c"}
    assert (found.error, found.not_collected) == ("", words)


def test_a_file_that_breaks_off_is_not_taken_in_part() -> None:
    def answer(request: ListFolder | Fetch) -> list[Any]:
        if isinstance(request, ListFolder):
            return ScriptedRunner({"/job": {"a": file()}}).answer(request)
        return [piece_of(request, b"h", last=False), piece_of(request, errno=errno.EIO, offset=1)]

    found = answered(job(collect=("*",)), answer)

    assert (unpacked(found), found.not_collected) == ({}, "'a' (not read: Input/output error)")


def test_a_file_that_has_become_shorter_comes_as_it_is() -> None:
    assert unpacked(of_tree({"a": file(b"short", size=1000)})) == {"a": b"short"}


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EIO])
def test_a_workspace_that_cannot_be_listed_is_told_and_there_is_no_archive(error: int) -> None:
    found = answered(job(collect=("*",)), lambda request: [Entries(request=request.request, errno=error, last=True, entries=())])

    assert found == Collected(error=f"the workspace could not be read: {os.strerror(error)}")


def test_of_a_workspace_that_can_be_listed_in_part_that_part_comes() -> None:
    found = answered(job(collect=("*.txt",)), ScriptedRunner({"/job": GOOD}, list_errno=errno.EACCES).answer)

    assert set(unpacked(found)) == {"a.txt", "sub/b.txt"}
    assert found.error == "a part of the workspace could not be read: Permission denied"


NO_SENSE: dict[str, Callable[[int], list[Any]]] = {
    "pieces of a file": lambda request: [
        Piece(request=request, path=b"x", mode=0, mtime_s=0, size=0, errno=0, offset=0, last=True, data=b"")
    ],
}


@pytest.mark.parametrize("answer", NO_SENSE.values(), ids=NO_SENSE)
def test_an_answer_that_is_no_list_is_told(answer: Callable[[int], list[Any]]) -> None:
    found = answered(job(collect=("*",)), lambda request: answer(request.request))

    assert found == Collected(error="the workspace could not be read: the runner's answer makes no sense")


@pytest.mark.parametrize(
    ("offsets", "path"), [((0, 3), b"/job/a"), ((1,), b"/job/a"), ((0, 0), b"/job/a"), ((0, 1), b"/job/b")],
    ids=["a gap", "no beginning", "twice", "another file"],
)  # fmt: skip
def test_pieces_that_do_not_fit_together_are_no_file(offsets: tuple[int, ...], path: bytes) -> None:
    def answer(request: ListFolder | Fetch) -> list[Any]:
        if isinstance(request, ListFolder):
            return ScriptedRunner({"/job": {"a": file(b"xx"), "c": file()}}).answer(request)
        pieces = [piece_of(request, b"x", path, offset=offset, last=False) for offset in offsets[:-1]]
        return [*pieces, piece_of(request, b"x", path, offset=offsets[-1]), piece_of(request, b"1", b"/job/c")]

    found = answered(job(collect=("*",)), answer)

    assert (unpacked(found), found.not_collected) == ({"c": b"1"}, "'a' (the runner's answer makes no sense)")


def test_another_kind_of_answer_is_no_file() -> None:
    def answer(request: ListFolder | Fetch) -> list[Any]:
        return ScriptedRunner({"/job": {"a": file()}}).answer(ListFolder(request=request.request, path=b"/job"))

    found = answered(job(collect=("*",)), answer)

    assert (unpacked(found), found.not_collected) == ({}, "'a' (the runner's answer makes no sense)")


# ---- what is left out


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        ("a link", "'x' (a symbolic link)"),
        ("a fifo", "'x' (no regular file)"),
        ("a name with a newline", r"'x\ny' (control characters in its name)"),
        ("a name with an escape", r"'\x1b[2Jx' (control characters in its name)"),
        ("a name that is no UTF-8", r"'x\xff' (its name is no UTF-8)"),
        ("a name that turns its direction", r"'x\u202egpj.exe' (control characters in its name)"),
        ("a name with a line separator", r"'x\u2028y' (control characters in its name)"),
        ("a name that goes up on Windows", r"'sub/y\..\..\x' (its name leads elsewhere on Windows)"),
        ("a name that is absolute on Windows", r"'\x' (its name leads elsewhere on Windows)"),
        ("a name with a drive", "'C:x' (its name leads elsewhere on Windows)"),
    ],
)
def test_what_matches_and_does_not_come_is_told(hostile: str, words: str) -> None:
    assert of_tree(dict([HOSTILE[hostile]])).not_collected == words


def test_a_long_name_is_told_in_part() -> None:
    assert of_tree(dict([HOSTILE["a very long name"]])).not_collected == f"'{'x/' * 50}...' (its name is too long)"
    assert of_tree(dict([HOSTILE["a name of more bytes than a path may have"]])).not_collected.endswith("(its name is too long)")


def test_of_very_many_a_few_are_told() -> None:
    told = of_tree({f"{number:04}": OTHER for number in range(1000)}).not_collected

    assert told.endswith("'0004' (no regular file), and 995 more")
    assert len(told) < 200


def test_what_does_not_match_folders_and_our_own_files_are_not_told() -> None:
    assert of_tree({"x": OTHER}, ("a.txt",)).not_collected == ""
    assert of_tree(dict([HOSTILE["a folder"], HOSTILE["our own folder"], HOSTILE["our own token"]])).not_collected == ""


def test_secrets_are_never_collected() -> None:
    ours: dict[str | bytes, Node] = {".jobmanager/secrets/token": file(b"s3cret"), "a": file()}
    for patterns in (("*",), (".jobmanager",), (".jobmanager/secrets/*",), ("*token",)):
        runner = ScriptedRunner({"/job": ours})
        answered(job(collect=patterns, tests=patterns), runner.answer)
        assert set(runner.fetched) <= {"/job/a"}


# ---- volumes, the grader's archive, and test reports


WORKSPACE: dict[str | bytes, Node] = {"a.xml": file(b"job"), "volumes/work/a.xml": file(b"forged")}
WORK: dict[str | bytes, Node] = {
    "a.xml": file(b"A"), "sub": FOLDER, "sub/b.xml": file(b"B"), ".jobmanager/x.xml": file(b"x"), "c.txt": file(b"C"),
}  # fmt: skip
BOTH = {"/job": WORKSPACE, "/volumes/work": WORK}


def test_files_of_volumes_come_back_by_names_of_their_own() -> None:
    runner = ScriptedRunner({**BOTH, "/volumes/other": {"b": file(b"O")}})

    found = answered(job(collect=("/volumes/work/*.xml", "a.xml", "/volumes/other/*")), runner.answer)

    assert unpacked(found) == {
        "a.xml": b"job", "volumes/work/a.xml": b"A", "volumes/work/sub/b.xml": b"B", "volumes/other/b": b"O",
    }  # fmt: skip
    assert (found.error, found.not_collected) == ("", "")


def test_a_file_of_the_workspace_cannot_pass_for_one_of_a_volume() -> None:
    found = answered(job(collect=("*", "/volumes/work/a.xml")), ScriptedRunner(BOTH).answer)
    assert unpacked(found) == {"a.xml": b"job", "volumes/work/a.xml": b"A"}
    assert found.not_collected == "'volumes/work/a.xml' (its name is that of a volume's file)"

    alone = answered(job(collect=("*",)), ScriptedRunner(BOTH).answer)
    assert unpacked(alone)["volumes/work/a.xml"] == b"forged"


def test_bounds_are_those_of_all_folders_together() -> None:
    big: dict[str | bytes, Node] = {"a": file(bytes(700_000))}
    found = answered(job(collect=("a", "/volumes/work/a")), ScriptedRunner({"/job": big, "/volumes/work": big}).answer)

    assert list(unpacked(found)) == ["a"]
    assert found.error == "they are larger than archive_mib = 1: 'volumes/work/a' and what follows are missing"


def test_a_volume_that_cannot_be_listed_is_told_beside_the_files_of_the_others() -> None:
    found = answered(job(collect=("/volumes/none/*", "/volumes/work/a.xml", "a.xml")), ScriptedRunner(BOTH).answer)

    assert unpacked(found) == {"a.xml": b"job", "volumes/work/a.xml": b"A"}
    assert found.error == "the volume none could not be read: No such file or directory"


def test_another_workspace_is_asked_for_by_its_path() -> None:
    runner = ScriptedRunner({"/task": GOOD})
    assert set(unpacked(answered(job(collect=("a.txt",), workspace="/task"), runner.answer))) == {"a.txt"}
    assert runner.fetched == ["/task/a.txt"]


def test_the_graders_archive_comes_before_what_is_collected_by_the_names_that_it_has_there() -> None:
    tree: Mapping[str, Mapping[str | bytes, Node]] = {"/job": GOOD, "/job/.jobmanager/archive": {"plot.png": file(b"P")}}

    found = answered(job(collect=("a.txt",), grading=GRADING), ScriptedRunner(tree).answer)

    assert list(unpacked(found).items()) == [("plot.png", b"P"), ("a.txt", b"A")]


@pytest.mark.parametrize("folders", [{}, {"/job/.jobmanager/archive": {}}], ids=["no folder", "an empty folder"])
def test_a_grader_that_archives_nothing_has_no_archive(folders: dict[str, dict[str | bytes, Node]]) -> None:
    assert answered(job(grading=GRADING), ScriptedRunner(folders).answer) == Collected()


def test_test_reports_are_read_as_they_are_beside_what_is_collected() -> None:
    found = answered(job(collect=("a.xml",), tests=("/volumes/work/*.xml", "a.xml")), ScriptedRunner(BOTH).answer)

    assert list(unpacked(found)) == ["a.xml"]
    assert dict(found.test_files) == {"a.xml": b"job", "volumes/work/a.xml": b"A", "volumes/work/sub/b.xml": b"B"}
    assert found.error == ""


def test_a_job_with_test_reports_alone_has_no_archive_and_lacks_are_told_as_those_of_reports() -> None:
    found = answered(job(tests=("/volumes/none/*", "a.xml")), ScriptedRunner(BOTH).answer)

    assert found.archive is None
    assert found.error == "test reports: the volume none could not be read: No such file or directory"
    assert dict(found.test_files) == {"a.xml": b"job"}


def test_what_is_no_file_is_no_test_report_and_is_told() -> None:
    found = answered(job(tests=("*",)), ScriptedRunner({"/job": {"a.xml": LINK, "b.xml": file()}}).answer)

    assert dict(found.test_files) == {"b.xml": b"1"}
    assert found.error == "test reports: 'a.xml' (a symbolic link)"


def test_a_report_of_a_gibibyte_is_not_asked_for() -> None:
    runner = ScriptedRunner({"/job": {"huge.xml": file(b"", size=2**30)}})

    found = answered(job(tests=("*",), limits=Limits(archive_mib=2048)), runner.answer)

    words = "they are larger than 4 MiB, or 16 MiB all together: 'huge.xml' and what follows are missing"
    assert (found.test_files, found.error) == ({}, f"test reports: {words}")
    assert runner.fetched == []


def test_all_test_reports_are_bounded_together_and_what_was_read_stands() -> None:
    found = answered(
        job(tests=("*",)), ScriptedRunner({"/job": {f"{number}.xml": file(bytes(4 * MIB)) for number in range(5)}}).answer
    )

    assert len(found.test_files) == 4
    assert "'4.xml' and what follows are missing" in found.error


def test_the_number_of_test_reports_is_bounded() -> None:
    reports: dict[str | bytes, Node] = {f"{number:04}.xml": file(b"") for number in range(1005)}
    found = answered(job(tests=("*",)), ScriptedRunner({"/job": reports}).answer)

    assert (len(found.test_files), found.error) == (1000, "test reports: more than 1000 files match")


def test_of_a_long_list_only_names_that_can_come_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "_LIST_SLACK", 3)
    monkeypatch.setattr(collect_module, "_MAX_FILES", 5)
    names = [f"{number:02}" for number in (7, 3, 19, 0, 11, 5, 2, 13, 17, 1, 23, 29)]

    def answer(request: ListFolder | Fetch) -> list[Any]:
        runner = ScriptedRunner({"/job": {name: file() for name in names}})
        if isinstance(request, Fetch):
            return runner.answer(request)
        entries = [FolderEntry(path=name.encode(), kind=PathKind.FILE, mode=0, mtime_s=0, size=1) for name in names]
        return [Entries(request=request.request, errno=0, last=entry is entries[-1], entries=(entry,)) for entry in entries]

    found = answered(job(collect=("*",)), answer)

    assert list(unpacked(found)) == ["00", "01", "02", "03", "05"]
    assert found.error == "more than 5 files match"
