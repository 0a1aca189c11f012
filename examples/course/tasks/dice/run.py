"""The answer depends on the submitter's own numbers; this grader is written for INGInious's module."""

import json

from inginious_container_api import feedback, input, run_student

numbers = input.get_input("@random")
with open("student/line.py", "w") as program:
    program.write(f"mine = {json.dumps(numbers)}\n{input.get_input('sides')}\n")

stdout, stderr, code = run_student.run_student_simple("python3 student/line.py")

right = " ".join(str(int(number * 6) + 1) for number in numbers)
if code == 0 and stdout.split() == right.split():
    feedback.set_global_result("success")
    feedback.set_global_feedback("these are your sides")
else:
    feedback.set_global_result("failed")
    feedback.set_global_feedback("these are not your sides")
    feedback.set_custom_value("numbers", numbers)
