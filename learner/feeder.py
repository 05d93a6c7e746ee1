"""Issues prompts, just so many that no answer can grow staler than allowed."""

from ..broker.lane import Lane
from ..broker.trajectory import Prompt
from .dataset import Dataset
from .source import GroupSource


class Feeder:
    """Keeps `prompts not completed + groups not trained ≤ (η + 1)·B`, read off the queues each time.

    After i steps of B groups that is N ≤ (i + η + 1)·B prompts in all, the bound of AReaL (arXiv 2505.24298, section
    4), without a counter that could drift: what was filtered or dead-lettered leaves the queues, and is replaced.
    """

    def __init__(
        self, lane: Lane, dataset: Dataset, source: GroupSource, *, max_outstanding: int, group_size: int, epoch: int
    ) -> None:
        self._lane = lane
        self._dataset = dataset
        self._source = source
        self._max_outstanding = max_outstanding
        self._group_size = group_size
        self._epoch = epoch

    def top_up(self, *, version: int, needed: int) -> int:
        """Issue prompts for weights of `version` or newer, as far as the bound and the `needed` groups allow.

        Returns how many. Raises Fenced.
        """
        depth = self._lane.depth()
        outstanding = depth.prompts + depth.groups - self._source.num_settled
        room = min(self._max_outstanding, needed) - outstanding
        prompts = [
            Prompt(position, version, self._group_size, self._dataset.train_row(position))
            for position in range(depth.issued, depth.issued + room)
        ]
        self._lane.issue(prompts, epoch=self._epoch)
        return len(prompts)
