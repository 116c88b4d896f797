"""The house rules that an import linter cannot see, read off the source.

`python -m tests.test_layout` lists the longest files and functions: where to look for a noun
that is hiding.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import palyra_actors

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "palyra_actors"
TESTS = ROOT / "tests"
PURE = ("domain", "wire", "ids.py", "errors.py", "limits.py")

IMPURE_MODULES = {
    "apsw", "asyncio", "concurrent", "fcntl", "getpass", "glob", "io", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "pykka", "queue", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess",
    "tempfile", "threading", "time", "uuid", "zmq",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "eval", "exec", "breakpoint"}

SQL = re.compile(
    r"\b(SELECT\s.*\bFROM|SELECT\s+[\w*]+\s*\(|INSERT\s+(OR\s+\w+\s+)?INTO|REPLACE\s+INTO|"
    r"UPDATE\s+\w+\s+SET|DELETE\s+FROM|"
    r"(CREATE|DROP|ALTER)\s+(UNIQUE\s+|TEMP\s+|VIRTUAL\s+)?(TABLE|INDEX|VIEW|TRIGGER)|"
    r"PRAGMA\s+\w+|VACUUM|BEGIN\s+(IMMEDIATE|EXCLUSIVE|DEFERRED)|SAVEPOINT\s+\w+)\b",
    re.IGNORECASE | re.DOTALL,
)
SQL_THE_WRITER_DOES = re.compile(
    r"\bAUTOINCREMENT\b|\bCURRENT_(TIMESTAMP|TIME|DATE)\b|\b(strftime|datetime|unixepoch|julianday|"
    r"random|randomblob)\s*\(|'now'|\bSELECT\s+(\w+\.)?\*",
    re.IGNORECASE,
)
# Written in pieces, so that this page does not hold what it looks for.
PRIVATE = re.compile(
    "|".join(
        (
            r"(?<![\w.])/" + r"work\b",
            r"\.\./" + r"shared\b",
            r"/tmp/" + r"[vp]\b",
            "(?-i:PROMISES" + r"\.md)",
            "(?-i:PROTOCOL" + r"\.md)",
            "(?-i:ARCHITECTURE" + r"\.md)",
            "palyra-" + "facts",
            r"\bwork" + r"place\b",
            r"\bC" + r"EO\b",
            r"\bclau" + r"de\b",
            r"\banth" + r"ropic\b",
        )
    ),
    re.IGNORECASE,
)
SKIPPED_FOLDERS = {".git", "build", "dist", "node_modules"}
FUNCTION_LINES, FILE_LINES = 70, 400


def sources(*folders: Path) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def place(file: Path, node: ast.AST) -> str:
    return f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def pure_files() -> list[Path]:
    found = [PACKAGE / name for name in PURE]
    return [one for path in found for one in ([path] if path.is_file() else sources(path))]


def imported(module: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module or ""


def docstrings(module: ast.Module) -> set[ast.AST]:
    """Every string that stands alone as a statement."""
    return {node.value for node in ast.walk(module) if isinstance(node, ast.Expr)}


def own_text_files() -> Iterator[Path]:
    """Everything a clone holds, without what tools leave behind."""
    endings = {
        ".py", ".pyi", ".c", ".toml", ".md", ".sql", ".txt", ".json", ".yml", ".yaml", ".cfg",
        ".sh", "",
    }  # fmt: skip
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        skipped = any(part in SKIPPED_FOLDERS or part.endswith(".egg-info") for part in parts)
        if not hidden and not skipped and path.is_file() and path.suffix in endings:
            yield path


def functions(file: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def lengths() -> tuple[list[str], list[str]]:
    """Files and functions beyond the guideline, longest first, as `lines place`."""
    files, bodies = [], []
    for file in sources(PACKAGE, TESTS):
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            files.append((lines, str(file.relative_to(ROOT))))
        bodies += [
            (size, f"{place(file, node)} {node.name}")
            for node, size in functions(file)
            if size > FUNCTION_LINES
        ]
    return tuple([f"{n:5} {what}" for n, what in sorted(x, reverse=True)] for x in (files, bodies))  # type: ignore[return-value]


def test_the_pure_floors_import_no_clock_no_disk_no_socket_and_no_thread() -> None:
    wrong = [
        f"{place(file, node)} imports {name}"
        for file in pure_files()
        for node, name in imported(tree(file))
        if name.split(".")[0] in IMPURE_MODULES
    ]
    assert wrong == []


def test_the_pure_floors_open_print_and_evaluate_nothing() -> None:
    wrong = [
        f"{place(file, node)} calls {node.func.id}"
        for file in pure_files()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in IMPURE_CALLS
    ]
    assert wrong == []


def test_names_come_from_the_module_that_defines_them_and_not_from_the_package_root() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir()} | {"__version__"}
    wrong = [
        f"{place(file, node)} takes {alias.name} from the root"
        for file in sources(PACKAGE)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ImportFrom) and node.module == "palyra_actors"
        for alias in node.names
        if alias.name not in rooms
    ]
    assert wrong == []


def loaded_by(modules: Iterable[str]) -> set[str]:
    """The top-level names in `sys.modules` of a fresh interpreter that imported these."""
    code = f"import sys\nimport {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.split(".")[0] for name in done.stdout.split()} | set(done.stdout.split())


def test_importing_the_package_root_loads_nothing_else_of_it() -> None:
    loaded = {name for name in loaded_by(["palyra_actors"]) if name.startswith("palyra_actors")}
    assert loaded == {"palyra_actors"}


def test_importing_the_domain_loads_no_io_library() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sources(PACKAGE / "domain")
    ]
    assert loaded_by(modules) & {"apsw", "zmq", "pykka", "sqlite3", "structlog", "typer"} == set()


def test_there_is_no_sql_outside_the_storage() -> None:
    found = []
    for file in sources(PACKAGE):
        if file.relative_to(PACKAGE).parts[0] in ("storage", "testing"):
            continue
        module = tree(file)
        prose = docstrings(module)
        found += [
            f"{place(file, node)} {node.value[:60]!r}"
            for node in ast.walk(module)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in prose
            and SQL.search(node.value)
        ]
    assert found == []


def strings(*folders: Path) -> set[str]:
    return {
        node.value
        for folder in folders
        for file in sources(folder)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_sql_file_lies_in_the_storage() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.sql")}
    assert folders == {PACKAGE / "storage" / "sql"}


def test_every_named_statement_is_used() -> None:
    named = [
        name
        for file in sorted((PACKAGE / "storage" / "sql").glob("*.sql"))
        for name in re.findall(r"^-- name: ([\w.]+)$", file.read_text("utf-8"), re.MULTILINE)
    ]
    own = {name for name in named if "." not in name}
    families = set(named) - own
    assert sorted(own - strings(PACKAGE / "storage")) == []
    users = [PACKAGE / "storage", PACKAGE / "domain", PACKAGE / "actors"]
    assert sorted(families - strings(*users)) == []


def test_positions_times_and_chance_come_from_the_writer_and_columns_are_listed() -> None:
    found = [
        f"{file.name}: {match.group(0)}"
        for file in sorted(PACKAGE.rglob("*.sql"))
        for match in SQL_THE_WRITER_DOES.finditer(
            re.sub(r"--[^\n]*", "", file.read_text(encoding="utf-8"))
        )
    ]
    assert found == []


def test_the_architecture_page_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = page[page.index("The rooms, each") : page.index("Imports go down")]
    named: dict[str, set[str]] = {}
    for line in rooms.splitlines():
        if opened := re.match(r"    (\w+)/ ", line):
            folder = named.setdefault(opened[1], set())
        if line.startswith("    "):
            folder |= set(re.findall(r"\w+", line[15:]))
    assert set(named) == {"domain", "wire", "storage", "runtime", "embedding", "actors", "api"}
    missing = [
        f"{name}/{path.stem}"
        for name, words in named.items()
        for path in sorted((PACKAGE / name).glob("*.py"))
        if path.stem not in {"__init__", *words}
    ]
    assert missing == []


def test_no_test_sleeps() -> None:
    found = []
    for file in sources(TESTS):
        for node in ast.walk(tree(file)):
            named = isinstance(node, ast.ImportFrom) and node.module == "time"
            if named and any(alias.name == "sleep" for alias in node.names):  # type: ignore[attr-defined]
                found.append(place(file, node))
            if isinstance(node, ast.Attribute) and node.attr == "sleep":
                found.append(place(file, node))
    assert found == []


def test_a_test_is_named_by_a_sentence() -> None:
    short = [
        f"{place(file, node)} {node.name}"
        for file in sources(TESTS)
        for node, _ in functions(file)
        if node.name.startswith("test_") and len(node.name.split("_")) < 4
    ]
    assert short == []


def test_no_file_and_no_function_is_twice_as_long_as_the_guideline() -> None:
    files, bodies = lengths()
    assert [one for one in files if int(one.split()[0]) > 2 * FILE_LINES] == []
    assert [one for one in bodies if int(one.split()[0]) > 2 * FUNCTION_LINES] == []


def test_nothing_names_the_place_where_it_was_written() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number} {match.group(0)}"
        for file in own_text_files()
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        for match in PRIVATE.finditer(line)
    ]
    assert found == []


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == palyra_actors.__version__
    assert f"## [{palyra_actors.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name
)
def test_every_link_in_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = page.read_text("utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (heading and heading not in headings(file)):
            broken.append(target)
    assert broken == []


def headings(file: Path) -> set[str]:
    """The anchors of a Markdown page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


if __name__ == "__main__":
    for listing in lengths():
        sys.stdout.write("\n".join([*listing, "", ""]))
