"""Every error that areal raises on purpose.

ArealError                  shown to the user without a traceback
├── ConfigError             a configuration that cannot run: names the file, the key and what was wanted (exit code 2)
├── ModelError              a model that is missing, or that does not fit the configuration
├── BrokerError
│   ├── BrokerUnavailable   Redis did not answer within its deadline
│   ├── CodecError          bytes that are no valid message
│   ├── Fenced              a learner of an older epoch tried to issue, acknowledge, publish or save
│   └── TooManyDeadLetters  so many prompts have failed that something must be wrong with all
├── EngineError             the engine refused a request
│   └── EngineDied          the engine is gone, and every request in it
├── RewardError             a reward raised, timed out or crashed: a failure, never a score
├── TrainingError           a loss or gradient that is not finite, or a batch that no longer fits the model
├── ProcessDied             a role's process ended by itself, without an error of these
├── NodeLost                the node that a role was on is gone
├── RoleDied                a role ended because another one had, without which it cannot go on
└── DeadlineExceeded        a wait that ended without what it awaited

It stands in the lowest package so that every other one may raise from it.
"""


class ArealError(Exception):
    """Base of all errors meant for the user; the message says what was seen, what was wanted and what to change."""


class ConfigError(ArealError):
    """The configuration is wrong."""


class ModelError(ArealError):
    """A model is missing or does not fit."""


class BrokerError(ArealError):
    """The broker refused or failed."""


class BrokerUnavailable(BrokerError):
    """Redis cannot be reached, or has refused what may pass for the whole deadline."""


class CodecError(BrokerError):
    """A message is malformed."""


class Fenced(BrokerError):
    """The caller's epoch is over: another learner has taken its place."""


class TooManyDeadLetters(BrokerError):
    """Prompt after prompt has failed."""


class EngineError(ArealError):
    """The engine refused."""


class EngineDied(EngineError):
    """The engine is gone."""


class RewardError(ArealError):
    """A reward failed; its call may be tried again."""


class TrainingError(ArealError):
    """An optimiser step cannot be taken."""


class ProcessDied(ArealError):
    """A role's process ended by itself."""


class NodeLost(ArealError):
    """The node of a role is gone, and the role with it."""


class RoleDied(ArealError):
    """Another role is gone, without which this one cannot go on."""


class DeadlineExceeded(ArealError):
    """A deadline passed."""
