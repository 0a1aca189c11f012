"""What docs/languages.md says of each language, in the image of ``make languages``: least limits, memory, buffering, folders.

What a program needs depends on its version: the page says which were tried.
"""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass

import pytest

from jobmanager import Case, JobInput, JobResult, Limits, Outcome
from tests.integration.conftest import Run
from tests.unit.test_docs import table, text_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

IMAGE = "languages"
PAGE = "docs/languages.md"
TIMES = {"cpu_time_s": 60.0, "wall_time_s": 50.0}  # what is tried here is no speed
AMPLE = Limits(memory_mib=512, processes=128, workspace_mib=64, **TIMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How a language's programs are built and run."""

    source: str  # the file's name
    run: str  # its words: a shell would be one process more
    build: str = ""
    made: str = ""  # what the build leaves: a pattern


LANGUAGES = {
    "C": Language(source="main.c", build="gcc -o main main.c", made="main", run="./main"),
    "Go": Language(source="main.go", build="GOCACHE=/tmp/go go build -o main main.go", made="main", run="./main"),
    "Java": Language(source="Main.java", build="javac Main.java", made="*.class", run="java Main"),
    "Mono": Language(source="main.cs", build="mcs -out:main.exe main.cs", made="main.exe", run="mono main.exe"),
    "Node": Language(source="main.js", run="node main.js"),
    "Python with numpy": Language(source="main.py", run="python3 main.py"),
    "Rust": Language(source="main.rs", build="rustc -o main main.rs", made="main", run="./main"),
}
COMPILED = [name for name, language in LANGUAGES.items() if language.build]
ECHO = {  # prints a letter that is not ASCII, and a line of standard input
    "C": '#include <stdio.h>\nint main(void) { char line[99]; printf("é%s", fgets(line, 99, stdin)); }\n',
    "Go": """package main
import ("bufio"; "fmt"; "os")
func main() { line, _ := bufio.NewReader(os.Stdin).ReadString(10); fmt.Print("é" + line) }
""",
    "Java": """public class Main {
    public static void main(String[] words) { System.out.println("é" + new java.util.Scanner(System.in).nextLine()); }
}
""",
    "Mono": 'using System;\nclass P { static void Main() { Console.WriteLine("é" + Console.ReadLine()); } }\n',
    "Node": "console.log('é' + require('fs').readFileSync(0, 'utf8').trim());\n",
    "Python with numpy": "import numpy\nprint('é' + input() * int(numpy.ones(1).sum()))\n",
    "Rust": """use std::io;
fn main() { let mut line = String::new(); io::stdin().read_line(&mut line).unwrap(); print!("é{}", line); }
""",
}
TAKES_MEMORY = {  # says one line, and then takes memory without end
    "Go": """package main
import "fmt"
func main() { fmt.Println("begins"); var all [][]byte
    for { some := make([]byte, 1<<20); for i := range some { some[i] = 1 }; all = append(all, some) } }
""",
    "Java": """public class Main { public static void main(String[] words) {
    System.out.println(Runtime.getRuntime().maxMemory() >> 20);
    java.util.List<byte[]> all = new java.util.ArrayList<>();
    while (true) all.add(new byte[1 << 20]);
} }
""",
    "Mono": """using System.Collections.Generic;
class P { static void Main() { System.Console.WriteLine("begins"); var all = new List<byte[]>();
    while (true) { var some = new byte[1 << 20]; for (int i = 0; i < some.Length; i += 4096) some[i] = 1; all.Add(some); } } }
""",
    "Node": """console.log(require('v8').getHeapStatistics().heap_size_limit >> 20)
const all = []; while (true) all.push(new Array(100000).fill(1.5))
""",
    "Python with numpy": "import numpy\nprint('begins', flush=True)\nall = []\nwhile True: all.append(numpy.ones(1 << 17))\n",
    "Rust": 'fn main() { println!("begins"); let mut all = Vec::new(); loop { all.push(vec![1u8; 1 << 20]); } }\n',
}
SPINS = {  # prints a line and a part of one, and never ends
    "C": '#include <stdio.h>\nint main(void) { puts("line"); printf("part"); for (;;); }\n',
    "Go": 'package main\nimport "fmt"\nfunc main() { fmt.Println("line"); fmt.Print("part"); for {} }\n',
    "Java": """public class Main { public static void main(String[] words) {
    System.out.println("line"); System.out.print("part"); while (true) {}
} }
""",
    "Mono": 'using System;\nclass P { static void Main() { Console.WriteLine("line"); Console.Write("part"); while (true) {} } }\n',
    "Node": "console.log('line'); process.stdout.write('part'); while (true) {}\n",
    "Python with numpy": "import numpy\nprint('line')\nprint('part', end='')\nwhile True: pass\n",
    "Rust": 'fn main() { println!("line"); print!("part"); loop {} }\n',
}
FOLDERS = {  # prints the home folder and the folder for temporary files, as its library has them
    "Go": """package main
import ("fmt"; "os")
func main() { home, _ := os.UserHomeDir(); fmt.Println(home, os.TempDir()) }
""",
    "Java": """public class Main { public static void main(String[] words) {
    System.out.println(System.getProperty("user.home") + " " + System.getProperty("java.io.tmpdir"));
} }
""",
    "Mono": """using System;
class P { static void Main() {
    Console.WriteLine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile) + " " + System.IO.Path.GetTempPath());
} }
""",
    "Node": "const os = require('os'); console.log(os.homedir(), os.tmpdir())\n",
    "Python with numpy": "import pathlib, tempfile\nprint(pathlib.Path.home(), tempfile.gettempdir())\n",
    "Rust": 'fn main() { println!("{} {}", std::env::var("HOME").unwrap(), std::env::temp_dir().display()); }\n',
}


def given(language: str, of: str) -> Limits:
    """What the page tells to give: the figure before the bracket, in which the least stands that was found."""
    (row,) = [row for row in table(text_of(PAGE), f"to {of}", "`memory_mib`", "`processes`") if row[0] == language]
    memory_mib, processes = (int(re.split(r"\D", cell)[0]) for cell in row[1:3])
    return Limits(memory_mib=memory_mib, processes=processes, workspace_mib=64, **TIMES)


def built(run: Run, name: str, code: str, limits: Limits = AMPLE) -> dict[str, bytes | str]:
    """The files that a program is run from."""
    language = LANGUAGES[name]
    files: dict[str, bytes | str] = {language.source: code}
    if not language.build:
        return files
    result = run(language.build, image=IMAGE, files=files, limits=limits, collect=[language.made])
    assert (result.outcome, result.stderr) == (Outcome.SUCCESS, b""), result
    assert result.archive is not None
    with tarfile.open(fileobj=io.BytesIO(result.archive)) as archive:
        members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in members.items() if file is not None}


