"""Make the table of `reliability.md` again: run the tests that inject faults, and count what they say they tried.

    python docs/reliability.py [--slow]
    python docs/reliability.py REPORT.xml ...     # of tests that were run already: pytest --junitxml REPORT.xml

A test names the fault and the number of cases with `record_property`; a test that fails survives none of its cases.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"


def main() -> None:
    """Run the tests, unless there are reports, and put the table in place."""
    reports = [argument for argument in sys.argv[1:] if argument.endswith(".xml")]
    if reports:
        _put(_table([ElementTree.parse(report).getroot() for report in reports]))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        marks = ["-m", ""] if "--slow" in sys.argv else []
        files = sorted(
            str(path) for path in (ROOT / "tests").glob("test_*.py") if 'record_property("fault"' in path.read_text()
        )
        subprocess.run([sys.executable, "-m", "pytest", "-q", *marks, "--junitxml", str(report), *files], cwd=ROOT)
        _put(_table([ElementTree.parse(report).getroot()]))


def _put(table: str) -> None:
    page = ROOT / "docs" / "reliability.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.partition(END)[2]}")
    print(table)


def _table(reports: list[ElementTree.Element]) -> str:
    tried, survived = Counter[str](), Counter[str]()
    for case in (case for report in reports for case in report.iter("testcase")):
        properties = {one.get("name"): one.get("value", "") for one in case.iter("property")}
        if "fault" not in properties or case.find("skipped") is not None:
            continue
        cases, fault = int(properties.get("cases", "1")), properties["fault"]
        tried[fault] += cases
        survived[fault] += cases if case.find("failure") is None and case.find("error") is None else 0
    rows = [f"| {fault} | {tried[fault]:,} | {survived[fault]:,} |" for fault in sorted(tried)]
    return "\n".join(["| fault | cases | survived |", "| --- | ---: | ---: |", *rows, ""])


if __name__ == "__main__":
    main()
