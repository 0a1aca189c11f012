"""The grammar of the fake engine's small shell: a script's text becomes nodes. ``shell`` runs them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

# A word is made of parts: (kind, text, quoted). Kinds: text, var (name or name:-default), cmd ($(...)), sum ($((...))).
Part = tuple[str, str, bool]
Word = tuple[Part, ...]


class ShellSyntaxError(Exception):
    """A script that this small shell cannot read."""


@dataclass(frozen=True)
class Redirect:
    fd: int
    operator: str  # > >> < >&
    target: Word


@dataclass(frozen=True)
class Simple:
    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True)
class PipelineNode:
    commands: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    command: Node


@dataclass(frozen=True)
class AndOr:
    left: Node
    operator: str
    right: Node


@dataclass(frozen=True)
class Sequence:
    commands: tuple[Node, ...]


@dataclass(frozen=True)
class LoopNode:
    until: bool
    condition: Node
    body: Node


@dataclass(frozen=True)
class Each:
    name: str
    words: tuple[Word, ...]
    body: Node


@dataclass(frozen=True)
class If:
    condition: Node
    then: Node
    otherwise: Node | None


@dataclass(frozen=True)
class GroupNode:
    body: Node
    subshell: bool
    redirects: tuple[Redirect, ...]


Node = Union[Simple, PipelineNode, Not, AndOr, Sequence, LoopNode, Each, If, GroupNode]
Token = tuple[str, Union[str, Word]]  # ("op", text) or ("word", parts)

_BLANK = re.compile(r"(?:[ \t]|\\\n)+|#[^\n]*")
_OPERATOR = re.compile(r"\d?>>|\d?>&|\d?>|\d?<<|\d?<|&&|\|\||;;|[;|&()\n]")
_BARE = re.compile(r"[^\s'\"\\$`;&|<>()]+")
_IN_QUOTES = re.compile(r'[^"\\$`]+')
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9?$#@*!]")
_BRACED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|[0-9?$#@*])(:-([^}]*))?\}")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_CLOSERS = frozenset(("do", "done", "then", "else", "elif", "fi", "}", "esac"))


@lru_cache(maxsize=1024)
def parse(script: str) -> Node:
    """The script as nodes; raises ShellSyntaxError."""
    parser = _Parser(tokens(script))
    node = parser.sequence()
    parser.expect_end()
    return node


def tokens(script: str) -> list[Token]:
    """Operators and words."""
    lexer = _Lexer(script)
    found: list[Token] = []
    while True:
        token = lexer.next()
        if token is None:
            return found
        found.append(token)


def literal(word: Word) -> str | None:
    """A word that stands there unquoted, such as ``done``; None for any other."""
    return word[0][1] if len(word) == 1 and word[0][0] == "text" and not word[0][2] else None


class _Lexer:
    def __init__(self, script: str) -> None:
        self._script = script
        self._at = 0

    def next(self) -> Token | None:
        while found := _BLANK.match(self._script, self._at):
            self._at = found.end()
        if self._at >= len(self._script):
            return None
        if found := _OPERATOR.match(self._script, self._at):
            self._at = found.end()
            return ("op", found.group())
        return ("word", self._word())

    def _word(self) -> Word:
        parts: list[Part] = []
        while self._at < len(self._script):
            here = self._script[self._at]
            if here == "'":
                parts.append(("text", self._until("'"), True))
            elif here == '"':
                self._double_quoted(parts)
            elif here == "\\":
                parts.append(("text", self._script[self._at + 1 : self._at + 2], True))
                self._at += 2
            elif here == "$":
                parts.append(self._dollar(quoted=False))
            elif found := _BARE.match(self._script, self._at):
                parts.append(("text", found.group(), False))
                self._at = found.end()
            elif here == "`":
                raise ShellSyntaxError("the fake engine's shell knows no backquotes: write $(...)")
            else:
                break
        return tuple(parts)

    def _until(self, quote: str) -> str:
        end = self._script.find(quote, self._at + 1)
        if end < 0:
            raise ShellSyntaxError("unterminated quoted string")
        text = self._script[self._at + 1 : end]
        self._at = end + 1
        return text

    def _double_quoted(self, parts: list[Part]) -> None:
        self._at += 1
        parts.append(("text", "", True))
        while True:
            here = self._script[self._at : self._at + 1]
            if not here:
                raise ShellSyntaxError("unterminated quoted string")
            if here == '"':
                self._at += 1
                return
            if here == "$":
                parts.append(self._dollar(quoted=True))
            elif here == "\\":
                after = self._script[self._at + 1 : self._at + 2]
                parts.append(("text", {"\n": ""}.get(after, after if after in '"\\$`' else "\\" + after), True))
                self._at += 2
            elif found := _IN_QUOTES.match(self._script, self._at):
                parts.append(("text", found.group(), True))
                self._at = found.end()
            else:
                raise ShellSyntaxError("the fake engine's shell knows no backquotes: write $(...)")

    def _dollar(self, *, quoted: bool) -> Part:
        self._at += 1
        if self._script.startswith("((", self._at):
            end = self._script.find("))", self._at)
            if end < 0:
                raise ShellSyntaxError('missing "))"')
            text = self._script[self._at + 2 : end]
            self._at = end + 2
            return ("sum", text, quoted)
        if self._script.startswith("(", self._at):
            return ("cmd", self._inside_parentheses(), quoted)
        if found := _BRACED.match(self._script, self._at):
            self._at = found.end()
            return ("var", found.group(1) + (found.group(2) or ""), quoted)
        if found := _NAME.match(self._script, self._at):
            self._at = found.end()
            return ("var", found.group(), quoted)
        if self._script.startswith("{", self._at):
            raise ShellSyntaxError("bad substitution")
        return ("text", "$", True)

    def _inside_parentheses(self) -> str:
        begin = self._at + 1
        self._at = begin
        depth = 1
        while depth:
            token = self.next()
            if token is None:
                raise ShellSyntaxError('unexpected end of file (expecting ")")')
            depth += int(token == ("op", "(")) - int(token == ("op", ")"))
        return self._script[begin : self._at - 1]


class _Parser:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._at = 0

    def expect_end(self) -> None:
        if self._at < len(self._tokens):
            raise self._unexpected()

    def sequence(self) -> Node:
        commands: list[Node] = []
        while True:
            while self._op(";", "\n"):
                pass
            if self._at >= len(self._tokens) or self._closes():
                return commands[0] if len(commands) == 1 else Sequence(tuple(commands))
            commands.append(self._and_or())
            if self._peek_op() == "&":
                raise ShellSyntaxError("the fake engine's shell knows no background jobs")
            if not self._op(";", "\n") and not (self._at >= len(self._tokens) or self._closes()):
                raise self._unexpected()

    def _and_or(self) -> Node:
        left = self._pipeline()
        while operator := self._op("&&", "||"):
            while self._op("\n"):
                pass
            left = AndOr(left, operator, self._pipeline())
        return left

    def _pipeline(self) -> Node:
        if self._keyword("!"):
            return Not(self._pipeline())
        commands = [self._command()]
        while self._op("|"):
            while self._op("\n"):
                pass
            commands.append(self._command())
        return commands[0] if len(commands) == 1 else PipelineNode(tuple(commands))

    def _command(self) -> Node:
        if self._op("("):
            body = self.sequence()
            if not self._op(")"):
                raise self._unexpected()
            return GroupNode(body, True, self._redirects())
        if self._keyword("{"):
            body = self.sequence()
            self._need("}")
            return GroupNode(body, False, self._redirects())
        if self._keyword("while"):
            return self._with_redirects(self._loop(until=False))
        if self._keyword("until"):
            return self._with_redirects(self._loop(until=True))
        if self._keyword("for"):
            return self._with_redirects(self._each())
        if self._keyword("if"):
            return self._with_redirects(self._if())
        return self._simple()

    def _loop(self, *, until: bool) -> Node:
        condition = self.sequence()
        return LoopNode(until, condition, self._do())

    def _do(self) -> Node:
        self._need("do")
        body = self.sequence()
        self._need("done")
        return body

    def _each(self) -> Node:
        name = literal(self._word() or ()) or ""
        words: list[Word] = []
        if self._keyword("in"):
            while (word := self._word()) is not None:
                words.append(word)
        while self._op(";", "\n"):
            pass
        return Each(name, tuple(words), self._do())

    def _if(self) -> Node:
        condition = self.sequence()
        self._need("then")
        then = self.sequence()
        if self._keyword("elif"):
            return If(condition, then, self._if())
        otherwise = self.sequence() if self._keyword("else") else None
        self._need("fi")
        return If(condition, then, otherwise)

    def _with_redirects(self, node: Node) -> Node:
        redirects = self._redirects()
        return GroupNode(node, False, redirects) if redirects else node

    def _redirects(self) -> tuple[Redirect, ...]:
        found = []
        while (redirect := self._redirect()) is not None:
            found.append(redirect)
        return tuple(found)

    def _redirect(self) -> Redirect | None:
        operator = self._peek_op()
        if operator is None or operator.lstrip("0123456789")[:1] not in ("<", ">"):
            return None
        self._at += 1
        bare = operator.lstrip("0123456789")
        if bare == "<<":
            raise ShellSyntaxError("the fake engine's shell knows no here-documents")
        target = self._word()
        if target is None:
            raise self._unexpected()
        digits = operator[: len(operator) - len(bare)]
        return Redirect(int(digits) if digits else int(bare[0] == ">"), bare, target)

    def _simple(self) -> Node:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            redirect = self._redirect()
            if redirect is not None:
                redirects.append(redirect)
                continue
            word = self._word()
            if word is None:
                break
            assignment = None if words else _assignment(word)
            if assignment is not None:
                assignments.append(assignment)
            else:
                words.append(word)
        if not (assignments or words or redirects):
            raise self._unexpected()
        if self._peek_op() == "(":
            raise ShellSyntaxError("the fake engine's shell knows no functions")
        return Simple(tuple(assignments), tuple(words), tuple(redirects))

    def _word(self) -> Word | None:
        if self._at < len(self._tokens) and self._tokens[self._at][0] == "word":
            word = self._tokens[self._at][1]
            assert not isinstance(word, str)
            self._at += 1
            return word
        return None

    def _keyword(self, text: str) -> bool:
        if self._peek_literal() != text:
            return False
        self._at += 1
        return True

    def _need(self, text: str) -> None:
        if not self._keyword(text):
            raise self._unexpected(text)

    def _op(self, *texts: str) -> str | None:
        found = self._peek_op()
        if found not in texts:
            return None
        self._at += 1
        return found

    def _closes(self) -> bool:
        return self._peek_op() == ")" or self._peek_literal() in _CLOSERS

    def _peek_op(self) -> str | None:
        if self._at < len(self._tokens):
            kind, value = self._tokens[self._at]
            if kind == "op":
                return str(value)
        return None

    def _peek_literal(self) -> str | None:
        if self._at < len(self._tokens):
            value = self._tokens[self._at][1]
            if not isinstance(value, str):
                return literal(value)
        return None

    def _unexpected(self, wanted: str = "") -> ShellSyntaxError:
        hint = f' (expecting "{wanted}")' if wanted else ""
        if self._at >= len(self._tokens):
            return ShellSyntaxError(f"unexpected end of file{hint}")
        value = self._tokens[self._at][1]
        text = value if isinstance(value, str) else "".join(part[1] for part in value)
        text = "newline" if text == "\n" else f'"{text}"'
        return ShellSyntaxError(f"unexpected {text}{hint}")


def _assignment(word: Word) -> tuple[str, Word] | None:
    kind, text, quoted = word[0] if word else ("", "", False)
    found = _ASSIGNMENT.match(text) if kind == "text" and not quoted else None
    if found is None:
        return None
    rest = text[found.end() :]
    return found.group(1), ((("text", rest, False),) if rest else ()) + word[1:]