def ran(
    run: Run, name: str, code: str, *, limits: Limits = AMPLE, command: str = "", env: dict[str, str] | None = None
) -> JobResult:
    """The result of a program that was built before, and so with ample limits."""
    files = built(run, name, code)
    words = (command or LANGUAGES[name].run).split()
    return run(words, JobInput(stdin="x\n"), image=IMAGE, files=files, limits=limits, env=env)


def test_the_page_has_a_row_for_each_language() -> None:
    assert [row[0] for row in table(text_of(PAGE), "to run", "`memory_mib`", "`processes`")] == sorted(LANGUAGES)
    assert [row[0] for row in table(text_of(PAGE), "to build", "`memory_mib`", "`processes`")] == sorted(COMPILED)


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_program_is_built_and_runs_within_the_limits_that_the_page_tells_to_give(run: Run, name: str) -> None:
    files = built(run, name, ECHO[name], given(name, "build") if name in COMPILED else AMPLE)
    limits = given(name, "run")
    result = run(LANGUAGES[name].run.split(), JobInput(stdin="x\n"), image=IMAGE, files=files, limits=limits)
    assert (result.outcome, result.stdout_text, result.stderr_text) == (Outcome.SUCCESS, "éx\n", ""), result


@pytest.mark.parametrize("name", COMPILED)
def test_a_language_with_a_compiler_is_judged_on_cases(run: Run, name: str) -> None:
    result = run(
        LANGUAGES[name].run.split(),
        image=IMAGE,
        files={LANGUAGES[name].source: ECHO[name]},
        build=LANGUAGES[name].build,
        build_limits=given(name, "build"),
        limits=given(name, "run"),
        cases=[Case("x\n", expected="éx"), Case("1 2\n", expected="é1 2")],
    )
    assert (result.outcome, [case.correct for case in result.cases]) == (Outcome.SUCCESS, [True, True]), result


@pytest.mark.parametrize(("name", "processes"), [("Java", 6), ("Go", 2)])
def test_a_runtime_with_threads_of_its_own_does_not_run_with_few_processes(run: Run, name: str, processes: int) -> None:
    result = ran(run, name, ECHO[name], limits=Limits(memory_mib=512, processes=processes, **TIMES))
    assert (result.outcome, result.limit) == (Outcome.OVERFLOW, "processes"), result


def test_node_waits_for_ever_for_threads_that_it_cannot_start(run: Run) -> None:
    limits = Limits(memory_mib=512, processes=3, wall_time_s=5)
    result = ran(run, "Node", ECHO["Node"], limits=limits)
    assert (result.outcome, result.limit) == (Outcome.TIMEOUT, "wall"), result
    assert "fork_refusals" in [proof.kind for proof in result.evidence]


@pytest.mark.parametrize("name", ["Go", "Mono", "Python with numpy", "Rust"])
def test_a_runtime_without_a_limit_of_its_own_ends_by_the_memory_limit(run: Run, name: str) -> None:
    result = ran(run, name, TAKES_MEMORY[name], limits=Limits(memory_mib=128, **TIMES))
    assert (result.outcome, result.limit, result.stdout) == (Outcome.OVERFLOW, "memory", b"begins\n"), result


