"""Collecting files: the tar comes from a hostile place. Regular files of the workspace come back, bounded, and nothing else."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import tarfile

import pytest

from jobmanager import Limits
from jobmanager.engine.protocol import EngineError, NoSuchContainer, Unreachable
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.watching import collect as collect_module
from jobmanager.watching.collect import collected, collected_of, read_files

ONE_MIB = Limits(archive_mib=1)


class StubEngine:
    """An engine that has one archive."""

    def __init__(self, data: bytes = b"", *, piece: int = 1000, error: Exception | None = None, pieces=None):
        self._data, self._piece, self._error, self._pieces = data, piece, error, pieces
        self.asked = []

    def archive(self, container, path):
        self.asked.append((container, path))
        if self._pieces is not None:
            yield from self._pieces
        for at in range(0, len(self._data), self._piece):
            yield self._data[at : at + self._piece]
        if self._error is not None:
            raise self._error


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*members, tar_format=tarfile.PAX_FORMAT):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tar_format) as out:
        for info, content in members:
            out.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def unpacked(archive):
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as found:
        return {info.name: found.extractfile(info).read() for info in found}


def collect(data, patterns=("*",), most_mib=1, **engine):
    found = collected(StubEngine(data, **engine), "c", patterns, Limits(archive_mib=most_mib))
    return (None if found.archive is None else unpacked(found.archive)), found.error


def passed_over(*members, patterns=("*",)):
    return collected(StubEngine(tar(GOOD[1], *members)), "c", patterns, ONE_MIB).not_collected


GOOD = [
    member("job/", type=tarfile.DIRTYPE, uid=65534),
    member("job/a.txt", b"A"),
    member("job/sub/b.txt", b"B" * 5000),
    member("job/sub/c.bin", b"\0"),
]


@pytest.mark.parametrize("given", [512, 700, 1536, 1600], ids=["the folder", "half a header", "one file", "half the next header"])
def test_an_answer_that_ends_between_two_files_is_not_whole(given):
    """An engine that is being ended closes its answer in good order, wherever it stands."""
    whole = tar(*GOOD)

    assert collect(whole)[1] == ""
    with pytest.raises(Unreachable):
        collect(whole[:given])


@pytest.mark.parametrize("uid", [0, 65534], ids=["the folder below", "a new volume"])
def test_a_folder_that_is_not_the_workspace_is_no_workspace_without_files(uid):
    """After a restart with live-restore an engine shows the folder below the workspace's mount, or mounts a new one over it."""
    other = tar(member("job/", type=tarfile.DIRTYPE, uid=uid))

    assert collect(other) == (
        None,
        "the workspace could not be read: the engine was restarted meanwhile, and shows another folder in its place",
    )


def test_files_that_match_come_back_by_their_names_in_the_workspace():
    engine = StubEngine(tar(*GOOD))

    found = collected(engine, "the container", ["*.txt"], ONE_MIB)

    assert unpacked(found.archive) == {"a.txt": b"A", "sub/b.txt": b"B" * 5000}
    assert (found.error, found.not_collected) == ("", "")
    assert engine.asked == [("the container", "/job")]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*"], {"a.txt", "sub/b.txt", "sub/c.bin"}),
        (["sub"], {"sub/b.txt", "sub/c.bin"}),
        (["sub/*.bin", "a.*"], {"a.txt", "sub/c.bin"}),
        (["[ab].txt"], {"a.txt"}),
        (["A.TXT"], set()),
        (["su"], set()),
        (["nothing"], set()),
    ],
)
def test_a_pattern_is_a_name_a_wildcard_or_a_folder(patterns, names):
    found, trouble = collect(tar(*GOOD), patterns)

    assert set(found) == names
    assert trouble == ""


@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 100_000])
def test_it_is_the_same_in_pieces_of_any_size(piece):
    assert set(collect(tar(*GOOD), piece=piece)[0]) == {"a.txt", "sub/b.txt", "sub/c.bin"}


