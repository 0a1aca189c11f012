"""The report phase: tells the report server which tests a submission passed; of one that was not tested, none."""

import json
from pathlib import Path
from urllib.request import Request, urlopen

report = Path("/volumes/report/tests.json")
tests = json.loads(report.read_text())["tests"] if report.exists() else []
body = json.dumps({"submission": input(), "tests": {test["name"]: test["passed"] for test in tests}})
token = Path(".jobmanager/secrets/report-token").read_text()
urlopen(Request("http://reports:8000/", body.encode(), {"Authorization": f"Bearer {token}"}), timeout=10).close()
