"""Calls the function in a student container. Its results and the choice are judged here, where the right answers are."""

import json

import jobmanager_grading as grading

CASES = {"nothing": [], "one": [3], "several": [1, 2, 3], "negative": [-4, 4], "large": [10**9, 10**9]}
RIGHT_CHOICE, TOLD = "1", {"0": "A longer list takes longer.", "2": "Each number is looked at once."}

with open("student/program.py", "w") as program:
    program.write(grading.get_input("program"))

end = grading.run_student("python3 student/call.py", stdin=json.dumps(list(CASES.values())), cpu_time_s=1)

try:
    said = json.loads(end.stdout.splitlines()[-1])  # the last printed line: it may be anything
except (IndexError, ValueError, RecursionError):
    said = None
answers = said if isinstance(said, list) and len(said) == len(CASES) else [None] * len(CASES)
right = {name: answer == sum(n * n for n in case) for (name, case), answer in zip(CASES.items(), answers, strict=True)}
passed = sum(right.values())
choice = str(grading.get_input("growth"))
chose_right = choice == RIGHT_CHOICE

for name, is_right in right.items():
    grading.set_test(name, is_right)
if end.outcome in ("timeout", "overflow"):
    grading.set_result(end.outcome)
elif passed == len(CASES) and chose_right:
    grading.set_result("success")
else:
    grading.set_result("failed")
    grading.set_grade(100 * (passed + chose_right) / (len(CASES) + 1))
grading.set_feedback(f"{passed} of {len(CASES)} lists were added up right")
grading.set_result("success" if chose_right else "failed", "growth")
grading.set_feedback(TOLD.get(choice, ""), "growth")
if end.stderr:
    grading.set_feedback(end.stderr.decode(errors="replace").splitlines()[-1], "program")
