def brevity(completion: str) -> float:
    return -len(completion) / 1000