HOSTILE = {
    "a link to a file outside": member("job/x", type=tarfile.SYMTYPE, linkname="/etc/shadow"),
    "a link to a folder": member("job/x", type=tarfile.LNKTYPE, linkname="job"),
    "a link to nothing": member("job/x", type=tarfile.LNKTYPE, linkname="job/nothing"),
    "a link out of the workspace": member("job/x", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a link to itself": member("job/x", type=tarfile.LNKTYPE, linkname="job/x"),
    "a fifo": member("job/x", type=tarfile.FIFOTYPE),
    "a character device": member("job/x", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a block device": member("job/x", type=tarfile.BLKTYPE, devmajor=8),
    "a folder": member("job/x", type=tarfile.DIRTYPE),
    "a type that nobody knows": member("job/../x", b"1", type=b"Z"),
    "a name that goes up": member("job/../x", b"1"),
    "a name that goes up later": member("job/sub/../../x", b"1"),
    "an absolute name": member("/job/x", b"1"),
    "an absolute name elsewhere": member("//etc/x", b"1"),
    "no name": member("", b"1"),
    "the folder's own name": member("job", b"1"),
    "a name with a newline": member("job/x\ny", b"1"),
    "a name with an escape": member("job/\x1b[2Jx", b"1"),
    "a name with a carriage return": member("job/x\r", b"1"),
    "a name with a C1 control": member("job/x\x9b", b"1"),
    "a name that is no UTF-8": member("job/x\udcff", b"1"),
    "a name that turns its direction": member("job/x\u202egpj.exe", b"1"),
    "a name that turns its direction for a while": member("job/\u2067x\u2069", b"1"),
    "a name with a line separator": member("job/x\u2028y", b"1"),
    "a name that goes up on Windows": member("job/sub/y\\..\\..\\x", b"1"),
    "a name that is absolute on Windows": member("job/\\x", b"1"),
    "a name with a drive": member("job/C:x", b"1"),
    "a very long name": member("job/" + "x/" * 600 + "x", b"1"),
    "our own folder": member("job/.jobmanager/command", b"1"),
    "our own token": member("job/.jobmanager.0123456789", b"1"),
}


@pytest.mark.case(40)
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_what_is_no_regular_file_of_the_workspace_is_passed_over(hostile, tar_format):
    found, trouble = collect(tar(GOOD[1], hostile, GOOD[3], tar_format=tar_format), ["*", "x", "../x", "etc", ".jobmanager"])

    assert found == {"a.txt": b"A", "sub/c.bin": b"\0"}
    assert trouble == ""


def test_owners_modes_and_odd_times_do_not_come_along():
    info, content = member("job/x", b"1", mode=0o6777, uid=0, gid=0, uname="root", mtime=2**62)
    plain, _ = member("job/y", b"", mode=0o600, mtime=-5)
    archive = collected(StubEngine(tar((info, content), (plain, b""))), "c", ["*"], ONE_MIB).archive

    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as found:
        x, y = found.getmembers()
    assert (x.mode, y.mode) == (0o755, 0o644)
    assert (x.uname, x.uid) == ("", 0)
    assert 0 <= x.mtime <= 2**33
    assert y.mtime == 0
    assert not x.pax_headers.keys() - {"mtime"}


def test_past_the_cap_the_rest_is_missing_and_it_says_which():
    half = os.urandom(2**19)
    data = tar(member("job/a", half), member("job/b", half), member("job/c", b"1"), member("job/d", b"1"))

    found, trouble = collect(data)

    assert set(found) == {"a", "b"}
    assert "archive_mib = 1" in trouble
    assert "'c'" in trouble


def test_what_does_not_match_does_not_count():
    found, trouble = collect(tar(member("job/big", bytes(3 * 2**20)), member("job/small", b"1")), ["small"])

    assert (found, trouble) == ({"small": b"1"}, "")


def test_a_file_that_says_it_is_huge_is_not_read():
    info = tarfile.TarInfo("job/huge")
    info.size = 8 * 2**40
    read = []

    def pieces():
        yield _one(member("job/a", b"1"))
        yield info.tobuf(tarfile.GNU_FORMAT)
        while True:
            read.append(1)
            assert len(read) < 1000, "it goes on reading"
            yield bytes(65536)

    found, trouble = collect(b"", pieces=pieces())

    assert found == {"a": b"1"}
    assert "archive_mib" in trouble


def _one(entry):
    """A member without a tar's end."""
    info, content = entry
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def test_huge_holes_that_do_not_match_end_the_reading_too():
    info = tarfile.TarInfo("job/holes")
    info.size = 8 * 2**60
    total = 0

    def pieces():
        nonlocal total
        yield _one(member("job/a", b"1"))
        yield info.tobuf(tarfile.GNU_FORMAT)
        for _ in itertools.count():
            total += 2**20
            assert total < 64 * 2**30, "it goes on reading"
            yield bytes(2**20)

    found, trouble = collect(b"", ["a"], pieces=pieces())

    assert found == {"a": b"1"}
    assert "'holes'" in trouble


def test_many_files_with_holes_are_passed_over_up_to_the_workspaces_size_and_some_more():
    info = tarfile.TarInfo("job/holes")
    info.size = 64 * 2**20
    read_mib = 0

    def pieces():
        nonlocal read_mib
        yield _one(member("job/a", b"1"))
        while True:
            yield info.tobuf(tarfile.GNU_FORMAT)
            for _ in range(64):
                read_mib += 1
                assert read_mib < 1000, "it goes on reading"
                yield bytes(2**20)

    found, trouble = collect(b"", ["a"], pieces=pieces())

    assert found == {"a": b"1"}
    assert "too large to be read" in trouble
    assert read_mib >= Limits().workspace_mib + 256  # so a full workspace never meets this cap


def test_too_many_files_that_match_are_cut_off(monkeypatch):
    monkeypatch.setattr(collect_module, "_MAX_MEMBERS", 1000)
    data = b"".join(_one(member(f"job/{number}")) for number in range(1050))

    found, trouble = collect(data, piece=2**16)

    assert len(found) == 1000
    assert "more than 1000 files match" in trouble


def test_too_many_files_in_all_are_cut_off(monkeypatch):
    monkeypatch.setattr(collect_module, "_MAX_SEEN_MEMBERS", 3000)
    one = _one(member("job/x/y"))
    counted = 0

    def pieces():
        nonlocal counted
        while True:
            counted += 100
            assert counted < 6000, "it goes on reading"
            yield one * 100

    found, trouble = collect(b"", ["nothing"], pieces=pieces())

    assert found == {}
    assert "more than 3000 files" in trouble


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        b"\xff" * 5000,
        tar(*GOOD)[:1100],
        tar(GOOD[2])[:600],
        gzip.compress(b"x"),
        b"".join(_one(member("x", b"30 mtime=1.5\n", type=b"x")) for _ in range(5000)) + tar(*GOOD),
        b"".join(_one(member("././@LongLink", b"x" * 100, type=b"L")) for _ in range(5000)) + tar(*GOOD),
        _one(member("x", b"99999999999 path=a\n", type=b"x")) + tar(*GOOD),
        _one(member("x", b"18 size=notanum\n\n", type=b"x")) + tar(*GOOD),
        _one(member("x", b"rubbish", type=b"x")) + tar(*GOOD),
        member("job/a")[0].tobuf(tarfile.GNU_FORMAT)[:124] + b"\xff" * 12 + bytes(376),
    ],
    ids=["text", "ones", "cut in a folder", "cut in a file", "gzip", "pax upon pax", "long upon long",
         "pax length", "pax size",
         "pax rubbish", "negative size"],
)  # fmt: skip
def test_a_tar_that_is_broken_is_told_and_raises_nothing(data):
    found = collected(StubEngine(data), "c", ["*"], ONE_MIB)

    if found.archive is not None:  # what came before the break stands
        assert set(unpacked(found.archive)) <= {"a.txt", "sub/b.txt", "sub/c.bin"}
    else:
        assert "could not be read" in found.error
    assert found.error or found.archive


