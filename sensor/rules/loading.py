"""Loading rules while the caller does something else: they are compiled in a child, which takes a while."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sensor.rules.engine import Engine
from sensor.rules.ruleset import Ruleset, load, without_prose
from sensor.rules.setting import Placeholders


class Loading:
    """Begins at once, and makes the engine too. `result` and `engine` wait, and raise what `ruleset.load` raised."""

    def __init__(
        self,
        paths: Sequence[str],
        cache_dir: str,
        keep_going: bool,
        placeholders: Placeholders | None = None,
    ) -> None:
        self._arguments = (paths, cache_dir, keep_going, placeholders)
        self._made: tuple[Ruleset, Engine] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._load, name="rules", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        try:
            ruleset = without_prose(load(*self._arguments))
            self._made = ruleset, Engine(ruleset)
        except BaseException as error:  # raised again where the result is asked for
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Ruleset:
        return self._waited()[0]

    def engine(self) -> Engine:
        return self._waited()[1]

    def _waited(self) -> tuple[Ruleset, Engine]:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._made is not None
        return self._made
