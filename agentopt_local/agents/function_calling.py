"""The dialect of the paper's "GPT-4+ agent": calls in the model's own tool format, and Python in fenced blocks."""

from __future__ import annotations

from agentopt_local import prompts
from agentopt_local.agents.answers import FORMS, read_answer
from agentopt_local.agents.config import AgentConfig
from agentopt_local.agents.dialect import Act, Answering, Turn, code_in, spoken
from agentopt_local.chat import Constraint, Message, ToolCall
from agentopt_local.functions import FunctionSet

# A thought ends with its line: prose that runs into a backtick would have to go on as a block of code. No counted
# repetitions here: beside the forms of a call they grow llguidance's lexer beyond its limit; tokens are the limit.
THOUGHT_PATTERN = r"([^<`\n]+\n)?"
# White space may follow a fence: tokenizers have one token for a backtick and a line break, and models want it there.
CODE_PATTERN = r"```python\n([^`]|`[^`]|``[^`])*\n```\n?"
NO_FIT_PATTERN = r"No function fits\.\n"
"""Before its first act an agent with functions says that none fits, or calls one: small models overlook them."""
REPEATED = "You have done exactly this before. Now give the final answer as {opening}your answer{closing}."
NUDGE = "Call a function, run a ```python block, or give the final answer as {opening}your answer{closing}."


class FunctionCallingDialect:
    """Turns that call functions, run code, or answer between the marks of ``config.answer_form``."""

    offers_tools = True

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.form = FORMS[config.answer_form]
        self.repeated = self._filled(REPEATED)
        self.nudge = self._filled(NUDGE)

    def _filled(self, text: str) -> str:
        return text.format(opening=self.form.opening, closing=self.form.closing)

    def system(self, functions: FunctionSet) -> str:
        """The system prompt; the functions are offered as tools, so it does not list them."""
        prompt = "agent_system_functions" if functions.functions else "agent_system"
        return prompts.fill(prompt, opening=self.form.opening, closing=self.form.closing)

    def constraint(self, functions: FunctionSet, answering: Answering) -> Constraint:
        """One line of thought at most, then a call, a block of code, or the answer."""
        if answering == "required":
            return Constraint(kind="regex", value=self.form.pattern)
        no_fit = NO_FIT_PATTERN if functions.functions and answering == "forbidden" else ""
        forms = [no_fit + CODE_PATTERN] if self.config.interpreter else []
        if answering == "allowed":
            forms.append(self.form.pattern)
        think = self.config.think
        return Constraint(
            kind="turn",
            value=(THOUGHT_PATTERN if think else "") + f"({'|'.join(forms)})",
            max_thought_sentences=3 if think else 0,
        )

    def read(self, message: Message, functions: FunctionSet) -> Turn:
        """Calls come first, then code, then the answer."""
        message = spoken(message)
        if message.tool_calls:
            return Turn(message=message, acts=message.tool_calls)
        code = code_in(message.content) if self.config.interpreter else None
        if code:
            return Turn(message=message, acts=(code,))
        return Turn(message=message, answer=read_answer(message.content))

    def observation(self, act: Act, result: str) -> Message:
        """A tool message for a call, the user's next message for code."""
        if isinstance(act, ToolCall):
            return Message(role="tool", content=result)
        return Message(role="user", content=f"Output of the code:\n{result}")
