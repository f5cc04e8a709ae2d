"""What rules may ask of an activity beyond its attributes: computed when asked for, never kept and never logged."""

from __future__ import annotations

ARGUMENTS = 32  # positions of argv that a rule may name
COMM_BYTES = 15  # what the kernel keeps of a program's name


class Derived:
    """Mixed into Activity. Text, and "" for what is not there, as everywhere."""

    __slots__ = ()

    @property
    def ImageName(self) -> str:
        """The program's path without its folders."""
        return str(getattr(self, "Image", "")).rpartition("/")[2]

    @property
    def ParentImageName(self) -> str:
        return str(getattr(self, "ParentImage", "")).rpartition("/")[2]

    @property
    def Comm(self) -> str:
        """The name as the kernel has it: cut, and of a script that runs, the script's."""
        path = getattr(self, "ImageInvoked", "") or getattr(self, "Image", "")
        return str(path).rpartition("/")[2].encode("utf-8", "replace")[:COMM_BYTES].decode("utf-8", "replace")

    @property
    def ArgvText(self) -> str:
        """All arguments, a NUL before, between and behind them: one of them is looked for as NUL, text, NUL."""
        argv = bytes(getattr(self, "argv", b""))
        return "\0" + argv.decode("utf-8", "replace").removesuffix("\0") + "\0" if argv else ""


def _argument(number: int) -> property:
    def of_argv(self: object) -> str:
        parts = bytes(getattr(self, "argv", b"")).split(b"\0", number + 1)
        return parts[number].decode("utf-8", "replace") if number < len(parts) else ""

    return property(of_argv, doc=f"Argument {number} of the program, its name being 0.")


def _call_argument(number: int) -> property:
    def of_call(self: object) -> str:
        parts = str(getattr(self, "Arguments", "")).split(" ", number + 1)
        return parts[number] if number < len(parts) else ""

    return property(of_call, doc=f"Argument {number} of a system call, hexadecimal.")


for _number in range(ARGUMENTS):
    setattr(Derived, f"Argument{_number}", _argument(_number))
for _number in range(4):
    setattr(Derived, f"CallArgument{_number}", _call_argument(_number))

DERIVED = frozenset(name for name, of in vars(Derived).items() if isinstance(of, property))
