"""The grader's commands. All of them start this module, which goes by the name that it was started with."""

import argparse
import os
import sys

from . import answer, inputs
from .errors import BadValue, GradingError
from .text import cleaned, from_standard_input, unescaped

USAGE = 2
NOT_STARTED = 251  # a student container could not be started; 2 may be its program's own code


def main() -> "NoReturn":
    """Run the command that this process was started as; ends the process."""
    name = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser(prog=name, formatter_class=_help_formatter)
    declare, run = COMMANDS[name]
    declare(parser)
    try:
        code = run(parser.parse_args())
        sys.stdout.flush()
    except GradingError as error:
        code = _complain(name, str(error), error.exit_code)
    except OSError as error:
        code = _complain(name, error.strerror or str(error), NOT_STARTED if run is _run_student else USAGE)
    sys.exit(code or 0)


def _help_formatter(prog: "str") -> "argparse.HelpFormatter":
    """A formatter with a fixed width: to find it out, argparse imports modules that take as long as all the rest."""
    return argparse.HelpFormatter(prog, width=100)


def _complain(name: "str", reason: "str", code: "int") -> "int":
    sys.stderr.write("{}: {}\n".format(name, cleaned(reason).encode("ascii", "backslashreplace").decode("ascii")))
    return code


# ---- what the job brought