def test_an_engine_that_goes_away_in_the_middle_may_be_asked_again():
    with pytest.raises(Unreachable):
        collected(StubEngine(tar(*GOOD)[:1200], error=Unreachable("broken pipe")), "c", ["*"], ONE_MIB)


@pytest.mark.parametrize("error", [NoSuchContainer("gone"), EngineError("no")])
def test_an_engine_that_fails_in_the_middle_is_told(error):
    found = collected(StubEngine(tar(*GOOD)[:1200], error=error), "c", ["*"], ONE_MIB)

    assert found.archive is None
    assert "the workspace could not be read" in found.error
    assert str(error) in found.error


def test_a_workspace_with_nothing_but_what_the_job_brought_gives_an_empty_archive():
    brought = member("job/.jobmanager/command", b"true")

    assert collect(tar(GOOD[0], brought)) == ({}, "")


# ---- several names of one file


def link(name, first):
    return member(name, type=tarfile.LNKTYPE, linkname=first)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [(["*"], {"a", "b", "z/c"}), (["b"], {"b"}), (["z"], {"z/c"}), (["a"], {"a"}), (["b", "z/c"], {"b", "z/c"}), (["no"], set())],
)
def test_each_name_of_a_file_that_matches_comes_back(patterns, names):
    data = tar(member("job/a", b"program", mode=0o755), link("job/b", "job/a"), link("job/z/c", "job/a"))

    assert collect(data, patterns) == (dict.fromkeys(names, b"program"), "")


