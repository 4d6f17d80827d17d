"""What :func:`batchline.run` raises: one class for each exit code of the program that is a failure.

Exit code 6 (finished, but some requests ended as error or missing) is no exception: those replies have an ``error``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._replies import Replies


class Error(Exception):
    """The run cannot go on. The same call resumes it once the cause is gone."""

    #: The program's exit code; ``None`` if it was not started, negative if a signal ended it.
    exit_code: int | None
    #: What to do about it.
    hint: str | None

    def __init__(self, message: str, *, exit_code: int | None = None, hint: str | None = None) -> None:
        super().__init__(f"{message}\nhint: {hint}" if hint else message)
        self.exit_code = exit_code
        self.hint = hint


class InputError(Error, ValueError):
    """The rows cannot be turned into requests. Nothing was sent."""


class InternalError(Error):
    """A fault of the program (1)."""


class UsageError(Error, ValueError):
    """An option that does not exist or does not fit, an input without rows or that cannot be read (2)."""


class ConfigurationError(Error):
    """A setting or the key is missing or wrong (3)."""


class DefectError(InputError):
    """Lines of the input are not valid requests; nothing was sent (4)."""

    #: The defects, of which the program reports the first hundred: ``file``, ``line``, ``code``, ``message`` and more.
    defects: Sequence[Mapping[str, Any]]

    _SHOWN = 5

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        hint: str | None = None,
        defects: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        lines = [f"line {defect.get('line')}: {defect.get('message')}" for defect in defects[: self._SHOWN]]
        super().__init__("\n".join([message, *lines]), exit_code=exit_code, hint=hint)
        self.defects = defects


class ProviderError(Error):
    """The provider refused or could not be reached (5)."""


class HeldError(Error):
    """Some requests are on hold until you decide: whether they were accepted, or answered, is unknown (7)."""

    #: What there is so far: held requests have an ``error`` with the code ``held``.
    replies: Replies | None

    def __init__(
        self,
        message: str,
        *,
        exit_code: int | None = None,
        hint: str | None = None,
        replies: Replies | None = None,
    ) -> None:
        super().__init__(message, exit_code=exit_code, hint=hint)
        self.replies = replies


class LocalStateError(Error):
    """The run directory is damaged or its disk is full (8)."""


class LockedError(Error):
    """Another process is using this run (9)."""


class Interrupted(KeyboardInterrupt):
    """The run was interrupted; the same call resumes it (130, 143)."""

    #: The run directory, as far as it is known.
    directory: str | None

    def __init__(self, directory: str | None = None) -> None:
        where = f" (run directory {directory})" if directory else ""
        super().__init__(f"interrupted; call run() again with the same rows to resume{where}")
        self.directory = directory


#: The class for an exit code; any other is an :class:`InternalError`.
BY_EXIT_CODE: Mapping[int, type[Error]] = {
    2: UsageError,
    3: ConfigurationError,
    4: DefectError,
    5: ProviderError,
    7: HeldError,
    8: LocalStateError,
    9: LockedError,
}
