"""Results of the last calls, kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """The `size` results used last; a key must hold all that its result depends on."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def get(
        self,
        key: Hashable,
        compute: Callable[[], T],
        is_valid: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """Return the key's result; compute it if it is absent or no longer valid."""
        result = self.find(key)
        return self.keep(key, compute()) if result is None or not is_valid(result) else result

    def __reduce__(self) -> tuple[type[Memo[T]], tuple[int]]:
        return type(self), (self._size,)  # other processes start without results

    def find(self, key: Hashable) -> T | None:
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def keep(self, key: Hashable, result: T) -> T:
        with self._lock:
            self._results[key] = result
            self._results.move_to_end(key)
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        return result