def test_a_further_name_is_a_file_like_the_first():
    data = tar(member("job/a", b"program", mode=0o755, mtime=1000), link("job/b", "job/a"))

    with tarfile.open(fileobj=io.BytesIO(collected(StubEngine(data), "c", ["b"], ONE_MIB).archive)) as found:
        (b,) = found.getmembers()
    assert (b.isreg(), b.mode, b.mtime, b.size) == (True, 0o755, 1000, 7)


@pytest.mark.parametrize("first", ["job/.jobmanager/stdin", "job/x\ny", "job/x\udcff"], ids=["ours", "a newline", "no UTF-8"])
def test_a_file_comes_by_its_clean_name_where_the_first_one_is_not(first):
    assert collect(tar(member(first, b"1"), link("job/clean", first)), ["clean"]) == ({"clean": b"1"}, "")


def test_every_name_of_a_file_counts():
    half = os.urandom(2**19)
    found, trouble = collect(tar(member("job/a", half), *(link(f"job/b{number}", "job/a") for number in range(3))))

    assert set(found) == {"a", "b0"}
    assert "archive_mib = 1: 'b1'" in trouble


def test_names_of_files_are_bounded_with_the_files(monkeypatch):
    monkeypatch.setattr(collect_module, "_MAX_MEMBERS", 100)
    found, trouble = collect(tar(member("job/a", b"1"), *(link(f"job/{number}", "job/a") for number in range(150))))

    assert len(found) <= 100
    assert "more than 100 files match" in trouble


def test_the_folder_is_read_a_second_time_only_for_further_names():
    engine = StubEngine(tar(member("job/a", b"1"), link("job/b", "job/a")))

    collected(engine, "c", ["a"], ONE_MIB)
    assert len(engine.asked) == 1
    collected(engine, "c", ["b"], ONE_MIB)
    assert len(engine.asked) == 3


# ---- what is passed over


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        ("a link to a file outside", "'x' (a symbolic link)"),
        ("a fifo", "'x' (a fifo)"),
        ("a character device", "'x' (a device)"),
        ("a link to nothing", "'x' (a link to what does not come)"),
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
def test_what_matches_and_does_not_come_is_told(hostile, words):
    assert passed_over(HOSTILE[hostile]) == words


def test_a_long_name_is_told_in_part():
    assert passed_over(HOSTILE["a very long name"]) == f"'{'x/' * 50}...' (its name is too long)"


def test_of_very_many_a_few_are_told():
    fifos = [member(f"job/{number}", type=tarfile.FIFOTYPE) for number in range(1000)]

    told = passed_over(*fifos)

    assert told.endswith("'4' (a fifo), and 995 more")
    assert len(told) < 200


def test_what_does_not_match_folders_and_our_own_files_are_not_told():
    assert passed_over(member("job/x", type=tarfile.FIFOTYPE), patterns=["a.txt"]) == ""
    assert passed_over(HOSTILE["a folder"], HOSTILE["our own folder"], HOSTILE["our own token"]) == ""


# ---- volumes, and files that are read


class ManyFolders:
    """An engine that has an archive for each folder."""

    def __init__(self, **tars):
        self.asked = []
        self._tars = {"/" + path.replace("__", "/"): data for path, data in tars.items()}

    def archive(self, container, path):
        self.asked.append(path)
        if path not in self._tars:
            raise NoSuchContainer(f"Could not find the file {path}")
        data = self._tars[path]
        return iter([data]) if isinstance(data, bytes) else data

    def inspect(self, container):
        raise AssertionError


