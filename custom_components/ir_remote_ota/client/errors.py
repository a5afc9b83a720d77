"""What can go wrong between a client and the server."""

from typing import Any


class ReflashError(Exception):
    """The server said no, or what came back is not its answer.

    `type` is the last part of the problem's kind (`not-enrolled` of `urn:reflash:problem:not-enrolled`), for programs;
    `detail` and `next_step` are sentences, for people.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        type: str | None = None,  # noqa: A002 - the name in RFC 9457
        next_step: str | None = None,
        problem: dict[str, Any] | None = None,
    ) -> None:
        """Keep what the server said."""
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.type = type
        self.next_step = next_step
        self.problem: dict[str, Any] = problem or {}

    @classmethod
    def from_problem(cls, status: int, problem: dict[str, Any]) -> ReflashError:
        """Read a problem document (RFC 9457)."""
        kind = problem.get("type")
        next_step = problem.get("next_step")
        error = ReflashAuthError if status == 401 else ReflashError
        return error(
            str(problem.get("detail") or problem.get("title") or f"the server answers with {status}"),
            status=status,
            type=kind.rpartition(":")[2] if isinstance(kind, str) else None,
            next_step=next_step if isinstance(next_step, str) else None,
            problem=problem,
        )


class ReflashAuthError(ReflashError):
    """The token is missing, wrong or revoked."""


class ReflashUnreachable(ReflashError):  # noqa: N818 - it reads as what is the case
    """Nobody answers, or not in time."""
