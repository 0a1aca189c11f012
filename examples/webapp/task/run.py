"""The grader of the app's task. What it prints is for staff; what it tells the submitter is for the student's page, too."""

import jobmanager_grading as grading

TESTS = [("1 2", "3"), ("-5 5", "0"), ("123456789 987654321", "1111111110")]  # hidden: only this container has them

passed = 0
with grading.open_submission(memory_mib=64) as submission:
    for number, (given, expected) in enumerate(TESTS, 1):
        end = submission.run(["python3", "student/main.py"], stdin=given + "\n", cpu_time_s=2)
        is_right = end.outcome == "success" and end.stdout.split() == [expected.encode()]
        passed += is_right
        print(f"test {number}: {given!r} gave {end.stdout!r}, expected {expected!r} ({end.outcome})", flush=True)
        grading.tell_submitter("test {} of {}: {}".format(number, len(TESTS), "passed" if is_right else "not passed"))

grading.set_result("success" if passed == len(TESTS) else "failed")
grading.set_grade(100 * passed / len(TESTS))
grading.set_feedback(f"{passed} of {len(TESTS)} tests passed")
