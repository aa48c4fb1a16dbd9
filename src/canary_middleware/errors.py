"""
The errors, each named for who must act: the developer, the caller, or the operator.
"""


class CanaryError(Exception):
    """Base of every error of this package; catching it catches nothing else."""


class ConfigError(CanaryError, ValueError):
    """The developer must change the plan, the environment or the code; raised at start, never on a request."""


class NoAssignment(CanaryError, LookupError):
    """The developer called ``current()`` or a ``handlers()`` pair where no canary middleware has run."""


class StaleRevision(CanaryError):
    """Somebody else changed the rollout first; the caller must read it again and decide anew."""


class TransitionRefused(CanaryError):
    """The caller asked for a change that the rollout's phase does not allow; the message says what would."""


class LeaseLost(CanaryError):
    """Somebody else holds the lease that the change was made under (automation stops; the new holder decides)."""


class StoreUnavailable(CanaryError):
    """The operator must bring the store back; the original error is ``__cause__``."""