def folder_of(name, *members, uid=65534):
    return tar(member(f"{name}/", type=tarfile.DIRTYPE, uid=uid), *(member(f"{name}/{path}", content) for path, content in members))


WORKSPACE = folder_of("job", ("a.xml", b"job"), ("volumes/work/a.xml", b"forged"))
WORK = folder_of("work", ("a.xml", b"A"), ("sub/b.xml", b"B"), (".jobmanager/x.xml", b"x"), ("c.txt", b"C"))


def test_files_of_volumes_come_back_by_names_of_their_own():
    engine = ManyFolders(job=WORKSPACE, volumes__work=WORK, volumes__other=folder_of("other", ("b", b"O")))

    found = collected(engine, "c", ["/volumes/work/*.xml", "a.xml", "/volumes/other/*"], ONE_MIB)

    assert unpacked(found.archive) == {
        "a.xml": b"job", "volumes/work/a.xml": b"A", "volumes/work/sub/b.xml": b"B", "volumes/other/b": b"O",
    }  # fmt: skip
    assert (found.error, found.not_collected) == ("", "")
    assert sorted(engine.asked) == ["/job", "/volumes/other", "/volumes/work"]


def test_a_file_of_the_workspace_cannot_pass_for_one_of_a_volume():
    engine = ManyFolders(job=WORKSPACE, volumes__work=WORK)
    found = collected(engine, "c", ["*", "/volumes/work/a.xml"], ONE_MIB)
    assert unpacked(found.archive) == {"a.xml": b"job", "volumes/work/a.xml": b"A"}
    assert found.not_collected == "'volumes/work/a.xml' (its name is that of a volume's file)"

    alone = collected(engine, "c", ["*"], ONE_MIB)
    assert unpacked(alone.archive)["volumes/work/a.xml"] == b"forged"


def test_a_folder_below_a_volume_that_an_engine_shows_after_its_restart_is_not_taken_for_it():
    engine = ManyFolders(volumes__work=folder_of("work", ("a", b"1"), uid=0))
    found = collected(engine, "c", ["/volumes/work/*"], ONE_MIB)
    assert found.archive is None
    assert found.error.startswith("the volume work could not be read: the engine was restarted meanwhile")


def test_bounds_are_those_of_all_folders_together():
    big = b"x" * 700_000
    engine = ManyFolders(job=folder_of("job", ("a", big)), volumes__work=folder_of("work", ("a", big)))
    found = collected(engine, "c", ["a", "/volumes/work/a"], ONE_MIB)
    assert list(unpacked(found.archive)) == ["a"]
    assert found.error == "they are larger than archive_mib = 1: 'volumes/work/a' and what follows are missing"


def test_as_much_may_be_passed_over_as_the_workspace_and_the_volumes_can_hold():
    one_mib = 2**20
    sparse = 300 * one_mib
    pieces = [*first_pieces(("work/big", sparse)), *(bytes(one_mib) for _ in range(300)), tar(member("work/a", b"A"))]

    def engine():
        return ManyFolders(volumes__work=iter(pieces))

    small = Limits(workspace_mib=1)
    assert "the volume work is too large to be read" in collected(engine(), "c", ["/volumes/work/a"], small).error
    found = collected(engine(), "c", ["/volumes/work/a"], small, volume_mib=43)
    assert (unpacked(found.archive), found.error) == ({"volumes/work/a": b"A"}, "")


def first_pieces(*files):
    """Headers only, of files whose content comes next."""
    for name, size in files:
        info = tarfile.TarInfo(name)
        info.size = size
        yield info.tobuf()


def test_files_are_read_into_memory_by_the_names_that_they_would_have_in_the_archive():
    engine = ManyFolders(job=WORKSPACE, volumes__work=WORK)
    found = read_files(engine, "c", ["a.xml", "/volumes/work/sub"], Limits())
    assert found == ({"a.xml": b"job", "volumes/work/sub/b.xml": b"B"}, "")


