"""The answer after a hash sign: the reward of the bundled tasks `sort` and `count`."""


def after_hash(completion: str, answer: str) -> float:
    """1.0 if what stands after the last `#` of the completion is exactly `answer`, else 0.0.

    "7;37;379;1379#1379" earns 1.0 for the answer "1379". Nothing may follow it, not even a space, and without a `#`
    nothing is earned. What stands before the `#` is the policy's own business and is not looked at.
    """
    _, hash_sign, given = completion.rpartition("#")
    return float(bool(hash_sign) and given == str(answer))