def _declare_getinput(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("problem", help="a problem's id, ID:filename, ID:value, or a note such as @random")


def _getinput(args: "argparse.Namespace") -> "None":
    sys.stdout.buffer.write(inputs.shown(cleaned(args.problem)))


def _declare_parsetemplate(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-o", "--output", default="", help="the file to write; the template itself by default")
    parser.add_argument("input", help="the template")


def _parsetemplate(args: "argparse.Namespace") -> "None":
    from .templates import parse_template

    parse_template(args.input, args.output)


# ---- the answer


def _declare_result(parser: "argparse.ArgumentParser") -> "None":
    _declare_problem(parser)
    parser.add_argument("result", help="one of " + ", ".join(answer.RESULTS))


def _declare_problem(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-i", "--id", default="", help="a problem's id; the whole task by default")


def _result(args: "argparse.Namespace") -> "None":
    answer.set_result(args.result, args.id)


def _declare_grade(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("grade", help="a number from 0 to 100, or up to 200")


def _grade(args: "argparse.Namespace") -> "None":
    answer.set_grade(args.grade)


def _declare_message(parser: "argparse.ArgumentParser") -> "None":
    _declare_problem(parser)
    parser.add_argument("-a", "--append", action="store_true", help="add to the feedback instead of replacing it")
    _declare_escape(parser)
    parser.add_argument("-m", "--message", default="", help="the text; standard input by default")


def _declare_escape(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-e", "--escape", action="store_true", help="interpret backslash escapes")


def _text_of(given: "str", escape: "bool") -> "str":
    text = given or from_standard_input()
    return unescaped(text) if escape else text


def _message(args: "argparse.Namespace") -> "None":
    answer.set_feedback(_text_of(args.message, args.escape), args.id, args.append)


def _declare_template_message(parser: "argparse.ArgumentParser") -> "None":
    _declare_problem(parser)
    parser.add_argument("-a", "--append", action="store_true", help="add to the feedback instead of replacing it")
    parser.add_argument("template", help="the template's file without .tpl")
    parser.add_argument("options", nargs="*", help="NAME=VALUE: what the template's {{ NAME }} stands for")


def _template_message(args: "argparse.Namespace") -> "None":
    from .templates import feedback_of

    pairs = [option.partition("=") for option in args.options]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise BadValue(f"an option is NAME=VALUE, not {wrong[0]!r}")
    answer.set_feedback(feedback_of(args.template, {name: value for name, _, value in pairs}), args.id, args.append)


def _declare_custom(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-j", "--json", action="store_true", help="the value is JSON")
    parser.add_argument("key")
    parser.add_argument("value")


def _custom(args: "argparse.Namespace") -> "None":
    answer.set_custom(args.key, _from_json(args.value) if args.json else _number_or_text(args.value))


def _from_json(text: "str") -> "object":
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise BadValue(f"{text[:100]!r} is not JSON: {error}") from None


def _number_or_text(text: "str") -> "object":
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if number - number == 0 else text  # infinity and the like are texts
    return text


def _declare_value(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("value")


def _state(args: "argparse.Namespace") -> "None":
    answer.set_state(args.value)


def _tag(args: "argparse.Namespace") -> "None":
    answer.add_tag(args.value)


def _declare_tag_value(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("tag")
    parser.add_argument("value")


def _tag_set(args: "argparse.Namespace") -> "None":
    answer.set_tag(args.tag, args.value in ("true", "True"))


def _definetest(args: "argparse.Namespace") -> "None":
    answer.set_test(args.tag, args.value)


def _declare_feedback(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-r", "--result", default="", help="as of feedback-result")
    parser.add_argument("-g", "--grade", default="", help="as of feedback-grade")
    parser.add_argument("-f", "--feedback", default="", help="the text")
    _declare_problem(parser)
    _declare_escape(parser)
    parser.add_argument("-p", "--print", action="store_true", help="print the answer so far, as JSON")
    parser.add_argument("-c", "--custom", default="", help="NAME:VALUE, as of feedback-custom")
    parser.add_argument("-j", "--custom-json", default="", help="NAME:JSON")


def _feedback(args: "argparse.Namespace") -> "None":
    if args.result:
        answer.set_result(args.result, args.id)
    if args.grade:
        answer.set_grade(args.grade)
    if args.feedback:
        answer.set_feedback(_text_of(args.feedback, args.escape), args.id)
    name, _, value = (args.custom_json or args.custom).partition(":")
    if name:
        answer.set_custom(name, _from_json(value) if args.custom_json else _number_or_text(value))
    if getattr(args, "print"):  # noqa: B009 - a keyword in some versions of Python
        import json

        from inginious_container_api.feedback import get_feedback

        sys.stdout.write(json.dumps(get_feedback()) + "\n")


# ---- files


def _declare_archive(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-a", "--add", default="", help="a file to give back to the caller")
    parser.add_argument("-r", "--remove", default="", help="a file to take out of the archive again")
    parser.add_argument("-s", "--subdir", default="", help="the folder in the archive")


def _archive(args: "argparse.Namespace") -> "None":
    from .files import archive, unarchive

    if not args.add and not args.remove:
        raise BadValue("name a file: archive -a FILE")
    if args.add:
        archive(args.add, args.subdir)
    if args.remove:
        unarchive(args.remove, args.subdir)


# ---- reStructuredText


def _declare_rst_code(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-l", "--language", default="", help="for highlighting")
    _declare_escape(parser)
    parser.add_argument("-c", "--code", default="", help="the program text; standard input by default")


def _rst_code(args: "argparse.Namespace") -> "None":
    from .rst import code_block

    _print(code_block(args.language, _text_of(args.code, args.escape)))


def _declare_rst_image(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-f", "--format", default="", help="such as png; the file's extension by default")
    parser.add_argument("filename")


def _rst_image(args: "argparse.Namespace") -> "None":
    from .rst import image_block

    _print(image_block(args.filename, args.format))


def _declare_rst_indent(parser: "argparse.ArgumentParser") -> "None":
    _declare_escape(parser)
    parser.add_argument("-c", "--indent-char", default="\t", help="a tab by default")
    parser.add_argument("-a", "--amount", type=int, default=1, help="negative: to the left")
    parser.add_argument("-m", "--message", default="", help="the text; standard input by default")


def _rst_indent(args: "argparse.Namespace") -> "None":
    from .rst import indented

    _print(indented(args.amount, _text_of(args.message, args.escape), args.indent_char))


def _declare_rst_msgblock(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("-c", "--class", dest="kind", default="", help="success, info, warning or danger")
    _declare_escape(parser)
    parser.add_argument("-t", "--title", default="")
    parser.add_argument("-m", "--message", default="", help="the text; standard input by default")


def _rst_msgblock(args: "argparse.Namespace") -> "None":
    from .rst import message_block

    _print(message_block(args.kind, args.title, _text_of(args.message, args.escape)))


def _print(text: "str") -> "None":
    sys.stdout.buffer.write(cleaned(text + "\n").encode("utf-8"))


# ---- students


def _declare_run_student(parser: "argparse.ArgumentParser") -> "None":
    named = "an environment, or the name of a student_container; the task's own by default"
    parser.add_argument("--container", default="", help=named)
    parser.add_argument("--time", type=float, default=0, help="CPU seconds")
    parser.add_argument("--hard-time", type=float, default=0, help="seconds")
    parser.add_argument("--memory", type=int, default=0, help="MiB")
    parser.add_argument("--share-network", action="store_true", help="use the student network that the task opens")
    parser.add_argument("--run-as-root", action="store_true", help="refused: no program is root here")
    parser.add_argument("--teardown-script", default="", help="a command that is run after it")
    parser.add_argument("cmd", nargs=argparse.REMAINDER, help="the command; its words are joined and split again, without a shell")
    parser.error = lambda message: sys.exit(_complain(parser.prog, message, NOT_STARTED))  # type: ignore[method-assign]


def _run_student(args: "argparse.Namespace") -> "int":
    import signal

    from . import student

    if args.run_as_root:
        return student.end_the_job("run_student --run-as-root: no program is root here").exit_code
    asked = student.request(
        " ".join(args.cmd[1:] if args.cmd[:1] == ["--"] else args.cmd),
        environment=args.container,
        cpu_time_s=args.time,
        wall_time_s=args.hard_time,
        memory_mib=args.memory,
        share_network=args.share_network,
        teardown=args.teardown_script,
    )
    killer = student.Killer()
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, killer)
    end = student.carry_student(asked, 0, 1, 2, killer)
    if end.text and end.exit_code in (student.NOT_STARTED, student.CUT_OFF):
        _complain("run_student", end.text, end.exit_code)
    return end.exit_code


def _declare_student_container(parser: "argparse.ArgumentParser") -> "None":
    parser.add_argument("--environment", default="", help="the task's own by default")
    parser.add_argument("--memory", type=int, default=0, help="MiB")
    parser.add_argument("--share-network", action="store_true", help="use the student network that the task opens")
    parser.add_argument("--close", action="store_true", help="it is needed no more")
    parser.add_argument("name", help="for run_student --container")


def _student_container(args: "argparse.Namespace") -> "None":
    from . import student

    if args.close:
        student.close_container(args.name)
    else:
        student.open_container(args.name, args.environment, args.memory, args.share_network)


def _declare_tell_submitter(parser: "argparse.ArgumentParser") -> "None":
    _declare_escape(parser)
    parser.add_argument("-m", "--message", default="", help="the text; standard input by default")


def _tell_submitter(args: "argparse.Namespace") -> "None":
    from . import student

    student.tell_submitter(_text_of(args.message, args.escape))


def _declare_ssh_student(parser: "argparse.ArgumentParser") -> "None":
    for option in ("--container", "--time", "--hard-time", "--memory", "--setup-script", "--teardown-script"):
        parser.add_argument(option)
    parser.add_argument("--run-as-root", action="store_true")
    parser.error = lambda message: sys.exit(_ssh_student(message))  # type: ignore[method-assign]


def _ssh_student(_: "object") -> "int":
    from . import student

    return student.end_the_job("ssh_student: there are no sessions in student containers").exit_code


COMMANDS = {
    "archive": (_declare_archive, _archive),
    "definetest": (_declare_tag_value, _definetest),
    "feedback": (_declare_feedback, _feedback),
    "feedback-custom": (_declare_custom, _custom),
    "feedback-grade": (_declare_grade, _grade),
    "feedback-msg": (_declare_message, _message),
    "feedback-msg-tpl": (_declare_template_message, _template_message),
    "feedback-result": (_declare_result, _result),
    "feedback-state": (_declare_value, _state),
    "getinput": (_declare_getinput, _getinput),
    "parsetemplate": (_declare_parsetemplate, _parsetemplate),
    "rst-code": (_declare_rst_code, _rst_code),
    "rst-image": (_declare_rst_image, _rst_image),
    "rst-indent": (_declare_rst_indent, _rst_indent),
    "rst-msgblock": (_declare_rst_msgblock, _rst_msgblock),
    "run_student": (_declare_run_student, _run_student),
    "ssh_student": (_declare_ssh_student, _ssh_student),
    "student_container": (_declare_student_container, _student_container),
    "tag": (_declare_value, _tag),
    "tag-set": (_declare_tag_value, _tag_set),
    "tell_submitter": (_declare_tell_submitter, _tell_submitter),
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn
