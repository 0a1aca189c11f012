# The program's report comes back to the caller, right or wrong.

getinput program:value > student/program.py
cd student
run_student --time 1 python3 program.py < ../words > /dev/null 2> errors

if [ ! -f report.csv ]; then
    feedback-result failed
    feedback-msg -m "there is no report.csv: $(tail -n 1 errors)"
    exit
fi
archive -a report.csv
if cmp -s report.csv ../expected.csv; then
    feedback-result success
    feedback-msg -m "the report is right"
else
    feedback-result failed
    feedback-grade 50
    feedback-msg -m "the report is wrong"
fi
