"""Loading rules while the caller does something else: they are compiled in a child, which takes a while."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from sensor.rules.ruleset import Ruleset, load


class Loading:
    """Begins at once. `result` waits, and raises what `ruleset.load` raised."""

    def __init__(
        self,
        paths: Sequence[str],
        cache_dir: str,
        keep_going: bool,
        placeholders: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._arguments = (paths, cache_dir, keep_going, placeholders)
        self._ruleset: Ruleset | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._load, name="rules", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        try:
            self._ruleset = load(*self._arguments)
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Ruleset:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._ruleset is not None
        return self._ruleset