def test_a_report_of_a_gibibyte_costs_neither_memory_nor_time():
    given = []

    def pieces():
        yield from first_pieces(("work/huge.xml", 2**30))
        while True:
            given.append(1)
            yield bytes(10_000)

    engine = ManyFolders(volumes__work=pieces())

    found, error = read_files(engine, "c", ["/volumes/work/*.xml"], Limits(workspace_mib=2048))

    assert found == {}
    assert error == "they are larger than 4 MiB, or 16 MiB all together: 'volumes/work/huge.xml' and what follows are missing"
    assert len(given) < 10


def test_all_that_is_read_is_bounded_together_and_what_was_read_stands():
    reports = folder_of("work", *((f"{number}.xml", bytes(4 * 2**20)) for number in range(5)))
    found, error = read_files(ManyFolders(volumes__work=reports), "c", ["/volumes/work/*"], Limits())
    assert len(found) == 4
    assert "'volumes/work/4.xml' and what follows are missing" in error


def test_the_number_of_files_that_are_read_is_bounded(monkeypatch):
    monkeypatch.setattr(collect_module, "_MAX_READ_FILES", 3)
    reports = folder_of("work", *((f"{number}.xml", b"") for number in range(5)))
    found, error = read_files(ManyFolders(volumes__work=reports), "c", ["/volumes/work/*"], Limits())
    assert (len(found), error) == (3, "more than 3 files match")


def test_what_is_no_file_is_not_read_and_is_told():
    link = member("work/a.xml", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    reports = tar(member("work/", type=tarfile.DIRTYPE, uid=65534), link)
    found = read_files(ManyFolders(volumes__work=reports), "c", ["/volumes/work/*"], Limits())
    assert found == ({}, "'volumes/work/a.xml' (a symbolic link)")


def test_a_folder_that_cannot_be_read_is_told_beside_what_was_read_before_it():
    engine = ManyFolders(job=WORKSPACE)
    found, error = read_files(engine, "c", ["a.xml", "/volumes/work/*"], Limits())
    assert found == {"a.xml": b"job"}
    assert error == "the volume work could not be read: Could not find the file /volumes/work"


def test_secrets_are_never_collected():
    ours = folder_of("job", (".jobmanager/secrets/token", b"s3cret"), ("a", b"1"))
    for patterns in (["*"], [".jobmanager"], [".jobmanager/secrets/*"], ["*token"]):
        found = collected(ManyFolders(job=ours), "c", patterns, ONE_MIB)
        assert unpacked(found.archive).keys() <= {"a"}
        assert read_files(ManyFolders(job=ours), "c", patterns, ONE_MIB)[0].keys() <= {"a"}


class Inspector:
    def is_still_there(self):
        return True

    def has_ended(self):
        return False


def job(**fields):
    given = {"job_id": "j", "container_id": "c", "container_name": "n", "token": "t", "command": "true", "env": {}, "files": {}}
    return MonitorContainer(**{**given, "stdin": b"", "limits": ONE_MIB, "collect": (), **fields})


def test_a_jobs_test_reports_are_read_beside_what_is_collected():
    engine = ManyFolders(job=WORKSPACE, volumes__work=WORK)
    found = collected_of(job(collect=("a.xml",), tests=("/volumes/work/*.xml",)), engine, Inspector())
    assert list(unpacked(found.archive)) == ["a.xml"]
    assert dict(found.test_files) == {"volumes/work/a.xml": b"A", "volumes/work/sub/b.xml": b"B"}
    assert found.error == ""


def test_a_job_with_test_reports_alone_has_no_archive_and_lacks_are_told_as_those_of_reports():
    found = collected_of(job(tests=("/volumes/none/*",)), ManyFolders(), Inspector())
    assert found.archive is None
    assert found.error == "test reports: the volume none could not be read: Could not find the file /volumes/none"


def test_test_reports_are_read_again_when_the_engine_was_away():
    reports, tries = WORK, []

    def once_away():
        tries.append(1)
        if len(tries) == 1:
            raise Unreachable("gone")
        return iter([reports])

    class Away(ManyFolders):
        def archive(self, container, path):
            return once_away()

    found = collected_of(job(tests=("/volumes/work/a.xml",)), Away(), Inspector())
    assert dict(found.test_files) == {"volumes/work/a.xml": b"A"}