def test_java_gives_up_at_its_heap_and_a_larger_heap_than_the_container_is_killed(run: Run) -> None:
    heaps = {}
    for memory_mib in (128, 256, 512, 1024):
        result = ran(run, "Java", TAKES_MEMORY["Java"], limits=Limits(memory_mib=memory_mib, **TIMES))
        assert (result.outcome, result.exit_code, result.limit) == (Outcome.FAILED, 1, None), result
        assert b"java.lang.OutOfMemoryError: Java heap space" in result.stderr
        heaps[memory_mib] = int(result.stdout)
    assert 56 <= heaps[128] <= 64, "half, where a half is less than some 125 MiB"
    assert all(115 <= heaps[memory_mib] <= 128 for memory_mib in (256, 512)), heaps
    assert 240 <= heaps[1024] <= 256, "a quarter"
    limits = Limits(memory_mib=256, **TIMES)
    larger = ran(run, "Java", TAKES_MEMORY["Java"], limits=limits, command="java -XX:MaxRAMPercentage=70 Main")
    assert (larger.outcome, larger.limit) == (Outcome.FAILED, None) and 165 <= int(larger.stdout) <= 180, larger
    too_large = ran(run, "Java", TAKES_MEMORY["Java"], limits=limits, command="java -Xmx512m Main")
    assert (too_large.outcome, too_large.limit) == (Outcome.OVERFLOW, "memory"), too_large


def test_node_gives_up_at_its_heap_and_is_killed_where_that_is_larger_than_the_container(run: Run) -> None:
    limits = Limits(memory_mib=256, **TIMES)
    killed = ran(run, "Node", TAKES_MEMORY["Node"], limits=limits)
    assert (killed.outcome, killed.limit) == (Outcome.OVERFLOW, "memory"), killed
    gives_up = ran(run, "Node", TAKES_MEMORY["Node"], limits=limits, command="node --max-old-space-size=150 main.js")
    assert (gives_up.outcome, gives_up.signal, gives_up.limit) == (Outcome.FAILED, "SIGABRT", None), gives_up
    assert b"JavaScript heap out of memory" in gives_up.stderr


@pytest.mark.parametrize("name", LANGUAGES)
def test_what_a_program_had_printed_before_a_limit(run: Run, name: str) -> None:
    kept = {"C": "", "Python with numpy": "", "Rust": "line\n"}
    result = ran(run, name, SPINS[name], limits=Limits(memory_mib=256, cpu_time_s=1, wall_time_s=50))
    assert (result.outcome, result.stdout_text) == (Outcome.TIMEOUT, kept.get(name, "line\npart")), result


@pytest.mark.parametrize("name", FOLDERS)
def test_where_a_language_has_its_home_and_its_temporary_files(run: Run, name: str) -> None:
    home, temporary = ran(run, name, FOLDERS[name]).stdout_text.split()
    assert (home, temporary.rstrip("/")) == ("/nonexistent" if name == "Java" else "/job", "/tmp")


def test_java_has_its_home_where_it_is_told_to(run: Run) -> None:
    result = ran(run, "Java", FOLDERS["Java"], env={"JAVA_TOOL_OPTIONS": "-Duser.home=/job"})
    assert result.stdout == b"/job /tmp\n"
    assert result.stderr == b"Picked up JAVA_TOOL_OPTIONS: -Duser.home=/job\n"


def test_javac_reads_a_letter_unless_somebody_takes_its_locale(run: Run) -> None:
    command = "javac Main.java && java Main"
    files = {"Main.java": ECHO["Java"]}
    with_it = run(command, JobInput(stdin="x"), image=IMAGE, files=files, limits=AMPLE)
    assert (with_it.stdout_text, with_it.stderr) == ("éx\n", b""), with_it
    without = run(command, JobInput(stdin="x"), image=IMAGE, files=files, limits=AMPLE, env={"LANG": "C"})
    assert without.outcome is Outcome.FAILED
    assert b"unmappable character" in without.stderr


def test_java_sees_the_cores_that_it_may_use_and_go_sees_those_of_the_host(run: Run) -> None:
    java = """public class Main { public static void main(String[] words) {
    System.out.print(Runtime.getRuntime().availableProcessors());
} }
"""
    go = 'package main\nimport ("fmt"; "runtime")\nfunc main() { fmt.Print(runtime.GOMAXPROCS(0), " ", runtime.NumCPU()) }\n'
    assert ran(run, "Java", java).stdout == b"1"
    threads, cores = map(int, ran(run, "Go", go).stdout.split())
    assert threads == cores
    assert ran(run, "Go", go, env={"GOMAXPROCS": "1"}).stdout.split() == [b"1", str(cores).encode()]
