# expect: failed, wrong answer
# Grades itself with a result file. The demo only compares the printed answer.
import json
import os

os.makedirs(".jobmanager", exist_ok=True)
with open(".jobmanager/result.json", "w") as result:
    json.dump({"grade": 100, "text": "all tests passed"}, result)
print("all tests passed")
